"""How fast a connection may go."""

from __future__ import annotations

import pytest

from broker.core import limits
from broker.core.pace import Pace
from broker.wayland.budget import Budget


@pytest.mark.parametrize(("spent", "pause"), [(100, 0.0), (101, 0.1), (110, 1.0)])
def test_a_bucket_pauses_for_its_debt(spent, pause):
    assert Pace(10, 100).take(0.0, spent) == pytest.approx(pause)


def test_a_bucket_fills_with_time_and_never_above_its_burst():
    bucket = Pace(10, 100)
    bucket.take(0.0, 100)
    assert bucket.take(1.0, 10) == 0.0
    assert bucket.take(1000.0, 101) == pytest.approx(0.1)


@pytest.mark.parametrize("extra", [0, 60_000])
def test_messages_and_pixels_each_have_a_budget(extra):
    budget = Budget()
    assert budget.pause(limits.WAYLAND_MESSAGES_BURST + extra, 0, 0.0) == pytest.approx(
        extra / limits.WAYLAND_MESSAGES_PER_SECOND
    )
    budget = Budget()
    pixels = limits.WAYLAND_COMMIT_PIXELS_BURST + extra
    assert budget.pause(0, pixels, 0.0) == pytest.approx(
        extra / limits.WAYLAND_COMMIT_PIXELS_PER_SECOND
    )
