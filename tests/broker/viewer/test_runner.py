"""A run whose client leaves ends what it has started, and nothing else."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.control.api import RunRequest
from broker.core.errors import RefusedError
from broker.core.services import AGENT, AUDIO
from broker.ipc import agent, worker
from broker.viewer.runner import Runner
from tests.broker.viewer.test_role import refuses, viewer
from tests.kit.audit.paper import hello
from tests.kit.link.roles import LEASE
from tests.kit.world import record


class Machines:
    """A host with one machine, and a client that runs things there."""

    def __init__(self, stand):
        self.stand = stand
        self.started = 0
        self.running = None
        self.runner = Runner(
            host=self,
            viewer=stand.role,
            log=stand.log,
            records=stand.role._records,
            reload=stand.role.reload,
            running=lambda name: self.running,
        )

    async def start(self, name, *, progress):
        self.started += 1
        await self.stand.role.lease_begun(LEASE)
        return LEASE

    async def run(self, scope, **more):
        async def ignore(item):
            await trio.lowlevel.checkpoint()

        request = RunRequest(record="a", argv=["foot"], window=False, wait=True, **more)
        with scope:
            await self.runner.run(request, ignore)

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


async def test_the_machine_that_it_started_goes():
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent"))
        machines, scope = Machines(s), trio.CancelScope()
        streams.start_soon(machines.run, scope)
        conn, one = await boot(machines, streams)
        await one.say.send(worker.FromAgent(1, agent.Started(1)))
        await wait_all_tasks_blocked()
        assert s.host.stopped == []
        scope.cancel()
        with trio.fail_after(10):
            await s.host.asked.wait()
        ((lease, _, reason),) = s.host.stopped
        assert (lease, reason) == (LEASE.id, "the run that started it was interrupted")
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_machine_that_boots_for_it_goes():
    async with viewer() as s, trio.open_nursery() as streams:
        machines, scope = Machines(s), trio.CancelScope()
        streams.start_soon(machines.run, scope)
        while s.role.guest(LEASE.id) is None:
            await wait_all_tasks_blocked()
        scope.cancel()
        with trio.fail_after(10):
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
        with trio.fail_after(10):
            while len(s.role.guest(LEASE.id).programs.live()) < 2:
                await wait_all_tasks_blocked()
            for number in (1, 2):
                await one.say.send(worker.FromAgent(1, agent.Started(number)))
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


async def test_other_programs_keep_a_machine_that_it_started():
    async with viewer() as s, trio.open_nursery() as streams:
        machines, scope = Machines(s), trio.CancelScope()
        streams.start_soon(machines.run, scope)
        conn, one = await boot(machines, streams)
        machines.running = LEASE
        streams.start_soon(machines.run, trio.CancelScope())
        with trio.fail_after(10):
            while len(s.role.guest(LEASE.id).programs.live()) < 2:
                await wait_all_tasks_blocked()
            for number in (1, 2):
                await one.say.send(worker.FromAgent(1, agent.Started(number)))
            await wait_all_tasks_blocked()
            scope.cancel()
            while not machines.signals():
                await wait_all_tasks_blocked()
            await one.say.send(worker.FromAgent(1, agent.Exited(1, -15)))
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
            await machines.runner.run(request, ignore)
        assert no.value.where.endswith("a.toml:2:1")
        assert "--no-window" in no.value.hint
        assert machines.started == 0


async def test_what_is_refused_meanwhile_is_told_to_who_attends():
    """Sound here: the program runs on, and the terminal shows the record's line."""
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent"))
        machines, items = Machines(s), []

        async def take(item):
            await trio.lowlevel.checkpoint()
            items.append(item)

        async def run():
            request = RunRequest(record="a", argv=["mpv"], window=False, wait=True)
            await machines.runner.run(request, take)

        streams.start_soon(run)
        conn, one = await boot(machines, streams)
        await one.say.send(worker.FromAgent(1, agent.Started(1)))
        await wait_all_tasks_blocked()
        for _ in range(3):
            with refuses('has audio = "none"'):
                await s.offer(streams, AUDIO, stream=2)

        def told():
            steps = [item.progress for item in items if item.progress]
            return [(p.step, p.detail) for p in steps if p.state == "failed"]

        with trio.fail_after(10):
            while not told():
                await wait_all_tasks_blocked()
        ((service, reason),) = told()
        assert service == AUDIO
        assert "a.toml" in reason
        assert 'audio = "none"' in reason
        await one.say.send(worker.FromAgent(1, agent.Exited(1, 0)))
        with trio.fail_after(10):
            while not items[-1:] or s.role.guest(LEASE.id).programs.live():
                await wait_all_tasks_blocked()
        assert s.role.guest(LEASE.id).programs.refusal_listeners == []
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()
