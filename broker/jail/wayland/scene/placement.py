"""Where a popup goes: our positioners, by rules that keep it at its parent.

A filter cannot place a popup itself.  It sends the compositor an anchor, an offset with
which the popup touches its parent, and that it may always slide it onto the screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.scene.geometry import Rect, clamp

if TYPE_CHECKING:
    from broker.jail.wayland.scene.frame import Edges
    from broker.jail.wayland.state import ClientState

# xdg_positioner.constraint_adjustment
ANY_ADJUSTMENT = 1 | 2 | 4 | 8 | 16 | 32
_SLIDE = 1 | 2
"""On both axes.  Flip and resize alone may fail, and wlroots 0.15 leaves a popup that it
resizes where it was, off the screen; slide comes after flip and before resize."""

# anchor and gravity: which side of a rectangle a number means, by axis.
_LOW_X, _HIGH_X = frozenset({3, 5, 6}), frozenset({4, 7, 8})
_LOW_Y, _HIGH_Y = frozenset({1, 5, 7}), frozenset({2, 6, 8})


# -- placement, pure -----------------------------------------------------------------


def _anchor_at(
    side: int, low: frozenset[int], high: frozenset[int], start: int, size: int
) -> int:
    if side in low:
        return start
    return start + size if side in high else start + size // 2


def _grow_from(
    point: int, side: int, low: frozenset[int], high: frozenset[int], size: int
) -> int:
    if side in low:
        return point - size
    return point if side in high else point - size // 2


class Wish(NamedTuple):
    """Where a popup is to be, as xdg_positioner says it.

    ``size`` is its outer size, ``rect`` the anchor in the parent's frame, ``adjustment``
    what the program allows if it is not wholly on the screen.
    """

    size: tuple[int, int]
    rect: Rect
    anchor: int
    gravity: int
    offset: tuple[int, int]
    adjustment: int = 0


def touching(parent: tuple[int, int], wish: Wish) -> Wish:
    """Return the wish with the nearest offset at which it touches its parent.

    ``parent`` is its outer size; the unconstrained position is as
    xdg_positioner defines it.
    """
    rect, size, offset = wish.rect, wish.size, wish.offset
    x = _grow_from(
        _anchor_at(wish.anchor, _LOW_X, _HIGH_X, rect.x, rect.w),
        wish.gravity,
        _LOW_X,
        _HIGH_X,
        size[0],
    )
    y = _grow_from(
        _anchor_at(wish.anchor, _LOW_Y, _HIGH_Y, rect.y, rect.h),
        wish.gravity,
        _LOW_Y,
        _HIGH_Y,
        size[1],
    )
    # guard: popup touches parent
    return wish._replace(
        offset=(
            clamp(x + offset[0], -size[0], parent[0]) - x,
            clamp(y + offset[1], -size[1], parent[1]) - y,
        )
    )


def popup_cap(core: ClientState, edges: Edges) -> tuple[int, int]:
    """Return the largest content of a popup: with its frame, a share of an output."""
    width, height = core.screen()
    # guard: popups leave a part of the screen
    share = limits.WAYLAND_POPUP_SHARE
    return (
        max(1, int(width * share) - edges.wide),
        max(1, int(height * share) - edges.high),
    )


# -- our positioner ------------------------------------------------------------

_set_size = emit.request("xdg_positioner", "set_size")
_set_anchor_rect = emit.request("xdg_positioner", "set_anchor_rect")
_set_anchor = emit.request("xdg_positioner", "set_anchor")
_set_gravity = emit.request("xdg_positioner", "set_gravity")
_set_adjustment = emit.request("xdg_positioner", "set_constraint_adjustment")
_set_offset = emit.request("xdg_positioner", "set_offset")
_set_reactive = emit.request("xdg_positioner", "set_reactive")
_set_parent_size = emit.request("xdg_positioner", "set_parent_size")
_set_parent_configure = emit.request("xdg_positioner", "set_parent_configure")
destroy_positioner = emit.request("xdg_positioner", "destroy")


def positioner(core: ClientState, base: int, wish: Wish) -> int:
    """Create a positioner at the xdg_wm_base ``base``; return its id."""
    made = core.own("xdg_positioner").sid
    out = core.up.data
    out += emit.create_positioner(base, made)
    out += _set_size(made, *wish.size)
    out += _set_anchor_rect(made, *wish.rect)
    out += _set_anchor(made, wish.anchor)
    out += _set_gravity(made, wish.gravity)
    # guard: popup adjustment forced
    out += _set_adjustment(made, wish.adjustment | _SLIDE)
    out += _set_offset(made, *wish.offset)
    return made


def follow_parent(
    core: ClientState,
    made: int,
    *,
    reactive: bool,
    size: tuple[int, int] | None,
    serial: int | None,
) -> None:
    """Set a positioner's data about the future state of its parent (version 3)."""
    out = core.up.data
    if reactive:
        out += _set_reactive(made)
    if size is not None:
        out += _set_parent_size(made, *size)
    if serial is not None:
        out += _set_parent_configure(made, serial)
