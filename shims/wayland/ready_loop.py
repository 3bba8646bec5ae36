"""The event loop of ``wayland_programs``.

It waits until descriptors are ready and calls their actions, in one thread.  The guest
agent has another loop, ``shims/guest/loop.py``.
"""

from __future__ import annotations

import selectors
import time
from typing import Callable, Optional, Tuple


class ReadyLoop:
    """Readiness of descriptors, until ``stop``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._running = True
        self._alarm: Optional[Tuple[float, Callable[[], None]]] = None

    def alarm(self, when: Optional[float], action: Callable[[], None]) -> None:
        """Call this at a time of the monotonic clock, in place of an earlier time; or never."""
        self._alarm = None if when is None else (when, action)

    def watch(self, fd: int, events: int, action: Callable[[int], None]) -> None:
        """Call ``action(events)`` on readiness; 0 events stops watching."""
        known = self._selector.get_map().get(fd)
        if not events:
            self.forget(fd)
        elif known is None:
            self._selector.register(fd, events, action)
        elif known.events != events or known.data is not action:
            self._selector.modify(fd, events, action)

    def forget(self, fd: int) -> None:
        """Stop watching; must come before the descriptor is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def stop(self) -> None:
        """Leave ``run`` after this round."""
        self._running = False

    def run(self) -> None:
        """Dispatch ready descriptors and the alarm until ``stop``."""
        while self._running:
            wait = None
            if self._alarm is not None:
                wait = max(0.0, self._alarm[0] - time.monotonic())
            for key, events in self._selector.select(wait):
                # An earlier action of this round may have closed it.
                if self._selector.get_map().get(key.fd) is key:
                    key.data(events)
            if self._alarm is not None and self._alarm[0] <= time.monotonic():
                (_, action), self._alarm = self._alarm, None
                action()
