"""A judge on a compositor that shows no pixels: windows are felt with the pointer.

A headless mutter has no screen to take pictures of.  A point belongs to the window
whose program is told that the pointer has entered there; what only a picture shows
(pointer images, frames) is not judged.
"""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

from tests.kit.observers.connection import CONTENT
from tests.kit.observers.honest import LEFT_WAIT, Observer
from tests.kit.observers.hostile import ENDED
from tests.kit.observers.judge import Judge
from tests.kit.wayland.client import Client

_FELT = 0.5
"""Seconds in which a program hears that the pointer has come, or it is elsewhere."""
_STEP = 70
"""Pixels between two points; an observer's window is three times as wide."""
_GUESSES = 8
"""Points at which a window of the hostile client is looked for."""
_OPENED = 0.5
"""Seconds after which mutter has shown a window that has its first picture."""
_OPENED_PICTURES = 5
"""Pictures of the desktop's animation after which it has, too: a loaded machine leaves
mutter no time to draw, and a window opens with a picture."""
_OPENS_AT = (455, 245)
"""A point of a window that mutter 43 has just placed: the search begins there."""
_AWAY = (1278, 798)
"""A corner of the screen that no window covers at first."""


def process_below(pid: int, name: str) -> int:
    """Return the process of that name below ``pid`` (proc(5), task/children)."""
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            place = Path(f"/proc/{each}")
            if (place / "comm").read_text().strip() == name:
                return each
            waiting += map(int, (place / f"task/{each}/children").read_text().split())
    raise LookupError(f"no process {name} below {pid}")


class FeltJudge(Judge):
    """Finds windows by the events of their programs."""

    def __init__(self, *args: object, size: tuple[int, int], **more: object) -> None:
        """``size``: of the screen, in pixels."""
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self._dice = random.Random(0)
        self._size = size
        self._places: dict[int, tuple[int, int]] = {}
        self._waited_for = 0
        """How many windows of the hostile client mutter has shown."""

    def spot(self, color: int, b: int = 0) -> tuple[int, int] | None:
        """Return a point of a window, or None where it is covered or has no program."""
        del b
        if color == CONTENT:
            return self._guessed()
        found = [o for o in (*self.observers, self.neighbour) if o.color == color]
        if not found:
            return None
        place = self._places.get(color)
        if place is None:
            place = self._places[color] = self._searched(found[0])
        return place if self._over(found[0], place) else None

    def until_shown(self, observer: Observer) -> None:
        """Nothing to wait for: the search waits at each point."""

    def place(self, observer: Observer, x: int, y: int) -> None:
        """Drag its window, and remember where it is now."""
        self.neighbour = observer
        super().place(observer, x, y)
        self._places[observer.color] = (x, y)

    def _answered(self, observer: Observer) -> None:
        """As everywhere; and the person clicks when new windows are there.

        mutter shows a window, and gives it the keyboard, up to a few frames after its
        first picture has come.  A press in between gives the keyboard to the window
        below the pointer, and the new one takes it right after: from unfiltered
        programs, too.  The others hear no event that ends this wait: a window may be
        refused the keyboard.
        """
        super()._answered(observer)
        self._opened(observer)

    def _between(self, observer: Observer) -> None:
        super()._between(observer)
        self._opened(observer)

    def _opened(self, observer: Observer) -> None:
        """Wait until mutter has shown the hostile client's newest window."""
        if self._waited_for == self.hostile.mapped:
            return
        animation, began = self.gains.animation, time.monotonic()
        first = animation.pictures
        while time.monotonic() < self.hostile.mapped_at + _OPENED or (
            animation.pictures < first + _OPENED_PICTURES
            and time.monotonic() < began + LEFT_WAIT  # the judge of gains sees that
        ):
            observer.roundtrip()
            time.sleep(0.01)
        self._waited_for = self.hostile.mapped

    def _shown(self) -> None:
        """Pictures show that; there are none."""

    def _searched(self, observer: Observer) -> tuple[int, int]:
        across, down = self._size
        points = [
            (x, y)
            for y in range(_STEP // 2, down, _STEP)
            for x in range(_STEP // 2, across, _STEP)
        ]
        x, y = _OPENS_AT
        points.sort(key=lambda p: abs(p[0] - x) + abs(p[1] - y))
        for point in points:
            if self._over(observer, point):
                return point
        raise AssertionError(f"{observer.name} is nowhere on the screen")

    def _over(self, observer: Observer, point: tuple[int, int]) -> bool:
        """Whether the pointer at that point is in the observer's window."""
        self._away(observer)
        self.mouse.move(*point)
        end = time.monotonic() + _FELT
        while time.monotonic() < end:
            observer.roundtrip()
            if observer.entered():
                return True
            time.sleep(0.01)
        return False

    def _away(self, observer: Observer) -> None:
        """Leave the window first, so that it hears of the return."""
        self.mouse.move(*_AWAY)
        observer.eventually(lambda: not observer.entered())

    def _guessed(self) -> tuple[int, int] | None:
        """Return a point of some window of the hostile client, if one is found."""
        for _ in range(_GUESSES):
            point = tuple(self._dice.randrange(side) for side in self._size)
            self.mouse.move(*_AWAY)
            marks = self.hostile.marks()
            self.mouse.move(*point)
            end = time.monotonic() + _FELT / 5
            while time.monotonic() < end:
                if self._entered(marks):
                    return point[0], point[1]
                time.sleep(0.01)
        return None

    def _entered(self, marks: list[tuple[Client, int]]) -> bool:
        for connection, since in marks:
            with contextlib.suppress(*ENDED):
                connection.listen()
            if any(e[2] == "enter" for e in connection.events[since:]):
                return True
        return False
