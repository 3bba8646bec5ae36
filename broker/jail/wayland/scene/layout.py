"""How a tree of surfaces is laid out: what of each shows, and where.

One formula places every surface of a window: a surface shows the part
``crop`` of itself, ``c`` is that part's origin, and a subsurface lies at

    position + c(child) - c(parent)

in its parent.  A surface wholly outside the content shows one pixel under the
frame's corner strip and has ``c`` such that the formula still holds for its
children (border.md 2: hiding it any other way displaces them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.model import Popup, Surface, XdgSurface, free_cap
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.scene import cropping, promote, window_state
from broker.jail.wayland.scene.geometry import Rect, View

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


def lay_out(core: ClientState, root: Surface) -> None:
    """Crop and place a whole tree; fit the frame.  Marks what needs a commit."""
    xdg = root.xdg
    if xdg is None or xdg.frame is None:
        side = free_cap(root.role)
        _place(core, root, Rect(0, 0, side, side))
        _frame_icon(root, side)
        return
    rect = window_state.content_rect(core, xdg)
    # guard: promoted only by a record
    _place(core, root, rect, xdg if core.rules.promote and xdg.mapped else None)
    frame = xdg.frame
    frame.place(root.cx - rect.x, root.cy - rect.y)
    if xdg.mapped:
        before = frame.outer
        frame.show(rect.w, rect.h, xdg.sid)
        if frame.outer != before:
            window_state.drop_adrift(core, xdg)
        # guard: a popup that is astray goes
        if isinstance(xdg.role, Popup) and window_state.astray(xdg.role):
            window_state.cut_loose(core, xdg, xdg.role)


def _frame_icon(root: Surface, side: int) -> None:
    """Fit a drag icon's frame, which is at most as large as its picture."""
    frame, extent = root.icon, root.extent
    if frame is None:
        return
    frame.place(root.cx, root.cy)
    if extent is not None:
        frame.show(min(extent[0], side), min(extent[1], side), 0)
    else:
        frame.hide()


def _place(
    core: ClientState, surface: Surface, rect: Rect, window: XdgSurface | None = None
) -> None:
    """Crop ``surface`` to ``rect`` (in its coordinates) and place its children.

    ``window`` is that of whose children some may become popups, if any may.
    """
    cx = cy = 0
    view: View | None = None
    if surface.extent is not None:
        crop = Rect(0, 0, *surface.extent).meet(rect)
        if crop is not None:
            cx, cy = crop.x, crop.y
            view = surface.content.view(crop)
        else:
            # guard: hidden under the strip
            cx, cy = rect.x - 1, rect.y - 1
            view = surface.content.view(cropping.ONE_PIXEL)
        surface.crop = crop
        cropping.show_part(core, surface, cx, cy, view)
    else:
        surface.cx = surface.cy = 0
    for sub in surface.children:
        child = sub.surface
        if child is None:
            continue
        # guard: crop follows children
        inner = rect.moved(-sub.x, -sub.y)
        if window is not None:
            popup = promote.held(core, window, sub, inner)
            if popup is not None:
                _place(core, child, popup.room())
                popup.fit(child)
                continue
        _place(core, child, inner, window)
        place = (sub.x + child.cx - cx, sub.y + child.cy - cy)
        if place != sub.placed:
            sub.placed = place
            core.up.data += emit.set_position(sub.sid, *place)
            surface.dirty = child.moved = True
