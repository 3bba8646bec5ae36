"""Drags on compositors that take no orders: mutter, and those shown on another one.

Such a compositor does not report where it puts a window, nor how long a movement of
the pointer takes through two of them: so the pointer searches for its target, and
its place is taken from the events of a client or a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

from tests.kit.clipboard.client import TEXT, Drag, Guest
from tests.kit.clipboard.stand import SCREEN
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.mutter_person import Gnome, GnomePointer
from tests.kit.wayland.stand import Nested

STEP = 45
REST = 0.5
"""Seconds without a word after which a pointer that rests is believed to."""
MOMENT = 2.0
"""Seconds that a press may take to come to a window that has the pointer."""
ROUNDS = 5
BACK = 40
"""Steps by which what a client says may be later than the pointer."""

LARGE = (700, 500)
"""A window's size that the source's window, which is above it, cannot cover."""


def _spots() -> Iterator[tuple[int, int]]:
    """Points of the screen, all of it, some times."""
    rows, columns = range(30, SCREEN[1], STEP), range(30, SCREEN[0], STEP)
    for _ in range(ROUNDS):
        for y, x in product(rows, columns):
            yield x, y


def _rest(c: Guest) -> None:
    """Wait until no more events come for the pointer's present place.

    Two answers of the inner compositor, so that it has read the movement, which
    lay in its socket before the first was asked for; and then some silence, as
    KWin reads in a separate thread.
    """
    c.roundtrip()
    c.roundtrip()
    kinds = {"wl_pointer", "wl_data_device", "wl_data_source"}
    while True:
        try:
            c.wait(lambda e: e[1] in kinds, REST, since=len(c.events))
        except TimeoutError:
            return


def _look(
    c: Guest,
    mouse: Pointer | GnomePointer,
    passed: Callable[[], bool],
    here: Callable[[], bool],
) -> Iterator[None]:
    """Move, and yield where ``here`` holds: fast until ``passed``, then slowly back."""
    way: list[tuple[int, int]] = []
    for spot in _spots():
        way.append(spot)
        mouse.move(*spot)
        c.roundtrip()
        if not passed():
            continue
        for before in way[: -BACK - 1 : -1]:
            mouse.move(*before)
            _rest(c)
            if here() and _still(c, mouse, before, here):
                yield
                break
        way.clear()


def _still(
    c: Guest,
    mouse: Pointer | GnomePointer,
    spot: tuple[int, int],
    here: Callable[[], bool],
) -> bool:
    """Whether it holds a step beside it as well, and then there again."""
    for aside in (3, 0):
        mouse.move(spot[0] + aside, spot[1])
        _rest(c)
        if not here():
            return False
    return True


def _inside(c: Guest) -> bool:
    """Whether the pointer is in the client's window, as far as it has been told."""
    names = {"enter", "leave"}
    told = [e[2] for e in c.events if e[1] == "wl_pointer" and e[2] in names]
    return told[-1:] == ["enter"]


def _press(c: Guest, mouse: Pointer | GnomePointer) -> int:
    """Press in the client's window; the serial of that."""
    inside = partial(_inside, c)
    for _ in _look(c, mouse, inside, inside):
        since = len(c.events)
        mouse.button(True)
        try:
            return int(c.wait(lambda e: e[2] == "button", MOMENT, since=since)[3][0])
        except TimeoutError:
            mouse.button(False)
    raise AssertionError("the pointer found no window of the source")


def _may_drop(c: Guest, source: int) -> bool:
    told = [e[3] for e in c.events if e[0] == source and e[2] == "action"]
    return told[-1:] == [[1]]


def _new(over: Callable[[], int]) -> Callable[[], bool]:
    """Whether ``over`` counts more than when this was asked last."""
    seen = 0

    def more() -> bool:
        nonlocal seen
        before, seen = seen, over()
        return seen > before

    return more


def drag_nested(
    c: Guest,
    *types: bytes,
    over: Callable[[], int],
    accepted: Callable[[], bool] | None = None,
) -> Drag:
    """Drag from this client's window to one over which ``over`` counts drags.

    ``accepted``: whether the target takes the last drag that came over it, where the
    source is not informed of that because the target is another sandbox's.
    """
    it = c.it
    assert isinstance(it.comp, Nested | Gnome)
    mouse = it.comp.mouse
    assert mouse is not None
    c.make(c.seat, "get_pointer", "wl_pointer")
    c.roundtrip()
    serial = _press(c, mouse)
    source = c.make(c.manager, "create_data_source", "wl_data_source")
    for mime in types or (TEXT,):
        c.send(source, "offer", mime)
    c.send(source, "set_actions", 1)
    c.send(c.device, "start_drag", source, c.window, 0, serial)
    c.roundtrip()
    came, may = _new(over), accepted or partial(_may_drop, c, source)
    if next(_look(c, mouse, came, may), 0) is not None:
        raise AssertionError("the pointer found no window that takes it")
    return Drag(source, mouse)
