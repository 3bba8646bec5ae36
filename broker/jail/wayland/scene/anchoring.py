"""Where a popup's frame is anchored, so that its content is where it was wished.

A popup grows from its anchor by its gravity, and what the compositor places is
the frame.  Left alone, the frame would push the content away from its anchor
by its width, and a toolkit that receives a place other than the one it computed
believes that its menu was moved by the screen's edge: GTK 3 then scrolls the menu.
Pure arithmetic; places as xdg_positioner defines them.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.jail.wayland.scene.geometry import Rect

# anchor and gravity: which side of a rectangle a number means, by axis.
_X = (0, 0, 0, -1, 1, -1, -1, 1, 1)
_Y = (0, -1, 1, 0, 0, -1, 1, -1, 1)


class Axis(NamedTuple):
    """The anchor's ``start`` and ``size`` on one axis, and a ``shift`` of the offset."""

    start: int
    size: int
    shift: int = 0


def along(at: Axis, whole: int, sides: tuple[int, int], edges: tuple[int, int]) -> Axis:
    """Compute one axis of ``around_content``; sides are -1, 0 and 1."""
    (anchor, gravity), (before, after) = sides, edges
    if anchor == gravity and gravity != 0 and at.size > before + after:
        # Also right where the compositor flips both to the other side.
        return Axis(at.start + after, at.size - before - after, at.shift)
    fits = at.start >= before and at.start + at.size + after <= whole
    if anchor == -gravity and gravity != 0 and fits:
        return Axis(at.start - before, at.size + before + after, at.shift)
    if gravity == 0:
        return Axis(at.start, at.size, at.shift - (before - after) // 2)
    return Axis(at.start, at.size, at.shift + (after if gravity < 0 else -before))


def around_content(
    rect: Rect,
    parent: tuple[int, int],
    sides: tuple[int, int],
    edges: tuple[int, int, int, int],
    offset: tuple[int, int],
) -> tuple[Rect, tuple[int, int]]:
    """Return the anchor and offset that put a frame's content where it was wished.

    ``rect`` is the anchor in the parent's frame, ``parent`` that frame's size,
    ``sides`` are anchor and gravity, ``edges`` the popup's frame: left, top,
    right, bottom.  The anchor stays inside the parent and is never empty.
    """
    anchor, gravity = sides
    left, top, right, bottom = edges
    x = along(
        Axis(rect.x, rect.w, offset[0]),
        parent[0],
        (_X[anchor], _X[gravity]),
        (left, right),
    )
    y = along(
        Axis(rect.y, rect.h, offset[1]),
        parent[1],
        (_Y[anchor], _Y[gravity]),
        (top, bottom),
    )
    return Rect(x.start, y.start, x.size, y.size), (x.shift, y.shift)
