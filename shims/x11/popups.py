"""Which window a menu belongs to, and where it goes: pure functions."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

from shims.x11.window import XWindow

MOST_DEPTH = 9
"""Popups on popups; the filter ends a client with more than ten."""
_TOP_LEFT, _BOTTOM_LEFT, _TOP_RIGHT, _BOTTOM_RIGHT = 5, 6, 7, 8
_SLIDE, _FLIP_X = 1 | 2, 4
_BESIDE = 12
"""X11 pixels by which a submenu may overlap the menu at its side."""


class Placement(NamedTuple):
    """What an xdg_positioner is told, in logical pixels."""

    size: tuple[int, int]
    anchor_rect: tuple[int, int, int, int]
    anchor: int
    gravity: int
    constraint_adjustment: int


def popup_parent(
    window: XWindow,
    shown: Sequence[XWindow],
    likely: Sequence[Optional[XWindow]],
    client_mask: int,
) -> Optional[XWindow]:
    """Return the window that a menu is on; None makes it a separate window.

    ``shown`` are configured windows, oldest first; ``likely`` those under the pointer and
    with the keyboard.  Without WM_TRANSIENT_FOR only windows of its X11 client will
    do, or a program's menu would be on another program's window.
    """
    if window.hints.types & {"SPLASH", "NOTIFICATION"}:
        return None
    others = [w for w in shown if w is not window and w.xdg is not None]
    same = [w for w in others if w.xid & ~client_mask == window.xid & ~client_mask]
    named = [w for w in others if w.xid == window.hints.transient]
    wished = [w for w in likely if w is not None and w in same]
    choice = next(iter([*named, *wished, *reversed(same)]), None)
    if choice is None or "TOOLTIP" in window.hints.types:
        return choice
    # xdg_popup wants the topmost open menu of that window.
    base = choice.root
    menus = [w for w in others if w.popup is not None and w.root is base]
    menus = [w for w in menus if w is not base and "TOOLTIP" not in w.hints.types]
    chosen = menus[-1] if menus else choice
    return chosen if depth(chosen) < MOST_DEPTH else None


def depth(window: XWindow) -> int:
    """Return how many popups it is on, itself counted."""
    parent = window.parent if window.popup is not None else None
    return 0 if parent is None else 1 + depth(parent)


def placement(window: XWindow, scale: float) -> Placement:
    """Compute where a popup appears relative to its parent."""
    parent = window.parent
    assert parent is not None
    margin, other, top, _ = parent.hints.extents
    x, y = window.x - parent.x - margin, window.y - parent.y - top
    inner = max(1, parent.w - margin - other)
    size = (_up(window.w, scale), _up(window.h, scale))

    def rect(start: int, width: int) -> tuple[int, int, int, int]:
        # Filters and compositors see the rectangle in logical pixels.
        return (round(start / scale), round(y / scale), max(1, round(width / scale)), 1)

    submenu = parent.popup is not None and "TOOLTIP" not in window.hints.types
    right = inner - x, _TOP_RIGHT, _BOTTOM_RIGHT
    left = x + window.w, _TOP_LEFT, _BOTTOM_LEFT
    for overlap, anchor, gravity in (right, left):
        if submenu and -_BESIDE <= overlap <= _BESIDE < inner // 2:
            row = rect(overlap, inner - 2 * overlap)
            return Placement(size, row, anchor, gravity, _SLIDE | _FLIP_X)
    return Placement(size, rect(x, 1), _TOP_LEFT, _BOTTOM_RIGHT, _SLIDE)


def family(window: XWindow, parent: Optional[XWindow]) -> Optional[XWindow]:
    """Return the toplevel that may be this one's parent: no circle, as X11 allows."""
    found = parent.root if parent is not None else None
    seen: list[XWindow] = [window]
    step = found
    while step is not None:
        if step in seen:
            return None
        seen.append(step)
        step = step.parent
    return found if found is not None and found.toplevel is not None else None


def _up(value: int, scale: float) -> int:
    return max(1, -int(-value // scale))
