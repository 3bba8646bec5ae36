"""What a hostile client gains where no promise is broken outright, in figures.

A desktop's animation, the keys that were typed for others, other sandboxes' chords and
``kill-window`` are what it can delay or take in part.  Each has a bound and is printed
for every run.  Seconds in which the compositor or this program waited for a processor
do not count: other programs of a loaded machine cause them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from broker.core.limits import wayland as limits
from tests.kit.observers.honest import Observer, SeenError
from tests.kit.observers.hostile import ENDED

GAP_BOUND = 2.5
"""Seconds between two pictures of the desktop's own animation."""
CLAIM_BOUND = 2.5
"""Seconds for which a sandbox claims a keyboard that it no longer has: as long are the
chords of all others refused."""
KILL_BOUND = 2.5
"""Seconds until a window is gone that the user ends."""


class Clock:
    """Seconds, without those in which one of two processes waited for a processor.

    Of this process and the compositor, as the scheduler counts (schedstat, proc(5)).
    """

    def __init__(self, pid: int) -> None:
        """``pid``: of the compositor."""
        self._tasks = [Path("/proc/self/task"), Path(f"/proc/{pid}/task")]
        self._known: dict[Path, int] = {}
        self._waited = 0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            for thread in (t for tasks in self._tasks for t in tasks.glob("*")):
                # A thread may end meanwhile.
                with suppress(FileNotFoundError, ProcessLookupError):
                    waited = int((thread / "schedstat").read_text().split()[1])
                    self._waited += waited - self._known.get(thread, waited)
                    self._known[thread] = waited
            return time.monotonic() - self._waited / 1e9


class Animation:
    """A program of the desktop's own that draws as often as it may.

    ``window`` is placed where no other is: a newer sway lets those wait that are covered.
    """

    def __init__(self, window: Observer, pid: int) -> None:
        """``pid``: of the compositor that shows it."""
        self._window, self.clock = window, Clock(pid)
        self._stop, self._begun = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self.pictures, self._longest, self._last = 0, 0.0, self.clock()
        self._covered = threading.Event()

    @property
    def longest(self) -> float:
        """Seconds of the longest gap, the one that lasts still included."""
        if self._covered.is_set():
            return self._longest
        return max(self._longest, self.clock() - self._last)

    def exclude_gap(self) -> None:
        """Leave out the present gap: the compositor draws a fullscreen window alone."""
        self._covered.set()

    def __enter__(self) -> Self:
        self._thread.start()
        # A window that opens later takes the keyboard from an observer.
        if not self._begun.wait(30):
            raise TimeoutError("the animation has no picture on the screen")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _draw(self) -> None:
        window, color = self._window, 0xFF000000 | self._window.color
        # A gap as long as its deadline ends it, and is judged.
        with suppress(TimeoutError):
            while not self._stop.is_set():
                window.paint(window.painted, 32, 32, color)
                window.shown(window.painted)
                now = self.clock()
                if self.pictures and not self._covered.is_set():
                    self._longest = max(self._longest, now - self._last)
                self._last = now
                self._covered.clear()
                self.pictures += 1
                self._begun.set()


class Gains:
    """Of one run."""

    def __init__(
        self,
        animation: Animation,
        kill: Callable[[], bool],
        is_fullscreen: Callable[[], bool],
    ) -> None:
        """``kill`` ends a window of the sandbox; False where it has none.

        ``is_fullscreen``: whether a window of the sandbox fills the screen, as a record
        allows it to one with the keyboard.
        """
        self.animation = animation
        self._kill = kill
        self.is_fullscreen = is_fullscreen
        self.stolen = 0
        """Keys typed for other programs that came to a window which came by itself."""
        self.claimed = self.killed = 0.0

    def end_windows(self, act: Callable[[], None], times: int = 3) -> None:
        """End windows of the sandbox while it acts; raises SeenError."""
        for _ in range(times):
            with suppress(*ENDED, OSError):  # at its limit it has no connection left
                act()
            clock = self.animation.clock
            began = clock()
            while self._kill():
                if clock() - began > KILL_BOUND:
                    break
            self.killed = max(self.killed, clock() - began)
        self.judge()

    def judge(self) -> None:
        """Raise SeenError for a figure beyond its bound."""
        most = limits.WAYLAND_MAPPINGS_PER_MINUTE
        if self.stolen > most:
            raise SeenError(f"{self.stolen} keys typed for others were heard")
        for what, seconds, bound in (
            (
                "an animation of the desktop stood still",
                self.animation.longest,
                GAP_BOUND,
            ),
            ("a keyboard that was gone was claimed", self.claimed, CLAIM_BOUND),
            ("a window that was ended stayed", self.killed, KILL_BOUND),
        ):
            if seconds > bound:
                raise SeenError(f"{what} for {seconds:.1f} s")

    def __str__(self) -> str:
        return (
            f"animation {self.animation.pictures} pictures, longest gap"
            f" {self.animation.longest:.2f} s; {self.stolen} keys of others; keyboard"
            f" claimed {self.claimed:.2f} s too long; window ended in {self.killed:.2f} s"
        )
