"""When an input event happened, by the time that it carries.

Events carry milliseconds of a clock of the compositor's, with an unknown beginning
(wl_keyboard.key, wl_pointer.button).  The least difference to our clock seen so far
belongs to the event that we heard soonest; what exceeds it is how late another one
is heard.  Freshness is judged by that and not by when we came to read it.
"""

from __future__ import annotations

from broker.core.limits import wayland as limits

_WRAP = 1 << 32


class EventClock:
    """Of one connection.  Sans-IO: the time is passed in, in seconds."""

    __slots__ = ("_last", "_least", "_since")

    def __init__(self) -> None:
        self._least: int | None = None
        self._last = -1
        """The last event's time, and when the first event with it was heard."""
        self._since = 0.0

    def lateness(self, event_ms: int, now: float) -> float:
        """Return how many seconds ago an event happened that arrives now."""
        if event_ms != self._last:
            self._last, self._since = event_ms, now
        # An input method's clock may stand still: fcitx5 5.0 at KWin.  What happened in
        # one moment is heard in one.
        # guard: a clock that stands still makes nothing late
        if now - self._since > limits.WAYLAND_LATE_KEY_SECONDS:
            return 0.0
        apart = (int(now * 1000) - event_ms) % _WRAP
        if self._least is None:
            self._least = apart
        late = (apart - self._least + _WRAP // 2) % _WRAP - _WRAP // 2
        if not 0 <= late <= limits.WAYLAND_CLOCKS_APART_SECONDS * 1000:
            # Heard sooner than any before, or of another clock.
            self._least, late = apart, 0
        return late / 1000
