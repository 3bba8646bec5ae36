"""How late an event is heard, by the time that it carries."""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol.event_clock import EventClock


@pytest.mark.parametrize("beginning", [0, 1_000_000, 2**32 - 500])
def test_lateness_is_counted_from_the_soonest_heard(beginning):
    clock = EventClock()

    def ms(seconds: float) -> int:
        return (beginning + int(seconds * 1000)) % 2**32

    assert clock.lateness(ms(10.0), 110.2) == 0  # nothing to compare it with
    assert clock.lateness(ms(11.0), 111.0) == 0  # heard sooner than the first
    assert clock.lateness(ms(12.0), 115.0) == 3.0
    assert clock.lateness(ms(13.0), 113.0) == 0


def test_another_clocks_time_is_not_late():
    """A virtual keyboard may say 0 with each key."""
    clock = EventClock()
    far = limits.WAYLAND_CLOCKS_APART_SECONDS + 1
    assert clock.lateness(500_000, 1000.0) == 0
    assert clock.lateness(0, 1000.0 + far) == 0
    assert clock.lateness(500_000 + int(far * 1000), 1000.0 + far) == 0


def test_a_clock_that_stands_still_says_nothing():
    """fcitx5 5.0 sends each key on to KWin with the same time, whichever that is."""
    clock = EventClock()
    late = [clock.lateness(692_795_058, 1000 + n * 0.3) for n in range(100)]
    assert max(late) <= limits.WAYLAND_LATE_KEY_SECONDS
    assert clock.lateness(692_795_058, 1050.0) == 0
    # Of one moment, heard late together.
    assert clock.lateness(700_000_000, 1100.0) == 0
    assert clock.lateness(700_001_000, 1103.0) == 2.0
    assert clock.lateness(700_001_000, 1103.5) == 2.5
