"""Never more calls than a rule says, in any stretch of its time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.sliding_window import SlidingWindow


@given(
    st.integers(1, 5),
    st.integers(1, 600),
    st.lists(st.floats(0, 300), max_size=60),
)
def test_no_stretch_has_more(calls, seconds, steps):
    rate, now, taken = SlidingWindow(calls, seconds), 0.0, []
    for step in steps:
        now += step
        if rate.take(now):
            taken.append(now)
            assert len([t for t in taken if now - t < seconds]) <= calls
        else:
            # It was full: so many lie within the time and the part of it by
            # which they may be forgotten later.
            late = seconds * (1 + 1 / limits.RATE_SLOTS)
            assert len([t for t in taken if now - t < late]) >= calls


def test_at_the_limit_and_one_above():
    rate = SlidingWindow(3, 60)
    assert [rate.take(1.0) for _ in range(4)] == [True, True, True, False]
    assert not rate.take(60.9)
    assert rate.take(62.0)
    assert not rate.idle(70.0)
    assert rate.idle(200.0)


def test_it_holds_no_more_than_its_parts():
    """A million calls a year are not a million numbers."""
    rate = SlidingWindow(1_000_000, 3600)
    for number in range(20_000):
        rate.take(number * 0.5)
    assert len(rate._counts) <= limits.RATE_SLOTS + 2
