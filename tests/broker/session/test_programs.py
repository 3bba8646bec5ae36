"""What a guest's claims about programs may cost: its own logs, and little of them."""

from __future__ import annotations

import pytest

from broker.core import limits
from broker.core.agent import Exited, Output
from broker.session import programs as module
from broker.session.hops import Hop
from broker.session.programs import Programs

LARGEST = 0xFFFFFFFF


def names(logs):
    return sorted(path.name for path in logs.iterdir())


async def test_a_guest_that_claims_ever_new_programs_fills_no_disk(tmp_path):
    """64 others to each broker that comes; the numbers have up to ten digits."""
    logs = tmp_path / "logs"
    for broker in range(10):
        programs = Programs(logs)
        last = LARGEST - 1000 * broker if broker % 2 else 1000 * broker + 64
        programs.adopt(list(range(last - 63, last + 1)))
        assert len(programs.live()) == limits.PROGRAMS_PER_SANDBOX
        for program in programs.live():
            assert program.log.path.exists(), "never the log of one that runs"
            programs.take(Output(program.number, b"x"))
            programs.take(Exited(program.number, 0))
        programs.adopt([7, 8, 9])
        assert programs.live() == [], "it is believed once"
        assert len(names(logs)) <= limits.PROGRAMS_PER_SANDBOX + module.KEPT_LOGS


async def test_what_a_guest_claimed_leaves_numbers_for_new_programs(tmp_path):
    """The next broker counts on from the logs: in numbers that an agent can say."""
    first = Programs(tmp_path)
    first.adopt([5, LARGEST])
    for _ in range(8):
        new = first.new("foot", display=True, limit=64)
        assert new.number not in {5, LARGEST}
    first.end_all("the broker ends")
    second = Programs(tmp_path)
    new = second.new("foot", display=True, limit=64)
    assert new.number <= LARGEST
    second.end_all("the broker ends")


async def test_a_log_that_cannot_be_made_is_lost_and_nothing_else(tmp_path):
    """A full disk: the guest's hello must not end the broker."""
    logs = tmp_path / "logs"
    logs.write_text("no directory can be made here")
    programs = Programs(logs)
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
    programs = Programs(tmp_path)
    for _ in range(100):
        program = programs.new("foot", display=display, limit=2)
        programs.drop(program, "the log is full")
        assert program.ended
        assert program.way.failure is not None
        assert program.way.failure.hop in {Hop.MACHINE, Hop.AGENT}
    assert programs.live() == []
    assert len(names(tmp_path)) <= module.KEPT_LOGS
