"""The visible part of a surface: its viewport, and the state that moves with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.scene import buffer_part
from broker.jail.wayland.scene.geometry import Rect, View
from broker.jail.wayland.scene.regions import send_constraint, send_region

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_FAR = limits.WAYLAND_COORDINATE
ONE_PIXEL = Rect(0, 0, 1, 1)
CORNER = (0, 0)
"""Where the compositor puts a new subsurface, in its parent."""


def show_part(
    core: ClientState, surface: Surface, cx: int, cy: int, view: View | None
) -> None:
    """Show ``view`` of a surface, with that part's origin at ``(cx, cy)``."""
    view, other = buffer_part.crop(core, surface, view)
    moved = other or (cx, cy) != (surface.cx, surface.cy)
    if not moved and view == surface.view:
        return
    surface.cx, surface.cy = cx, cy
    surface.dirty = surface.moved = True
    out = core.up.data
    if view != surface.view:
        surface.view = view
        if not surface.viewport_sid:
            surface.viewport_sid = core.own("wp_viewport").sid
            out += emit.get_viewport(core.viewporter, surface.viewport_sid, surface.sid)
        source = view.source if view is not None else buffer_part.UNSET_SOURCE
        size = view.size if view is not None else (-1, -1)
        out += emit.set_source(surface.viewport_sid, *source)
        out += emit.set_destination(surface.viewport_sid, *size)
    if moved:
        # Damage that came with this commit was shifted by the former crop.
        out += emit.damage(surface.sid, 0, 0, _FAR, _FAR)
        if surface.input is not None:
            send_region(core, surface, emit.set_input_region, surface.input)
        if surface.opaque is not None:
            send_region(core, surface, emit.set_opaque_region, surface.opaque)
        if surface.constraint is not None:
            send_constraint(core, surface, surface.constraint)


def withdraw(core: ClientState, surface: Surface) -> bool:
    """Crop a tree that is in no window to one pixel, until it is laid out again.

    A subsurface belongs to its parent from the parent's next commit on, but KWin
    (5.27) shows it at once, at its parent's corner: without this as large as it
    was shown last, over the frame and beyond, for as long as the parent is not
    committed.  Whether anything was committed: a child's commit waits for this
    one's, also where of this one nothing changes.
    """
    for sub in surface.children:
        child = sub.surface
        if child is None:
            continue
        # guard: a pixel of a subsurface
        surface.dirty |= withdraw(core, child)
        if sub.placed != CORNER:
            # guard: a pixel at the corner
            sub.placed = CORNER
            core.up.data += emit.set_position(sub.sid, *CORNER)
            surface.dirty = True
    if surface.extent is not None:
        view = surface.content.view(ONE_PIXEL)
        show_part(core, surface, surface.cx, surface.cy, view)
    return commit_if_dirty(core, surface)


def commit_if_dirty(core: ClientState, surface: Surface) -> bool:
    """Commit a surface that has changed; return whether it was committed."""
    if not surface.dirty:
        return False
    surface.dirty = False
    core.up.data += emit.commit(surface.sid)
    return True
