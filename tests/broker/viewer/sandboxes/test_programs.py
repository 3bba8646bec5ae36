"""What a guest's claims about programs may cost: its logs, and little of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import RefusedError
from broker.ipc.agent import AgentExited, AgentFailed, AgentStarted, Output
from broker.viewer.sandboxes import programs as module
from broker.viewer.sandboxes.launch_steps import Step
from broker.viewer.sandboxes.programs import LeasePrograms

LARGEST = 0xFFFFFFFF


def names(logs):
    return sorted(path.name for path in logs.iterdir())


async def test_a_guest_that_claims_ever_new_programs_fills_no_disk(tmp_path):
    """64 others to each broker that comes; the numbers have up to ten digits."""
    logs = tmp_path / "logs"
    for broker in range(10):
        programs = LeasePrograms(logs)
        last = LARGEST - 1000 * broker if broker % 2 else 1000 * broker + 64
        programs.adopt(list(range(last - 63, last + 1)))
        assert len(programs.live()) == limits.PROGRAMS_PER_SANDBOX
        for program in programs.live():
            assert program.log.path.exists(), "never the log of one that runs"
            programs.take(Output(program.number, b"x"))
            programs.take(AgentExited(program.number, 0))
        programs.adopt([7, 8, 9])
        assert programs.live() == [], "it is believed once"
        assert len(names(logs)) <= limits.PROGRAMS_PER_SANDBOX + module.KEPT_LOGS


async def test_what_a_guest_claimed_leaves_numbers_for_new_programs(tmp_path):
    """The next broker counts on from the logs: in numbers that an agent can say."""
    first = LeasePrograms(tmp_path)
    first.adopt([5, LARGEST])
    for _ in range(8):
        new = first.new("foot", display=True, limit=64)
        assert new.number not in {5, LARGEST}
    first.end_all("the broker ends")
    second = LeasePrograms(tmp_path)
    new = second.new("foot", display=True, limit=64)
    assert new.number <= LARGEST
    second.end_all("the broker ends")


async def test_a_log_that_cannot_be_made_is_lost_and_nothing_else(tmp_path):
    """A full disk: the guest's hello must not end the broker."""
    logs = tmp_path / "logs"
    logs.write_text("no directory can be made here")
    programs = LeasePrograms(logs)
    programs.adopt([1, 2, 3])
    new = programs.new("foot", display=False, limit=64)
    programs.take(Output(new.number, b"12345"))
    assert new.log.lost == 5
    logs.unlink()  # there is room again
    programs.take(Output(new.number, b"678"))
    assert new.log.path.read_bytes() == b"678"
    programs.end_all("over")


@pytest.mark.parametrize("display", [True, False])
async def test_a_program_that_was_never_asked_for_leaves_no_trace(tmp_path, display):
    programs = LeasePrograms(tmp_path)
    for _ in range(100):
        program = programs.new("foot", display=display, limit=2)
        programs.drop(program, "the log is full")
        assert program.ended
        assert program.way.failure is not None
        assert program.way.failure.step in {Step.MACHINE, Step.AGENT}
    assert programs.live() == []
    assert len(names(tmp_path)) <= module.KEPT_LOGS


@pytest.mark.parametrize("more", [1, 50])
async def test_old_logs_are_removed_without_a_look_at_the_directory_for_each(
    tmp_path, monkeypatch, more
):
    """A viewer that was taken over left 8,000: the next program's start took 37 s."""
    for number in range(1, module.KEPT_LOGS + more):
        (tmp_path / f"program-{number}.log").touch()
        (tmp_path / f"program-{number}.log.1").touch()
    programs = LeasePrograms(tmp_path)
    looks = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *words: looks.append(0) or glob(*words))
    new = programs.new("foot", display=True, limit=2)
    assert len(looks) == 1
    kept = range(new.number - module.KEPT_LOGS + 1, new.number)
    expected = {f"program-{n}.log{end}" for n in kept for end in ("", ".1")}
    assert set(names(tmp_path)) == expected | {new.log.path.name}
    programs.end_all("over")


@pytest.mark.parametrize("left", ["nothing", "directory", "link", "fifo", "long"])
async def test_what_is_left_in_place_of_a_leases_note_is_not_waited_for(tmp_path, left):
    """A viewer that was taken over writes among the logs; the next one reads there."""
    note, other = tmp_path / module._ASKED, tmp_path / "other"
    match left:
        case "directory":
            note.mkdir()
        case "link":
            other.write_bytes(b"mine")
            note.symlink_to(other)
        case "fifo":
            os.mkfifo(note)
        case "long":
            note.write_bytes(b"mine" * 1000)
    programs = LeasePrograms(tmp_path, "mine")
    assert not programs.asked
    programs.save_asked(programs.new("vitrail-files", display=False, limit=64))
    assert not programs.asked
    programs.save_asked(programs.new("foot", display=True, limit=64))
    assert programs.asked
    if left == "link":
        assert other.read_bytes() == b"mine"
    programs.end_all("the broker ends")
    known = LeasePrograms(tmp_path, "mine").asked
    assert known == (left in {"nothing", "long"})
    assert not LeasePrograms(tmp_path, "other").asked


# -- numbers ---------------------------------------------------------------------


async def test_numbers_go_on_from_the_newest_log(tmp_path):
    first = LeasePrograms(tmp_path)
    for _ in range(3):
        first.new("foot", display=True, limit=64)
    first.end_all("the broker ends")
    second = LeasePrograms(tmp_path)
    assert second.new("foot", display=True, limit=64).number == 4
    second.end_all("over")


@pytest.mark.parametrize(
    "name", ["program-.log", "program-x.log", "program-12345678901.log", "console.log"]
)
async def test_other_files_give_no_numbers(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    programs = LeasePrograms(tmp_path)
    assert programs.new("foot", display=True, limit=64).number == 1
    programs.end_all("over")


@pytest.mark.parametrize(("most", "next_one"), [(0x7FFFFFFF, 0x80000000), (1 << 31, 1)])
async def test_the_largest_number_that_is_counted_on_from(tmp_path, most, next_one):
    (tmp_path / f"program-{most}.log").write_bytes(b"")
    programs = LeasePrograms(tmp_path)
    assert programs.new("foot", display=True, limit=64).number == next_one
    programs.end_all("over")


# -- limits ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, limits.PROGRAMS_PER_SANDBOX, 1000])
async def test_as_many_as_the_record_allows_and_no_more(tmp_path, limit):
    programs = LeasePrograms(tmp_path)
    most = min(limit, limits.PROGRAMS_PER_SANDBOX)
    for _ in range(most):
        last = programs.new("foot", display=True, limit=limit)
    with pytest.raises(RefusedError, match=f"the sandbox already runs {most}"):
        programs.new("foot", display=True, limit=limit)
    programs.take(AgentExited(last.number, 0))
    programs.new("foot", display=True, limit=limit)
    programs.end_all("over")


async def test_adopted_ones_count(tmp_path):
    programs = LeasePrograms(tmp_path)
    programs.adopt(range(1, limits.PROGRAMS_PER_SANDBOX + 2))
    assert len(programs.live()) == limits.PROGRAMS_PER_SANDBOX
    with pytest.raises(RefusedError, match="the sandbox already runs 64"):
        programs.new("foot", display=True, limit=64)
    programs.end_all("over")


# -- what a guest says -------------------------------------------------------------


async def test_an_adopted_program_runs_already(tmp_path):
    programs = LeasePrograms(tmp_path)
    programs.adopt([7])
    (program,) = programs.live()
    assert (program.number, program.way.complete, program.display) == (7, True, False)
    assert programs.take(AgentExited(7, 3)) is program
    assert program.way.failure is None, "its window was up: no way failed"


async def test_numbers_that_were_given_out_and_have_ended_are_not_adopted(tmp_path):
    """A reconnecting agent may still name them."""
    programs = LeasePrograms(tmp_path)
    ended = programs.new("foot", display=True, limit=64)
    programs.take(AgentExited(ended.number, 0))
    programs.adopt([ended.number])
    assert programs.live() == []


async def test_a_second_claim_adds_nothing(tmp_path):
    programs = LeasePrograms(tmp_path)
    programs.adopt([7])
    programs.adopt([8])
    assert [p.number for p in programs.live()] == [7]
    programs.end_all("over")


@pytest.mark.parametrize(
    "message",
    [AgentStarted(2), AgentFailed(2, "no"), Output(2, b"x"), AgentExited(2, 0)],
)
async def test_unknown_numbers_are_ignored(tmp_path, message):
    programs = LeasePrograms(tmp_path)
    mine = programs.new("foot", display=True, limit=64)
    assert programs.take(message) is None
    assert programs.live() == [mine]
    assert mine.way.next is Step.MACHINE
    assert names(tmp_path) == ["program-1.log"]
    programs.end_all("over")


async def test_output_goes_to_its_own_log_and_its_listeners(tmp_path):
    programs = LeasePrograms(tmp_path)
    one, two = (programs.new("foot", display=True, limit=64) for _ in range(2))
    heard = []
    one.listeners.append(lambda *said: heard.append(said))
    programs.take(Output(1, b"one"))
    programs.take(Output(2, b"\x1b[two"))
    programs.take(Output(1, b" more", stderr=True))
    programs.end_all("over")
    assert heard == [(b"one", False), (b" more", True)]
    assert one.log.path.read_bytes() == b"one more"
    assert two.log.path.read_bytes() == b"\x1b[two", "as it came; escaped when shown"


@pytest.mark.parametrize("over", [0, 1])
async def test_a_log_is_rotated_when_it_is_full(tmp_path, over):
    programs = LeasePrograms(tmp_path)
    program = programs.new("foot", display=True, limit=64)
    programs.take(Output(1, b"x" * limits.LOG_BYTES))
    programs.take(Output(1, b"y" * over))
    programs.end_all("over")
    assert program.log.older.exists() == bool(over)
    if over:
        assert program.log.path.read_bytes() == b"y"


async def test_a_program_that_fails_says_why_in_printable_words(tmp_path):
    programs = LeasePrograms(tmp_path)
    program = programs.new("foot", display=True, limit=64)
    assert programs.take(AgentFailed(1, "no \x1b]0;such\x07 file")) is program
    assert program.ended
    assert program.way.failure.step is Step.PROGRAM
    assert "\x1b" not in program.way.failure.reason


async def test_only_programs_that_were_started_have_a_stream(tmp_path):
    programs = LeasePrograms(tmp_path)
    started, waits = (programs.new("foot", display=True, limit=64) for _ in range(2))
    programs.take(AgentStarted(started.number))
    programs.display(Step.STREAM)
    assert started.way.next is Step.WAYPIPE
    assert waits.way.next is Step.MACHINE
    programs.end_all("over")


async def test_without_a_screen_only_those_that_need_one_fail(tmp_path):
    programs = LeasePrograms(tmp_path)
    window = programs.new("foot", display=True, limit=64)
    other = programs.new("make", display=False, limit=64)
    programs.no_screen("no compositor answers")
    assert window.way.failure.step is Step.COMPOSITOR
    assert other.way.failure is None
    programs.end_all("over")
    assert (window.code, other.code) == (-9, -9)


async def test_waiting_tasks_are_woken(tmp_path):
    programs = LeasePrograms(tmp_path)
    program = programs.new("foot", display=True, limit=64)
    for message in (AgentStarted(1), AgentExited(1, 0)):
        waited = program.changed
        programs.take(message)
        assert waited.is_set()


async def test_a_program_that_fails_before_its_window_is_told_once(tmp_path):
    """One that has shown a window, or ends well, did its work."""
    programs, told = LeasePrograms(tmp_path), []
    ways = {
        "fails": (AgentExited, 127, None, [127]),
        "ends": (AgentExited, 0, None, []),
        "has a window": (AgentExited, 1, Step.WINDOW, []),
    }
    for name, (kind, code, reached, expected) in ways.items():
        program = programs.new(name, display=True, limit=64)
        program.on_failure = told.append
        if reached is not None:
            program.way.reach(reached, 0)
        programs.take(kind(program.number, code))
        programs.take(kind(program.number, code))
        assert told == expected, name
        told.clear()
