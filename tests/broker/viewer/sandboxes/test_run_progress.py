"""Following a run: each missing step has its name, output waits within bounds."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.ipc.agent import AgentExited, AgentFailed, AgentStarted, Output
from broker.viewer.sandboxes.launch_steps import TEXTS, Step
from broker.viewer.sandboxes.programs import LeasePrograms
from broker.viewer.sandboxes.run_progress import Follower
from policy.tools.record_files import parse_record
from tests.kit.link.roles import LEASE
from tests.kit.world import record

PIECE = limits.AGENT_OUTPUT_BYTES
N = limits.AGENT_OUTPUT_WINDOW // (PIECE + limits.AGENT_OUTPUT_OVERHEAD)
"""So many full messages fit into the window."""


class Stand:
    def __init__(self, logs, *, display=True, text=""):
        text = text or record(launch="boot_deadline = 90")
        made, _ = parse_record("a", Path("a.toml"), text.encode())
        self.items = []
        self.without_agent = ""
        self.age = 0.0
        self.may_take = trio.Event()
        self.may_take.set()
        self.follower = Follower(self.emit, made)
        self.programs = LeasePrograms(logs)
        self.program = self.programs.new("foot", display=display, limit=64)

    async def emit(self, item):
        await trio.lowlevel.checkpoint()
        await self.may_take.wait()
        self.items.append(item)

    def steps(self):
        found = [item.progress for item in self.items if item.progress]
        return [(p.step, p.state) for p in found]

    def output(self):
        return b"".join(item.output or b"" for item in self.items)

    def listen(self):
        self.taken = []

        async def take_more(program, count):
            assert program is self.program
            self.taken.append(count)

        self.follower.listen(SimpleNamespace(take_more=take_more), self.program)

    async def follow(self, last=Step.COMPOSITOR):
        guest = SimpleNamespace(
            lease=LEASE,
            programs=self.programs,
            without_agent=self.without_agent,
            since=time.time() - self.age,
        )
        await self.follower.follow(guest, self.program, last=last)

    def reach(self, step):
        self.programs._reach(self.program, step)


@pytest.fixture
async def stand(tmp_path):
    mine = Stand(tmp_path)
    yield mine
    mine.programs.end_all("the test is over")


SECONDS = {step: TEXTS[step].seconds for step in Step} | {Step.AGENT: 90.0}


@pytest.mark.parametrize("missing", list(Step))
async def test_a_step_that_does_not_come_is_named_after_its_deadline(
    stand, missing, autojump_clock
):
    for step in Step:
        if step < missing:
            stand.reach(step)
    began = trio.current_time()
    title = TEXTS[missing].title
    seconds = SECONDS[missing]
    with pytest.raises(UpstreamError) as caught:
        await stand.follow(last=Step.WINDOW)
    assert trio.current_time() - began == pytest.approx(seconds)
    reason = f"nothing happened within {seconds:g} s"
    what = "no window: " if missing > Step.PROGRAM else ""
    assert caught.value.message == f"{what}could not {title}: {reason}"
    hint = TEXTS[missing].hint.format(sandbox="a")
    if missing is Step.PROGRAM:  # a guest that lacks the program says so
        assert "start it anew, run 'brokerctl stop a'" in caught.value.hint
        assert caught.value.hint != hint
    else:
        assert caught.value.hint == hint
    assert stand.follower.failure.step is missing
    # The application's own start is told twice: with its name, too.
    begun = [(title, "begun")] * (2 if missing is Step.WINDOW else 1)
    assert stand.steps() == [*begun, (title, "failed")]


@pytest.mark.parametrize("missing", list(Step)[1:])
async def test_a_step_that_comes_at_the_last_moment_is_in_time(
    stand, missing, autojump_clock
):
    for step in Step:
        if step < missing:
            stand.reach(step)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follow)
        await trio.sleep(SECONDS[missing] - 0.001)
        stand.reach(max(Step))
    assert stand.program.way.failure is None


async def test_a_person_who_is_asked_has_the_time_of_a_person(stand, autojump_clock):
    """A window that waits for an answer is not given up after the step's seconds."""
    stand.reach(Step.PROGRAM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follow)
        await trio.sleep(SECONDS[Step.STREAM] - 1)
        with stand.programs.person_asked():
            await trio.sleep(limits.QUESTION_SECONDS - 1)
            assert stand.program.way.failure is None
        stand.reach(max(Step))
    assert stand.program.way.failure is None


async def test_all_steps_one_after_the_other(stand):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follow)
        for step in Step:
            await wait_all_tasks_blocked()
            stand.reach(step)
    titles = [TEXTS[step].title for step in Step if step is not Step.WINDOW]
    assert stand.steps() == [(t, s) for t in titles for s in ("begun", "done")]


async def test_the_window_itself_is_waited_for_where_that_is_asked(stand):
    stand.reach(Step.COMPOSITOR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follow, Step.WINDOW)
        await wait_all_tasks_blocked()
        details = [item.progress.detail for item in stand.items if item.progress]
        assert details[-1] == "foot is starting"
        assert stand.steps()[-1] == (TEXTS[Step.WINDOW].title, "begun")
        stand.reach(Step.WINDOW)
    assert stand.steps()[-1] == (TEXTS[Step.WINDOW].title, "done")


async def test_a_step_that_was_passed_over_is_not_waited_for(stand):
    """A stream proves the program."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follow)
        await wait_all_tasks_blocked()
        stand.reach(Step.WAYPIPE)
        await wait_all_tasks_blocked()
        stand.reach(Step.COMPOSITOR)
    begun = [step for step, state in stand.steps() if state == "begun"]
    assert begun == [TEXTS[Step.MACHINE].title, TEXTS[Step.COMPOSITOR].title]


async def test_without_a_window_the_program_is_the_last_step(tmp_path):
    stand = Stand(tmp_path, display=False)
    stand.reach(Step.PROGRAM)
    await stand.follow()
    assert stand.steps() == []
    stand.programs.end_all("over")


async def test_the_end_of_a_program_without_a_window_is_none_of_a_window(tmp_path):
    """It may end before its way is looked at: its code is the answer."""
    stand = Stand(tmp_path, display=False)
    stand.programs.take(AgentStarted(1))
    stand.programs.take(AgentExited(1, 127))
    await stand.follow()
    assert stand.program.code == 127


async def test_a_program_that_cannot_be_started_says_why(stand):
    stand.reach(Step.AGENT)
    async with trio.open_nursery() as nursery:

        async def follow():
            title = TEXTS[Step.PROGRAM].title
            with pytest.raises(UpstreamError, match=f"{title}: no such file"):
                await stand.follow()

        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        stand.programs.take(AgentFailed(1, "no such file"))


@pytest.mark.parametrize(
    ("code", "how"), [(3, "with code 3"), (-9, "by signal 9")], ids=["code", "signal"]
)
async def test_a_program_that_ends_without_a_window_shows_its_last_words(
    stand, code, how
):
    stand.listen()
    stand.programs.take(AgentStarted(1))
    async with trio.open_nursery() as nursery:

        async def follow():
            with pytest.raises(UpstreamError, match=f"it ended {how}"):
                await stand.follow()

        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        stand.programs.take(Output(1, b"no "))
        stand.programs.take(Output(1, b"font"))
        stand.programs.take(AgentExited(1, code))
    assert stand.output() == b"no font"
    assert stand.items[-1].output == b"font", "after the failure, before the error"


async def test_a_program_that_ended_well_needs_no_window(stand):
    """``foot --version``."""
    stand.programs.take(AgentStarted(1))
    stand.programs.take(AgentExited(1, 0))
    await stand.follow()


async def test_a_sandbox_that_ends_names_its_end(stand):
    stand.reach(Step.MACHINE)
    stand.programs.end_all("the sandbox ended: QEMU ended")
    title = TEXTS[Step.AGENT].title
    with pytest.raises(UpstreamError, match=f"{title}: the sandbox ended: QEMU ended"):
        await stand.follow()


# -- output ------------------------------------------------------------------------


@pytest.mark.parametrize("over", [0, 1, 100])
async def test_so_much_output_waits_for_a_slow_client(stand, over):
    """A guest that keeps to the window loses nothing; one that does not, the excess."""
    stand.listen()
    for _ in range(N + over):
        stand.programs.take(Output(1, b"x" * PIECE))
    stand.programs.take(AgentExited(1, 0))
    assert await stand.follower.attend(stand.program) == 0
    assert len(stand.output()) == N * PIECE
    lost = [item.progress.detail for item in stand.items if item.progress]
    assert bool(lost) == bool(over), "and the omission is reported"
    if over:
        assert lost[0].startswith(f"{over * PIECE} bytes arrived faster")
    log = stand.program.log.path
    kept = sum(path.stat().st_size for path in log.parent.glob(f"{log.name}*"))
    assert kept >= min((N + over) * PIECE, limits.LOG_BYTES), "the log has it"


@pytest.mark.parametrize("size", [0, 1, PIECE])
async def test_a_client_that_takes_nothing_holds_a_window_at_most(stand, size):
    """Messages without a byte fill no memory either."""
    stand.listen()
    stand.may_take = trio.Event()
    sent = 4 * limits.AGENT_OUTPUT_WINDOW // (size + limits.AGENT_OUTPUT_OVERHEAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follower.attend, stand.program)
        for _ in range(sent):
            stand.programs.take(Output(1, b"x" * size))
        await wait_all_tasks_blocked()
        stand.programs.take(AgentExited(1, 0))
        stand.may_take.set()
    passed = [item for item in stand.items if item.output is not None]
    counted = len(passed) * (size + limits.AGENT_OUTPUT_OVERHEAD)
    window = limits.AGENT_OUTPUT_WINDOW
    assert window - PIECE - 2 * limits.AGENT_OUTPUT_OVERHEAD < counted <= window


async def test_output_is_passed_on_as_it_comes_and_reported_as_taken(stand):
    stand.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follower.attend, stand.program)
        for number in range(3 * N):
            stand.programs.take(Output(1, b"%03d" % number * (PIECE // 3)))
            await wait_all_tasks_blocked()
        assert sum(stand.taken) > 2 * limits.AGENT_OUTPUT_WINDOW
        assert max(stand.taken) <= limits.AGENT_OUTPUT_WINDOW
        stand.programs.take(AgentExited(1, 0))
    assert len(stand.output()) == 3 * N * (PIECE // 3) * 3


async def test_the_standard_error_comes_apart_and_in_order(stand):
    stand.listen()
    for data, stderr in ((b"a", False), (b"b", True), (b"c", False)):
        stand.programs.take(Output(1, data, stderr=stderr))
    stand.programs.take(AgentExited(1, 0))
    await stand.follower.attend(stand.program)
    found = [(item.output, item.stderr) for item in stand.items]
    assert found == [(b"a", None), (None, b"b"), (b"c", None)]


async def test_a_client_that_has_gone_is_not_written_to(stand):
    stand.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follower.attend, stand.program)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    stand.programs.take(Output(1, b"x"))
    assert stand.output() == b""


@pytest.mark.parametrize("code", [0, 1, 255, -9])
async def test_the_code_is_the_program_s(stand, code):
    stand.listen()
    stand.programs.take(AgentExited(1, code))
    assert await stand.follower.attend(stand.program) == code


# -- steps -------------------------------------------------------------------------


async def test_a_step_tells_its_details(stand, autojump_clock):
    async with stand.follower.step("start the machine"):
        stand.follower.tell("fetching a tool")
        await trio.sleep(1)
        stand.follower.tell("the last moment")
    found = [(p.state, p.detail) for p in (i.progress for i in stand.items)]
    assert found == [
        ("begun", ""),
        ("begun", "fetching a tool"),
        ("begun", "the last moment"),
        ("done", ""),
    ]
    assert stand.items[-1].progress.seconds == pytest.approx(1)


async def test_a_step_that_fails_is_not_done(stand):
    with pytest.RaisesGroup(UpstreamError, allow_unwrapped=True):
        async with stand.follower.step("start the machine"):
            raise UpstreamError("QEMU is not installed")
    assert stand.steps() == [("start the machine", "begun")]


async def test_a_run_says_at_once_that_no_agent_has_ever_connected(
    stand, autojump_clock
):
    stand.without_agent = "no agent in a has ever connected"
    stand.reach(Step.MACHINE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.follow)
        await trio.sleep(1)
        details = [item.progress.detail for item in stand.items if item.progress]
        assert stand.without_agent in details
        stand.reach(max(Step))


@pytest.mark.parametrize(("age", "seconds"), [(600.0, 5), (20.0, 40)])
async def test_run_in_a_machine_without_agent_fails_with_its_own_message(
    tmp_path, autojump_clock, age, seconds
):
    """A machine that has had time to boot needs no minute, and has no console of Vitrail."""
    text = 'class = "persistent"\n[launch]\nkind = "external"\n[peer]\ncid = 7\n'
    stand = Stand(tmp_path, text=text)
    stand.age, stand.without_agent = age, "no agent in a has ever connected"
    stand.reach(Step.MACHINE)
    began = trio.current_time()
    with pytest.raises(UpstreamError) as caught:
        await stand.follow()
    assert trio.current_time() - began == pytest.approx(seconds, abs=1)
    assert str(caught.value) == f"could not boot the guest: {stand.without_agent}"
    assert not caught.value.hint
    stand.programs.end_all("the test is over")
