"""A guest's tasks: what a worker that was taken over may cost, and ends that meet."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.language.notices import in_users_language
from broker.core.lease import Opening
from broker.core.services import AGENT, DISPLAY
from broker.ipc import agent, worker
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.viewer.clipboard.clipboard_member import ClipboardMember
from broker.viewer.sandboxes import guest as guests
from broker.viewer.sandboxes import time_zone as time_zones
from broker.viewer.sandboxes.dependencies import GuestTools
from broker.viewer.sandboxes.guest import Guest
from policy.tools.record_files import parse_record
from tests.kit.audit.paper import PaperWorkers, hello
from tests.kit.eventually import eventually
from tests.kit.link.roles import LEASE, journal, pair
from tests.kit.threads import no_threads
from tests.kit.workers import compositor_at
from tests.kit.world import record


class NoSession:
    """A session that has no font for the names in frames, nor anything else."""

    def __init__(self):
        self.orders = []

    async def carry_out(self, _row, order, *, warrant=b""):
        self.orders.append(order)
        raise SetupError(f"no session carries out {order}")


@asynccontextmanager
async def guest(tmp_path, top="", text=None):
    """A guest without a screen, its paper workers, and its log."""
    text = text or record("persistent", top=top)
    mine, _ = parse_record("a", tmp_path / "a.toml", text.encode())
    async with journal(tmp_path) as log, trio.open_nursery() as viewer:
        workers = PaperWorkers()
        tools = GuestTools(
            workers=workers,
            pump=None,
            log=log,
            compositor=compositor_at(tmp_path / "wayland-0"),
            display=lambda: tmp_path / "wayland-0",
            session=NoSession(),
        )
        made = Guest(
            LEASE,
            lambda: mine,
            tools,
            display=tmp_path / "run/display",
            logs=tmp_path / "logs",
        )
        await viewer.start(made.run)
        yield made, workers, log
        await made.close("the test is over")
        viewer.cancel_scope.cancel()


async def open_agent(mine, nursery, stream=1):
    """An agent's stream; returns our end of it."""
    ours, theirs = pair()
    opening = Opening(LEASE, AGENT, stream, "a test")

    async def carry(task_status):
        await carry_agent(mine, opening, theirs, task_status=task_status)

    await nursery.start(carry)
    return ours


async def carry_agent(mine, opening, conn, *, task_status):
    """Carry an agent's stream, as a viewer does once it is permitted."""
    async with mine.streams.opened(opening) as outcome:
        await mine.streams.agent(opening, conn, outcome, task_status=task_status)


async def test_a_worker_that_makes_things_up_costs_little(tmp_path):
    """Taken over, it says a thousand things a second for days."""
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        with await open_agent(mine, streams):
            (other,) = workers.opened
            for number in range(1000):
                await other.say.send(worker.AgentClosed(number + 7, "x" * 4000))
                await other.say.send(worker.WaylandOpened(number))
                await other.say.send(worker.Broken("x" * 4000))
            assert mine.streams._ends == {}
            assert len(mine.screen._clients) <= limits.WAYLAND_CLIENTS_PER_SANDBOX
            assert len(mine.warnings) <= 3
            await other.say.send(worker.AgentClosed(1, "it left"))


async def test_letters_of_the_name_are_drawn_once_when_a_window_shows_it(tmp_path):
    """Neither a first window waits for them, nor does a worker have them drawn twice."""
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        with await open_agent(mine, streams):
            (other,) = workers.opened
            orders = mine._tools.session.orders
            await other.say.send(worker.WaylandAnswered(1))
            await wait_all_tasks_blocked()
            assert orders == []
            for _ in range(1000):
                await other.say.send(worker.WaylandAnswered(1, unlettered=True))
            await eventually(lambda: len(orders) == 1)
            await wait_all_tasks_blocked()
            assert len(orders) == 1
            assert mine.worker is not None
            await other.say.send(worker.AgentClosed(1, "it left"))


async def test_a_worker_counts_its_own_streams_only(tmp_path):
    """A status shows its claims beside the streams of all sandboxes."""
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        with await open_agent(mine, streams, 7):
            (other,) = workers.opened

            async def statistics():
                counts = [worker.WorkerStreamCount(n, 1, 1) for n in range(20)]
                return worker.WorkerStatistics(0, streams=counts)

            other.statistics = statistics
            assert set(await mine.streams.counts(mine.worker)) == {7}
            await other.say.send(worker.AgentClosed(7, "it left"))


async def test_a_stream_that_is_cut_while_it_is_recorded_leaves_nothing(
    tmp_path, monkeypatch
):
    ours, theirs = pair()
    async with guest(tmp_path) as (mine, _, log):
        recording = trio.Event()

        async def slow_disk(event):
            recording.set()
            await trio.sleep_forever()

        monkeypatch.setattr(log, "require", slow_disk)
        ours.sendall(bytes(limits.DISPLAY_HEADER_BYTES))
        with ours, trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    partial(
                        mine.streams.display,
                        Opening(LEASE, DISPLAY, 1, "a test"),
                        theirs,
                    )
                )
                await recording.wait()
                assert mine.streams._handed
                nursery.cancel_scope.cancel()
            assert not mine.streams._handed
            assert ours.recv(1) == b"", "it was hung up on"


@pytest.mark.parametrize("how", ["counted", "its worker died"])
async def test_the_agent_s_stream_has_its_bytes_or_null(tmp_path, how):
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        with await open_agent(mine, streams):
            (other,) = workers.opened
            if how == "counted":
                await other.say.send(worker.AgentClosed(1, "it left", 126, 70))
            else:
                await other.close("it crashed")
    (path,) = tmp_path.rglob("audit.sqlite")
    with open_log(path) as log:
        (closed,) = [f.fields() for f in log.find(Filters(kinds=["stream.closed"]))]
    counts = closed["bytes_from_sandbox"], closed["bytes_to_sandbox"]
    assert counts == ((126, 70) if how == "counted" else (None, None))


async def test_a_hello_is_believed_about_programs_of_before_once(tmp_path):
    """Each claimed program that a later hello forgets is an event on disk."""
    async with guest(tmp_path) as (mine, workers, log), trio.open_nursery() as streams:
        with await open_agent(mine, streams):
            (other,) = workers.opened
            for number in range(20):
                first = 1 + 64 * number
                await other.say.send(hello(programs=range(first, first + 64)))
            await other.say.send(worker.AgentClosed(1, "it left"))
    assert log._store.statistics().events <= 64 + 10


async def test_a_mistake_about_what_a_worker_says_is_its_sandbox_s(
    tmp_path, monkeypatch, capsys
):
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        with await open_agent(mine, streams):
            (other,) = workers.opened

            def mistake():
                raise ZeroDivisionError

            monkeypatch.setattr(mine.programs, "agent_up", mistake)
            await other.say.send(hello())
            with trio.fail_after(30):
                await other.closed.wait()
            await wait_all_tasks_blocked()
            assert mine.worker is None
    assert "ZeroDivisionError" in capsys.readouterr().err


async def test_a_worker_is_told_all_though_its_first_stream_is_cut(tmp_path):
    """It stays, and nobody would tell it later: colour, record, drags."""
    async with guest(tmp_path) as (mine, workers, _):
        may, told = trio.Event(), []

        class Slow(ClipboardMember):
            async def tell_drags(self, worker):
                await may.wait()
                told.append(worker)

        mine.crossing = Slow()
        async with trio.open_nursery() as stream:
            stream.start_soon(mine._ensure_worker)
            await wait_all_tasks_blocked()
            stream.cancel_scope.cancel()
            may.set()
        assert told == workers.opened == [await mine._ensure_worker()]


async def test_a_worker_that_comes_after_the_end_is_ended(tmp_path):
    """A worker must not outlive its lease."""
    async with guest(tmp_path) as (mine, workers, _):
        workers.may_open = trio.Event()
        ours, theirs = pair()
        refused = []

        async def carry():
            try:
                opening = Opening(LEASE, AGENT, 1, "a test")
                await carry_agent(
                    mine, opening, theirs, task_status=trio.TASK_STATUS_IGNORED
                )
            except RefusedError as error:
                refused.append(str(error))

        with ours:
            async with trio.open_nursery() as streams:
                streams.start_soon(carry)
                await workers.asked.wait()
                await mine.close("the lease ended")
                workers.may_open.set()
            assert refused == ["this sandbox is shutting down"]
            assert workers.opened[0].closed.is_set()
            assert mine.worker is None
            ours.settimeout(30)
            assert ours.recv(1) == b""


async def test_a_program_that_could_not_be_recorded_does_not_count(
    tmp_path, monkeypatch
):
    """The disk is full a hundred times: afterwards all of its places are free."""
    async with guest(tmp_path) as (mine, _, log):

        async def full(event):
            raise UpstreamError("the audit log cannot be written")

        with monkeypatch.context() as disk:
            disk.setattr(log._store, "record", full)
            for _ in range(100):
                with pytest.raises(UpstreamError, match="cannot be written"):
                    await mine.start_program(["foot"], {}, display=True)
        assert mine.programs.live() == []
        program = await mine.start_program(["foot"], {}, display=True)
        assert mine.programs.live() == [program]


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("fails", ["record", "send", "terminal"])
async def test_a_program_that_no_guest_was_asked_for_neither_counts_nor_ends_others(
    tmp_path, monkeypatch, fails, others
):
    """It leaves its place, and a machine that others started waits for its first."""
    text = EXTERNAL + 'hybrid = "/run/a/vm.vsock"\n' if others else None
    async with (
        guest(tmp_path, text=text) as (mine, workers, log),
        trio.open_nursery() as n,
    ):
        with await open_agent(mine, n):
            (other,) = workers.opened
            version = agent.VERSION
            if fails == "terminal":
                version = agent.INPUT_VERSION - 1
            greeting = agent.AgentHello(version, "0.8.4", "6.1", [])
            await other.say.send(worker.FromAgent(1, greeting))
            await wait_all_tasks_blocked()
            mine.idle = trio.Event()
            other.deaf = fails == "send"
            streams = guests.Streams(stdin=fails == "terminal")

            async def start():
                program = await mine.start_program(
                    ["foot"], {}, display=False, streams=streams
                )
                with trio.fail_after(30):
                    while not program.ended:
                        await program.changed.wait()
                assert program.way.failure is not None

            async def full(event):
                raise UpstreamError("the audit log cannot be written")

            for _ in range(limits.PROGRAMS_PER_SANDBOX + 1):
                if fails != "record":
                    await start()
                    continue
                with monkeypatch.context() as disk:
                    disk.setattr(log._store, "record", full)
                    with pytest.raises(UpstreamError, match="cannot be written"):
                        await start()
            assert mine.programs.live() == []
            assert mine.programs.asked is False
            # Nothing runs in a machine of ours, and nothing was asked of others'.
            if others:
                await wait_all_tasks_blocked(0.05)
                assert not mine.idle.is_set()
            else:
                with trio.fail_after(30):
                    await mine.idle.wait()
            await other.say.send(worker.AgentClosed(1, "it left"))


A_BOX = (
    'class = "disposable"\ndisplay = "allow"\n[launch]\nkind = "bwrap"\n'
    'command = ["foot"]\n'
)


async def test_a_machine_starts_until_its_agent_reports(tmp_path):
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        assert mine.state == "starting"
        with await open_agent(mine, streams):
            (worker_end,) = workers.opened
            reported = mine.agent_changed
            await worker_end.say.send(hello())
            await reported.wait()
            assert mine.state == "running"
            await worker_end.say.send(worker.AgentClosed(1, "it left", 0, 0))


async def test_a_box_runs_without_an_agent(tmp_path):
    async with guest(tmp_path, text=A_BOX) as (mine, _, _log):
        assert mine.state == "running"


async def test_a_box_is_asked_for_no_program(tmp_path):
    """It has no agent, so the program would be waited for until a deadline."""
    async with guest(tmp_path, text=A_BOX) as (mine, _, _log):
        with pytest.raises(RefusedError, match="without a guest agent") as refused:
            await mine.start_program(["foot"], {}, display=True)
        assert mine.programs.live() == []
        hint = refused.value.hint
        assert "run 'brokerctl run' again" in hint
        # A running box of a browser alone has no shell in which to run a command.
        assert "Save dialog" in hint
        assert f"run 'brokerctl share {mine.lease.sandbox} DIRECTORY'" in hint
        german = in_users_language(hint, ["de"])
        assert "Speicherdialog" in german
        assert "hineinzubringen" in german


async def test_an_application_of_flatpak_is_offered_no_folder(tmp_path):
    text = (
        'class = "disposable"\ndisplay = "allow"\n'
        '[launch]\nkind = "flatpak"\napp = "org.a.B"\n'
    )
    async with guest(tmp_path, text=text) as (sandbox, _, _log):
        with pytest.raises(RefusedError, match="without a guest agent") as refused:
            await sandbox.start_program(["foot"], {}, display=True)
        assert "brokerctl share" not in refused.value.hint


async def test_the_hint_about_a_box_that_keeps_its_home_is_one_that_works(tmp_path):
    """``brokerctl run`` refuses a second program there."""
    text = A_BOX.replace("disposable", "persistent")
    async with guest(tmp_path, text=text) as (mine, _, _log):
        with pytest.raises(RefusedError, match="without a guest agent") as refused:
            await mine.start_program(["foot"], {}, display=True)
        name = mine.lease.sandbox
        assert f"run 'brokerctl stop {name}' first" in refused.value.hint


async def test_a_suspended_guest_is_asked_for_no_program(tmp_path):
    """Its agent says nothing, so the program would be waited for until a deadline."""
    async with guest(tmp_path) as (mine, _, _log):
        mine.suspended = True
        assert mine.state == "suspended"
        with pytest.raises(RefusedError, match="a is suspended") as refused:
            await mine.start_program(["foot"], {}, display=True)
        assert "'brokerctl resume a'" in refused.value.hint
        assert mine.programs.live() == []


async def test_request_refused_while_the_host_has_stopped_the_machine(tmp_path):
    async with guest(tmp_path) as (mine, _, _log):
        mine.programs.shortage = "its home's file system has 2 MiB left"
        assert mine.state == "stopped"
        with pytest.raises(
            RefusedError, match=r"cannot start a program: its home's .* 2 MiB left"
        ):
            await mine.start_program(["foot"], {}, display=True)
        assert mine.programs.live() == []


async def test_a_program_for_a_sandbox_that_ends_meanwhile(tmp_path):
    """The answer is a sentence, not a mistake in the broker."""
    async with guest(tmp_path) as (mine, _, _log):
        await mine.close("it powered off")
        with pytest.raises(RefusedError, match="shutting down"):
            await mine.start_program(["foot"], {}, display=True)
        assert mine.programs.live() == []


async def test_a_guest_whose_worker_takes_no_orders_can_be_ended(tmp_path):
    """Then its agent cannot be asked; the power button is left."""
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        with await open_agent(mine, streams):
            (other,) = workers.opened
            await other.say.send(hello())
            await wait_all_tasks_blocked()
            assert await mine.power_off()
            other.deaf = True
            assert not await mine.power_off()
            await other.say.send(worker.AgentClosed(1, "it left"))


async def test_an_agent_that_cannot_be_handed_over_leaves_nothing(tmp_path):
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as streams:
        with await open_agent(mine, streams):
            workers.opened[0].deaf = True
            for number in range(2, 20):
                ours, theirs = pair()
                with ours, pytest.raises(UpstreamError):
                    await carry_agent(
                        mine,
                        Opening(LEASE, AGENT, number, "a test"),
                        theirs,
                        task_status=trio.TASK_STATUS_IGNORED,
                    )
                assert theirs.fileno() == -1
                assert isinstance(ours, socket.socket)
            assert list(mine.streams._handed) == [1]
            await workers.opened[0].say.send(worker.AgentClosed(1, "it left"))


@pytest.mark.parametrize(
    ("top", "version", "seen"),
    [
        ("", agent.VERSION, ({}, True, limits.AGENT_OUTPUT_WINDOW)),
        (
            'timezone = "desktop"',
            agent.VERSION,
            ({"TZ": "CET-1", "VITRAIL_TIME_ZONE": "Europe/Berlin"}, True, 131072),
        ),
        (
            '[looks]\nlanguage = "de_DE.UTF-8"',
            agent.VERSION,
            ({"LANG": "de_DE.UTF-8"}, True, limits.AGENT_OUTPUT_WINDOW),
        ),
        ("", agent.PACED_VERSION - 1, ({}, False, 0)),
    ],
)
async def test_what_a_guest_is_asked_for(tmp_path, monkeypatch, top, version, seen):
    """The desktop's time zone by choice; an older agent gets only the fields that it knows."""
    monkeypatch.setattr(time_zones, "time_zone", lambda _path: "CET-1")
    monkeypatch.setattr(time_zones, "zone_name", lambda _path: "Europe/Berlin")
    async with guest(tmp_path, top) as (mine, workers, _), trio.open_nursery() as n:
        with await open_agent(mine, n):
            (other,) = workers.opened
            said = agent.AgentHello(version, "0.8.4", "6.1", [])
            await other.say.send(worker.FromAgent(1, said))
            streams = guests.Streams(stderr=True, paced=True)
            await mine.start_program(["a"], {}, display=False, streams=streams)
            await wait_all_tasks_blocked()
            runs = [o.message for o in other.orders if isinstance(o, worker.ToAgent)]
            (run,) = [message for message in runs if isinstance(message, agent.Run)]
            assert (run.env, run.stderr, run.window) == seen
            await other.say.send(worker.AgentClosed(1, "it left"))


class Shown:
    """The signs, as far as a sandbox's sound uses it."""

    def __init__(self) -> None:
        self.said: list[bool] = []

    def show(self, _kind, sandbox, *, active, source=""):
        assert sandbox == LEASE.sandbox
        self.said.append(active)


@pytest.mark.parametrize("end", ["lease", "worker"])
async def test_a_sandbox_that_ends_while_it_hears_is_shown_no_longer(tmp_path, end):
    """It ends, and its worker says no last word.

    Else its notification stayed; a person closes that, and would see none the next
    time, because a sandbox of this name was still shown.
    """
    text = record("persistent", top='[audio]\nplayback = "allow"\n')

    def recorded(kind: str) -> int:
        with open_log(tmp_path / "audit.sqlite") as log:
            return len([*log.find(Filters(kinds=(kind,)))])

    async with (
        guest(tmp_path, text=text) as (mine, workers, _),
        trio.open_nursery() as streams,
    ):
        mine.sound.signs = shown = Shown()
        with await open_agent(mine, streams):
            (other,) = workers.opened
            hears = worker.SoundState(1, 0, False, True, "app", "mic", "")
            await other.say.send(hears)
            await eventually(lambda: recorded("microphone.on") == 1)
            assert shown.said == [True]
            if end == "lease":
                await mine.close("its guest has switched off")
            else:
                await other.close("it was killed")
            await eventually(lambda: shown.said == [True, False], deadline=5)
            await eventually(lambda: recorded("microphone.off") == 1, deadline=5)


async def test_an_end_for_which_there_is_no_thread_is_one(tmp_path):
    """Its end at clipboard and authority comes after it; its directory may stay."""

    async with guest(tmp_path) as (mine, _, _log):
        with no_threads():
            await mine.close("it powered off")


async def test_machine_without_agent_is_starting_until_its_deadline(tmp_path):
    """A viewer's record names no launcher of the host, whose machine may have no agent."""
    async with guest(tmp_path, text=record("persistent")) as (machine, _, _log):
        assert machine.state == "starting"
        machine.since -= 89
        assert machine.state == "starting"
        machine.since -= 2
        assert machine.state == "no agent yet"


EXTERNAL = (
    'class = "persistent"\ndisplay = "allow"\n[launch]\nkind = "external"\n[peer]\n'
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EXTERNAL + 'hybrid = "/run/a/vm.vsock"\n', True),
        (EXTERNAL + "cid = 42\n", True),
        (EXTERNAL + 'unix = "/run/a"\n', False),
        (record("persistent"), False),
    ],
)
async def test_a_machine_of_another_program_without_an_agent_says_so(
    tmp_path, text, said
):
    async with guest(tmp_path, text=text) as (mine, workers, _):
        assert bool(mine.without_agent) == said
        assert (mine.state == "no agent yet") == said
        async with trio.open_nursery() as streams:
            with await open_agent(mine, streams):
                (other,) = workers.opened
                greeting = agent.AgentHello(3, "unknown", "6.1")
                await other.say.send(worker.FromAgent(1, greeting))
                await wait_all_tasks_blocked()
                assert mine.without_agent == ""
                assert mine.state == "running"
                await other.say.send(worker.AgentClosed(1, "it left"))
        assert mine.without_agent == ""  # it has one, which is away


@pytest.mark.parametrize(
    ("text", "ends"),
    [(EXTERNAL + 'hybrid = "/run/a/vm.vsock"\n', False), (record("persistent"), True)],
)
async def test_a_machine_of_another_program_waits_for_its_first_program(
    tmp_path, text, ends
):
    """Its agent says hello before anything is run: it was not started for a program."""
    async with (
        guest(tmp_path, text=text) as (machine, workers, _),
        trio.open_nursery() as streams,
    ):
        with await open_agent(machine, streams):
            (other,) = workers.opened
            greeting = agent.AgentHello(agent.VERSION, "unknown", "6.1")
            await other.say.send(worker.FromAgent(1, greeting))
            await wait_all_tasks_blocked()
            assert machine.idle.is_set() == ends
            # A file is copied to it, which is no program of the user's.
            program = await machine.start_program(["vitrail-files"], {}, display=False)
            exited = agent.AgentExited(program.number, 0)
            await other.say.send(worker.FromAgent(1, exited))
            changed = machine.agent_changed
            await other.say.send(worker.FromAgent(1, greeting))
            await changed.wait()
            await wait_all_tasks_blocked()
            assert machine.idle.is_set() == ends
            program = await machine.start_program(["a"], {}, display=False)
            await wait_all_tasks_blocked()
            assert not machine.idle.is_set()
            exited = agent.AgentExited(program.number, 0)
            await other.say.send(worker.FromAgent(1, exited))
            with trio.fail_after(60):
                await machine.idle.wait()
            await other.say.send(worker.AgentClosed(1, "it left"))
