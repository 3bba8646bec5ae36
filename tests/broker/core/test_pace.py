"""A token bucket: the burst at once, then the rate."""

from __future__ import annotations

from broker.core.pace import Pace


def test_the_burst_is_free_and_the_next_one_is_not():
    pace = Pace(10, 3)
    assert [pace.take(0.0) for _ in range(3)] == [0, 0, 0]
    assert pace.take(0.0) > 0


def test_whoever_sleeps_as_told_keeps_the_rate():
    pace = Pace(10, 1)
    now = 100.0
    for _ in range(50):
        now += pace.take(now)
    assert 4.8 < now - 100 < 5.1


def test_idle_time_gives_back_no_more_than_the_burst():
    pace = Pace(10, 3)
    for _ in range(3):
        pace.take(0.0)
    assert [pace.take(1000.0) for _ in range(3)] == [0, 0, 0]
    assert pace.take(1000.0) > 0


def test_a_clock_that_begins_anywhere():
    assert Pace(1, 1).take(-5000.0) == 0
