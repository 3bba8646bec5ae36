"""What becomes of what a worker says of its Wayland connections."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.core.errors import SetupError
from broker.core.lease import Lease
from broker.core.limits import wayland as wayland_limits
from broker.core.names import LeaseId, SandboxName
from broker.ipc import agent, worker
from broker.viewer.wayland.screen import GuestScreen
from tests.kit.eventually import eventually

LEASE = Lease(LeaseId("0123456789abcdef"), SandboxName("red"), SandboxName("red"), 1)


class PaperLog:
    def __init__(self):
        self.refusals, self.notes = [], []

    async def refused(self, event):
        self.refusals.append(event)

    async def note(self, event):
        self.notes.append(event)


class PaperPrograms:
    def __init__(self):
        self.failed, self.shown = [], 0

    def display(self, step):
        self.shown += 1

    def fail(self, reason, step=None):
        self.failed.append(reason)


class Made:
    def __init__(self, *, compositor=True):
        self.log, self.programs = PaperLog(), PaperPrograms()
        self.warnings = deque(maxlen=3)
        self.compositor = compositor
        self.told = []
        self.looks = 0
        self.screen = GuestScreen(
            LEASE, self.programs, self.warnings, self.log, self.look, notify=self.tell
        )

    def tell(self, title, text, *, sandbox=""):
        self.told.append((title, text, sandbox))

    async def look(self):
        self.looks += 1
        await trio.lowlevel.checkpoint()
        if not self.compositor:
            raise SetupError("no compositor answers")
        return Path("/run/wayland-0")


@pytest.fixture
def made():
    return Made()


@pytest.mark.parametrize(
    ("fault", "events", "warnings"),
    [
        (worker.Fault.NONE, 0, 0),
        (worker.Fault.COMPOSITOR, 0, 0),
        (worker.Fault.CLIENT, 1, 0),
        (worker.Fault.OURS, 0, 1),
    ],
)
async def test_only_a_guest_s_mistake_is_an_event(made, fault, events, warnings):
    await made.screen.take(worker.WaylandOpened(1))
    await made.screen.take(worker.WaylandClosed(1, 5, 6, "bad\x1b[m", fault))
    assert len(made.log.refusals) == events
    assert len(made.warnings) == warnings
    for event in made.log.refusals:
        assert (event.sandbox, event.outcome) == ("red", "ended")
        assert event.reason == "Wayland: bad\\x1b[m"
    assert made.programs.failed == []


async def test_one_that_was_never_open_is_why_there_is_no_window(made):
    closed = worker.WaylandClosed(1, 0, 0, "no task there", worker.Fault.COMPOSITOR)
    await made.screen.take(closed)
    assert made.programs.failed == ["no task there"]


async def test_a_limit_is_an_event_with_its_count(made):
    await made.screen.take(worker.LimitHit("win\ndows", 7))
    (event,) = made.log.refusals
    assert (event.outcome, event.count) == ("limited", 7)
    assert event.reason == "Wayland: the sandbox reached its limit of win\\x0adows"


async def test_a_fullscreen_that_is_none_is_told_once(made):
    for _ in range(3):
        await made.screen.take(worker.LimitHit("fullscreen", 2))
    assert made.log.refusals == []
    (told,) = made.told
    assert told[0] == "Vitrail: red"
    assert "run 'brokerctl set red fullscreen framed'" in told[1]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_trace_is_shown_to_who_asked_for_it(made, asked, monkeypatch, capsys):
    monkeypatch.setenv("VITRAIL_DEBUG", "wayland" if asked else "")
    await made.screen.take(worker.Traced(["#1 a\x1b[31m", "x" * 3000], 4))
    said = capsys.readouterr().err
    if not asked:
        assert said == ""
        return
    lost, first, second = said.splitlines()
    assert lost == "[red] 4 lines were lost"
    assert first == "[red] #1 a\\x1b[31m"
    assert len(second) == wayland_limits.WAYLAND_TRACE_CHARS + len("[red] ")


async def test_a_stream_hears_how_it_ended(made):
    with made.screen.stream(9) as end:
        await made.screen.take(worker.WaylandClosed(1, 5, 6, "other", stream=8))
        said = worker.WaylandClosed(2, 5, 6, "client closed", stream=9)
        await made.screen.take(said)
        assert await end.wait() == said
    made.screen.worker_died()  # no task waits any more


async def test_a_stream_of_a_worker_that_died_has_ended(made):
    with made.screen.stream(9) as end:
        made.screen.worker_died()
        assert (await end.wait()).reason == "the worker died"


@pytest.mark.parametrize("windows", [True, False])
async def test_a_compositor_that_is_gone_is_told_once(windows, nursery):
    made = Made(compositor=False)
    nursery.start_soon(made.screen.watch_compositor)
    if windows:
        await made.screen.take(worker.WaylandOpened(1))
        await made.screen.take(worker.WaylandAnswered(1))
        await made.screen.take(worker.WaylandClosed(1, 1, 1, "gone"))
        await eventually(lambda: made.log.notes)
    await made.screen.close()
    assert len(made.log.notes) == windows
    assert made.programs.shown == windows


async def test_a_worker_that_claims_ends_has_few_looks_made(nursery, autojump_clock):
    """A look for the compositor is a process."""
    made = Made()
    nursery.start_soon(made.screen.watch_compositor)
    for number in range(1000):
        await made.screen.take(worker.WaylandClosed(number, 0, 0, "gone"))
        await trio.sleep(0.01)
    assert 10 <= made.looks <= 12


async def test_clients_that_a_worker_makes_up_are_bounded(made):
    for number in range(limits.WAYLAND_CLIENTS_PER_SANDBOX + 10):
        await made.screen.take(worker.WaylandOpened(number))
    assert len(made.screen._clients) == limits.WAYLAND_CLIENTS_PER_SANDBOX


@pytest.mark.parametrize("extra", [0, 1])
async def test_ever_new_mistakes_are_one_reason_in_the_end(made, extra, autojump_clock):
    most = wayland_limits.WAYLAND_MISTAKES_PER_SECOND
    for second in range(2):
        for number in range(most + 10 * extra):
            await made.screen.broke(f"mistake {number}")
        await made.screen.broke("mistake 0")  # known: by its own words
        reasons = [event.reason for event in made.log.refusals]
        known = {f"mistake {n}" for n in range(most)}
        further = {"further protocol errors of its applications"} if extra else set()
        assert set(reasons) == known | further
        assert len(reasons) == (second + 1) * (most + 10 * extra + 1)
        await trio.sleep(1)


def _record(way):
    return SimpleNamespace(host=SimpleNamespace(launch=SimpleNamespace(gpu=way)))


async def test_a_guest_tells_of_its_lost_gpu_once(made):
    """In our words: its own text is neither shown nor recorded."""
    for _ in range(100):
        lost = agent.AgentStep("gpu", False, "Your bank: call 555")
        await made.screen.agent_step(lost, _record("render"))
    await made.screen.agent_step(agent.AgentStep("gpu", True), _record("render"))
    text = "the guest reported that its GPU does not answer"
    assert made.told == [("Vitrail: red", text, "red")]
    assert list(made.warnings) == [text]
    (event,) = made.log.notes
    assert (event.sandbox, event.step, event.reason) == ("red", "running", text)
    # Programs that wait for their windows go on waiting.
    assert made.programs.failed == []


@pytest.mark.parametrize("way", ["none", "buffers", ""])
async def test_a_guest_without_a_gpu_tells_of_none(made, way):
    lost = agent.AgentStep("gpu", False, "Your bank: call 555")
    await made.screen.agent_step(lost, _record(way) if way else None)
    assert not made.told
    assert not made.warnings
    assert not made.log.notes
    assert not made.programs.failed
