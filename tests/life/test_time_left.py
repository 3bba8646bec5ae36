"""Which change a life makes next: only if it and its tasks end in time."""

from __future__ import annotations

from tests.life.changes import Change
from tests.life.test_life import fitting


async def _does(life):
    raise AssertionError("only chosen")


_QUICK = Change("quick", _does, rounds=0)
_SLOW = Change("slow", _does, rounds=4)
_WAITS = Change("waits", _does, rounds=0, seconds=150)


def test_the_last_one_comes_next_while_there_is_time():
    assert fitting([_QUICK, _SLOW], 30, 1000) is _SLOW
    assert fitting([_SLOW, _QUICK], 30, 1000) is _QUICK


def test_one_that_would_end_too_late_is_passed_over():
    assert fitting([_QUICK, _SLOW], 30, 200) is _QUICK
    assert fitting([_QUICK, _WAITS], 30, 200) is _QUICK


def test_a_slow_machine_has_time_for_less():
    assert fitting([_QUICK, _SLOW], 20, 200) is _SLOW
    assert fitting([_QUICK, _SLOW], 60, 200) is _QUICK
    assert fitting([_QUICK, _SLOW], 120, 200) is None
