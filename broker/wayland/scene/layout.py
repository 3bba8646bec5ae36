"""How a tree of surfaces is laid out: what of each shows, and where.

One formula places every surface of a window: a surface shows the part
``crop`` of itself, ``c`` is that part's origin, and a subsurface lies at

    position + c(child) - c(parent)

in its parent.  A surface wholly outside the content shows one pixel under the
frame's corner strip and has ``c`` such that the formula still holds for its
children (border.md 2: hiding it any other way displaces them).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker.core import limits
from broker.wayland.handlers import constraints
from broker.wayland.model import Popup, RegionOps, Surface, XdgSurface, free_cap
from broker.wayland.protocol import emit
from broker.wayland.scene import buffer_part, promote, window_state
from broker.wayland.scene.geometry import Rect, View, clamp

if TYPE_CHECKING:
    from broker.wayland.filter import WaylandFilter

_FAR = limits.WAYLAND_COORDINATE
_ONE_PIXEL = Rect(0, 0, 1, 1)
CORNER = (0, 0)
"""Where the compositor puts a new subsurface, in its parent."""


def lay_out(core: WaylandFilter, root: Surface) -> None:
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
    """Fit a drag icon's frame, which is no larger than its picture."""
    frame, extent = root.icon, root.extent
    if frame is None:
        return
    frame.place(root.cx, root.cy)
    if extent is not None:
        frame.show(min(extent[0], side), min(extent[1], side), 0)
    else:
        frame.hide()


def _place(
    core: WaylandFilter, surface: Surface, rect: Rect, window: XdgSurface | None = None
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
            view = surface.content.view(_ONE_PIXEL)
        surface.crop = crop
        _crop(core, surface, cx, cy, view)
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
            surface.dirty = True


def _crop(
    core: WaylandFilter, surface: Surface, cx: int, cy: int, view: View | None
) -> None:
    view, other = buffer_part.crop(core, surface, view)
    moved = other or (cx, cy) != (surface.cx, surface.cy)
    if not moved and view == surface.view:
        return
    surface.cx, surface.cy = cx, cy
    surface.dirty = True
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
            constraints.send_region(core, surface, surface.constraint)


def withdraw(core: WaylandFilter, surface: Surface) -> bool:
    """Leave one pixel of a tree that is in no window, until it is laid out again.

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
        # guard: a pixel of what lies on it
        surface.dirty |= withdraw(core, child)
        if sub.placed != CORNER:
            # guard: a pixel at the corner
            sub.placed = CORNER
            core.up.data += emit.set_position(sub.sid, *CORNER)
            surface.dirty = True
    if surface.extent is not None:
        view = surface.content.view(_ONE_PIXEL)
        _crop(core, surface, surface.cx, surface.cy, view)
    if not surface.dirty:
        return False
    surface.dirty = False
    core.up.data += emit.commit(surface.sid)
    return True


# -- regions ---------------------------------------------------------------------------


def send_region(
    core: WaylandFilter, surface: Surface, write: emit.Packer, ops: RegionOps | None
) -> None:
    """Set a region of the surface's."""
    with region_of(core, surface, ops) as region:
        core.up.data += write(surface.sid, region)


@contextmanager
def region_of(
    core: WaylandFilter, surface: Surface, ops: RegionOps | None
) -> Iterator[int]:
    """A region of these operations, shifted by the crop, for one request; 0 for none."""
    out = core.up.data
    if ops is None:
        yield 0
        return
    region = core.own("wl_region").sid
    out += emit.create_region(core.compositor, region)
    for add, x, y, w, h in ops:
        op = emit.region_add if add else emit.region_subtract
        out += op(
            region,
            clamp(x - surface.cx, -_FAR, _FAR),
            clamp(y - surface.cy, -_FAR, _FAR),
            w,
            h,
        )
    yield region
    out += emit.region_destroy(region)
