"""A run whose client leaves ends its programs, and nothing else."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.services import AGENT, AUDIO
from broker.ipc import agent, worker
from broker.ipc.control.api import RunInputRequest, RunRequest
from broker.viewer.runner import Runner
from tests.broker.viewer.test_role import refuses, viewer
from tests.kit.audit.paper import hello
from tests.kit.control import EXCHANGE, exchange
from tests.kit.link.roles import LEASE
from tests.kit.world import record


class Machines:
    """A host with one machine, and a client that runs things there."""

    def __init__(self, stand):
        self.stand = stand
        self.started = 0
        self.running = None
        self.asked = trio.Event()
        self.runner = Runner(
            host=self,
            viewer=stand.role,
            log=stand.log,
            records=lambda: stand.authority.records,
            reload=stand.authority.reload,
            running=self._runs,
        )

    def _runs(self, name):
        self.asked.set()
        return self.running

    async def start(self, name, *, progress, changes):
        self.started += 1
        self.changes = changes
        await self.stand.role.lease_begun(LEASE)
        return LEASE

    async def run(self, scope, **more):
        async def ignore(item):
            await trio.lowlevel.checkpoint()

        request = RunRequest(record="a", argv=["foot"], window=False, wait=True, **more)
        with scope:
            await self.runner.run(exchange(ignore), request)

    def signals(self):
        (one,) = self.stand.workers.opened
        orders = [m.message for m in one.orders if isinstance(m, worker.ToAgent)]
        return [(m.program, m.number) for m in orders if isinstance(m, agent.Signal)]


async def boot(machines, streams):
    """Let the guest's agent come; returns its connection and its worker."""
    while machines.stand.role.guest(LEASE.id) is None:
        await wait_all_tasks_blocked()
    conn = await machines.stand.offer(streams, AGENT)
    (one,) = machines.stand.workers.opened
    await one.say.send(hello())
    await wait_all_tasks_blocked()
    return conn, one


async def asked_for(one, *programs):
    """Wait until the guest has been asked for these programs."""
    with trio.fail_after(60):
        while True:
            orders = [m.message for m in one.orders if isinstance(m, worker.ToAgent)]
            if set(programs) <= {m.program for m in orders if isinstance(m, agent.Run)}:
                return
            await wait_all_tasks_blocked()


async def test_the_machine_that_it_started_goes():
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent"))
        machines, scope = Machines(s), trio.CancelScope()
        streams.start_soon(machines.run, scope)
        conn, one = await boot(machines, streams)
        await asked_for(one, 1)
        await one.say.send(worker.FromAgent(1, agent.AgentStarted(1)))
        await wait_all_tasks_blocked()
        assert s.host.stopped == []
        scope.cancel()
        with trio.fail_after(60):
            await s.host.asked.wait()
        ((lease, _, reason),) = s.host.stopped
        assert (lease, reason) == (
            LEASE.id,
            "the command that started it was interrupted",
        )
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_machine_that_boots_for_it_goes():
    async with viewer() as s, trio.open_nursery() as streams:
        machines, scope = Machines(s), trio.CancelScope()
        streams.start_soon(machines.run, scope)
        while s.role.guest(LEASE.id) is None:
            await wait_all_tasks_blocked()
        scope.cancel()
        with trio.fail_after(60):
            await s.host.asked.wait()
        await s.role.lease_ended(LEASE.id, "over")


async def test_in_a_sandbox_that_ran_before_its_program_alone_ends():
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        machines, scope = Machines(s), trio.CancelScope()
        machines.running = LEASE
        conn, one = await boot(machines, streams)
        streams.start_soon(machines.run, trio.CancelScope())
        await wait_all_tasks_blocked()
        streams.start_soon(machines.run, scope)
        with trio.fail_after(60):
            await asked_for(one, 1, 2)
            for number in (1, 2):
                await one.say.send(worker.FromAgent(1, agent.AgentStarted(number)))
            scope.cancel()
            while not machines.signals():
                await wait_all_tasks_blocked()
            assert machines.signals() == [(2, 15)]
            # It does not end by itself, so it is killed after a while.
            while len(machines.signals()) < 2:
                await trio.sleep(0.05)
        assert machines.signals() == [(2, 15), (2, 9)]
        assert s.host.stopped == []
        assert [p.number for p in s.role.guest(LEASE.id).programs.live()] == [1, 2]
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_run_right_after_the_lease_waits_for_the_guest():
    """As when virt-manager's button has just been pressed."""
    async with viewer() as s, trio.open_nursery() as streams:
        machines, scope = Machines(s), trio.CancelScope()
        machines.running = LEASE
        streams.start_soon(machines.run, scope)
        await machines.asked.wait()
        await s.role.lease_begun(LEASE)
        conn, one = await boot(machines, streams)
        await asked_for(one, 1)
        assert machines.started == 0
        scope.cancel()
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_run_whose_machine_ends_before_it_has_a_guest_says_so():
    async with viewer() as s, trio.open_nursery() as streams:
        machines = Machines(s)
        machines.running = LEASE

        async def refused():
            with pytest.raises(UpstreamError, match="ended while it was starting"):
                await machines.run(trio.CancelScope())

        streams.start_soon(refused)
        await machines.asked.wait()
        machines.running = None


async def test_other_programs_keep_a_machine_that_it_started():
    async with viewer() as s, trio.open_nursery() as streams:
        machines, scope = Machines(s), trio.CancelScope()
        streams.start_soon(machines.run, scope)
        conn, one = await boot(machines, streams)
        machines.running = LEASE
        streams.start_soon(machines.run, trio.CancelScope())
        with trio.fail_after(60):
            await asked_for(one, 1, 2)
            for number in (1, 2):
                await one.say.send(worker.FromAgent(1, agent.AgentStarted(number)))
            await wait_all_tasks_blocked()
            scope.cancel()
            while not machines.signals():
                await wait_all_tasks_blocked()
            await one.say.send(worker.FromAgent(1, agent.AgentExited(1, -15)))
            await wait_all_tasks_blocked()
        assert machines.signals()[0] == (1, 15)
        assert s.host.stopped == []
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_window_that_the_record_refuses_is_refused_before_anything_starts():
    async with viewer() as s:
        s.write("a", record("persistent", display="none"))
        machines = Machines(s)

        async def ignore(item):
            await trio.lowlevel.checkpoint()

        request = RunRequest(record="a", argv=["foot"])
        with pytest.raises(RefusedError, match=r'no window: .* display = "none"') as no:
            await machines.runner.run(exchange(ignore), request)
        assert no.value.where.endswith("a.toml:2:1")
        assert "--no-window" in no.value.hint
        assert machines.started == 0


async def test_refusals_during_a_run_are_shown_to_its_caller():
    """Sound here: the program runs on, and the terminal shows the record's line."""
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent"))
        machines, items, over = Machines(s), [], trio.Event()

        async def take(item):
            await trio.lowlevel.checkpoint()
            items.append(item)

        async def run():
            request = RunRequest(record="a", argv=["mpv"], window=False, wait=True)
            await machines.runner.run(exchange(take), request)
            over.set()

        streams.start_soon(run)
        conn, one = await boot(machines, streams)
        await asked_for(one, 1)
        await one.say.send(worker.FromAgent(1, agent.AgentStarted(1)))
        while not s.role.guest(LEASE.id).programs.refusal_listeners:
            await wait_all_tasks_blocked()
        for _ in range(3):
            with refuses('has audio = "none"'):
                await s.offer(streams, AUDIO, stream=2)

        def told():
            steps = [item.progress for item in items if item.progress]
            return [(p.step, p.detail) for p in steps if p.state == "failed"]

        with trio.fail_after(60):
            while not told():
                await wait_all_tasks_blocked()
        ((service, reason),) = told()
        assert service == AUDIO
        assert "a.toml" in reason
        assert 'audio = "none"' in reason
        await one.say.send(worker.FromAgent(1, agent.AgentExited(1, 0)))
        with trio.fail_after(60):
            await over.wait()
        assert s.role.guest(LEASE.id).programs.refusal_listeners == []
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_input_waits_for_a_program_that_does_not_read():
    """No more than a window is sent ahead, whatever the guest claims to have taken."""
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent"))
        machines = Machines(s)
        streams.start_soon(partial(machines.run, trio.CancelScope(), stdin=True))
        conn, one = await boot(machines, streams)
        await asked_for(one, 1)
        await one.say.send(worker.FromAgent(1, agent.AgentStarted(1)))

        def sent():
            orders = [m.message for m in one.orders if isinstance(m, worker.ToAgent)]
            return sum(len(m.data) for m in orders if isinstance(m, agent.Input))

        size = 4 * limits.AGENT_INPUT_WINDOW
        request = RunInputRequest(sandbox="a", program=1, data=bytes(size))
        over = trio.Event()

        async def write():
            await machines.runner.write_input(EXCHANGE, request)
            over.set()

        streams.start_soon(write)
        await wait_all_tasks_blocked()
        assert sent() == limits.AGENT_INPUT_WINDOW
        # It was sent one window: to have taken three of them is a lie.
        for _ in range(3):
            taken = agent.Taken(1, limits.AGENT_INPUT_WINDOW)
            await one.say.send(worker.FromAgent(1, taken))
        await wait_all_tasks_blocked()
        assert sent() <= 4 * limits.AGENT_INPUT_WINDOW
        with trio.fail_after(60):
            while not over.is_set():
                await one.say.send(worker.FromAgent(1, agent.Taken(1, 8192)))
                await wait_all_tasks_blocked()
        assert sent() == size
        with pytest.raises(RefusedError, match="no program 2 is running"):
            await machines.runner.write_input(
                EXCHANGE, RunInputRequest(sandbox="a", program=2, data=b"x")
            )
        await s.role.lease_ended(LEASE.id, "over")
        with pytest.raises(RefusedError):
            await machines.runner.write_input(EXCHANGE, request)
        conn.close()


async def test_an_agent_that_knows_no_input_is_not_sent_any():
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent"))
        machines = Machines(s)
        failed = []

        async def run():
            async def ignore(item):
                await trio.lowlevel.checkpoint()

            request = RunRequest(
                record="a", argv=["cat"], window=False, wait=True, stdin=True
            )
            try:
                await machines.runner.run(exchange(ignore), request)
            except UpstreamError as error:
                failed.append(str(error))

        streams.start_soon(run)
        while s.role.guest(LEASE.id) is None:
            await wait_all_tasks_blocked()
        conn = await s.offer(streams, AGENT)
        (one,) = s.workers.opened
        old = agent.AgentHello(agent.INPUT_VERSION - 1, "0.8", "6.1")
        await one.say.send(worker.FromAgent(1, old))
        with trio.fail_after(60):
            while not failed:
                await wait_all_tasks_blocked()
        assert "too old to support standard input" in failed[0]
        orders = [m.message for m in one.orders if isinstance(m, worker.ToAgent)]
        assert not any(isinstance(m, agent.Run) for m in orders)
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_detached_it_returns_when_a_window_is_on_the_screen():
    """Not when the compositor has answered: an application may start for long."""
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent"))
        machines, items, started = Machines(s), [], trio.Event()

        async def take(item):
            await trio.lowlevel.checkpoint()
            items.append(item)

        async def run():
            request = RunRequest(record="a", argv=["firefox-esr"])
            await machines.runner.run(exchange(take), request)
            started.set()

        streams.start_soon(run)
        conn, one = await boot(machines, streams)
        await asked_for(one, 1)
        await one.say.send(worker.FromAgent(1, agent.AgentStarted(1)))
        await one.say.send(worker.WaylandOpened(1))
        await one.say.send(worker.WaylandAnswered(1))
        with trio.fail_after(60):
            while not any(
                i.progress.detail == "firefox-esr is starting" for i in items
            ):
                await wait_all_tasks_blocked()
        assert not started.is_set()
        await one.say.send(worker.WindowMapped())
        with trio.fail_after(60):
            await started.wait()
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_second_program_changes_no_machine():
    async with viewer() as s:
        await s.role.lease_begun(LEASE)
        machines = Machines(s)
        machines.running = LEASE
        with pytest.raises(RefusedError, match="is already running"):
            await machines.run(trio.CancelScope(), memory_mib=256)
        with pytest.raises(RefusedError, match="is not a network"):
            await machines.run(trio.CancelScope(), network="all")
        assert machines.started == 0
        await s.role.lease_ended(LEASE.id, "over")
