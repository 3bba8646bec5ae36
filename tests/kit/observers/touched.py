"""What a tap must cause, and what a hostile client may hear of fingers.

A finger in an honest window has another number than one in a hostile window, so a
client that was deaf meanwhile cannot be taken for one that heard too much.
"""

from __future__ import annotations

from tests.kit.observers.honest import Observer, SeenError
from tests.kit.wayland.client import Client

HOSTILE_FINGER, FINGER = 3, 7
"""Numbers of the finger in hostile windows, and in an observer's."""
DESKTOP = 3, 3
"""A point of the touch screen that no window covers."""
_PLACE = {"down": 3, "up": 2, "motion": 1, "shape": 0, "orientation": 0}
"""Which argument of an event is the number of its finger."""
_SIZE = 320, 220
"""Of an observer's window."""


def judge_tap(observer: Observer, since: int, *, focus: bool) -> None:
    """The tap came to the observer, in coordinates of its window.

    ``focus``: it has the keyboard then, because no window opened meanwhile.
    """

    def heard(name: str) -> list[list[int]]:
        return observer.heard(name, since, observer.touch)

    if not observer.eventually(lambda: bool(heard("up") or heard("cancel"))):
        raise SeenError(f"a finger on {observer.name} did not reach it")
    if heard("cancel"):
        raise SeenError(f"a finger on {observer.name} was taken from it")
    (down,), moved = heard("down"), heard("motion")
    x, y = down[4] / 256, down[5] / 256
    if not (0 <= x < _SIZE[0] and 0 <= y < _SIZE[1]):
        raise SeenError(f"a finger on {observer.name} is at {x}, {y} of it")
    if moved and (moved[-1][2] - down[4], moved[-1][3] - down[5]) != (768, 768):
        raise SeenError(f"a finger on {observer.name} moved from {down} to {moved}")
    if focus and not observer.eventually(observer.focused):
        raise SeenError(f"{observer.name} was touched and has no keyboard")


def judge_heard(hostile: Client) -> None:
    """It heard of no finger in another's window, nor that there was one."""
    told = 0
    for _, interface, name, args in hostile.events:
        if interface != "wl_touch":
            continue
        if name in _PLACE and args[_PLACE[name]] == FINGER:
            raise SeenError(f"a finger elsewhere was heard: {name} {args}")
        if name == "frame" and not told:
            raise SeenError("a touch elsewhere was heard: a frame without a finger")
        told = 0 if name == "frame" else told + 1
