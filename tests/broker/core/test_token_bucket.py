"""A token bucket: the burst at once, then the rate."""

from __future__ import annotations

import pytest

from broker.core.token_bucket import TokenBucket


def test_the_burst_is_free_and_the_next_one_is_not():
    pace = TokenBucket(10, 3)
    assert [pace.take(0.0) for _ in range(3)] == [0, 0, 0]
    assert pace.take(0.0) > 0


def test_sleeping_for_the_returned_time_keeps_the_rate():
    pace = TokenBucket(10, 1)
    now = 100.0
    for _ in range(50):
        now += pace.take(now)
    assert 4.8 < now - 100 < 5.1


def test_idle_time_gives_back_no_more_than_the_burst():
    pace = TokenBucket(10, 3)
    for _ in range(3):
        pace.take(0.0)
    assert [pace.take(1000.0) for _ in range(3)] == [0, 0, 0]
    assert pace.take(1000.0) > 0


def test_a_clock_that_begins_anywhere():
    assert TokenBucket(1, 1).take(-5000.0) == 0


def test_to_ask_how_early_it_is_counts_nothing():
    pace = TokenBucket(10, 2)
    assert [pace.early(0.0) for _ in range(5)] == [0] * 5
    assert pace.take(0.0, 2) == 0
    assert pace.early(0.0, 0) == 0, "nothing is owed"
    assert pace.early(0.0) == pytest.approx(0.1)
    pace.take(0.0)
    assert pace.early(0.0, 0) == pytest.approx(0.1), "one is owed"
    assert pace.early(0.25) == 0
