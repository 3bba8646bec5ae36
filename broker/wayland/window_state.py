"""Windows between commits: content rectangle, first and last appearance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core import limits
from broker.wayland import emit, identity, promote
from broker.wayland.geometry import Rect
from broker.wayland.model import Popup, Toplevel, XdgSurface

if TYPE_CHECKING:
    from broker.wayland.filter import Filter


def content_rect(core: Filter, xdg: XdgSurface) -> Rect:
    """The part of a window's surface that its frame surrounds.

    What the client declared as window geometry, or its whole surface.  A
    popup gets the size that it was placed with and no more: the compositor
    keeps that much on the screen, so its frame cannot hang over the edge.  A
    window is, with its frame, no larger than the largest screen, unless the
    compositor itself made it so: a frame beyond all edges is none.
    """
    surface = xdg.surface
    extent = (surface.extent if surface is not None else None) or (1, 1)
    rect = xdg.geometry or Rect(0, 0, *extent)
    most_w = most_h = limits.WAYLAND_BUFFER_SIDE
    if isinstance(xdg.role, Popup):
        most_w, most_h = xdg.role.size
    elif isinstance(xdg.role, Toplevel):
        edges = xdg.frame.edges if xdg.frame is not None else core.edges
        wide, high = core.screen()
        most_w = max(wide - edges.wide, xdg.role.configured[0])
        most_h = max(high - edges.high, xdg.role.configured[1])
    return Rect(
        rect.x, rect.y, max(1, min(rect.w, most_w)), max(1, min(rect.h, most_h))
    )


def touches(popup: Popup, parent: XdgSurface) -> bool:
    """Whether a popup, where the compositor put it, still meets its parent."""
    mine = popup.xdg.frame.outer if popup.xdg and popup.xdg.frame else None
    its = parent.frame.outer if parent.frame is not None else None
    if mine is None or its is None:
        return True
    x, y = popup.place
    return -mine[0] <= x <= its[0] and -mine[1] <= y <= its[1]


def drop_adrift(core: Filter, parent: XdgSurface) -> None:
    """Hide popups that a parent has shrunk away from.

    Placed beside a wide window, a menu would otherwise stay alone on the
    screen when that window becomes one pixel: a lone rectangle anywhere.
    """
    gone = parent.role.adrift if isinstance(parent.role, Popup) else False
    for xdg in core.windows:
        role = xdg.role
        if isinstance(role, Popup) and role.parent is parent and xdg.mapped:
            if xdg.frame is None or (touches(role, parent) and not gone):
                continue
            role.adrift = True
            xdg.mapped = False
            drop_adrift(core, xdg)  # what stood on it first
            promote.end_window(core, xdg)
            xdg.frame.hide()
            if not role.done:
                role.done = True
                core.down.data += emit.popup_done(role.cid)


def introduce(core: Filter, xdg: XdgSurface) -> None:
    """Before a window's first commit: tell the compositor whose it is.

    Unmapping discards a toplevel's attributes (xdg_toplevel), so this comes
    before each first commit anew.
    """
    role = xdg.role
    if isinstance(role, Toplevel):
        rules = core.rules
        title = identity.title(rules.shown, role.title)
        core.up.data += emit.set_title(role.sid, title)
        app_id = identity.app_id(rules.name, role.app_id)
        core.up.data += emit.set_app_id(role.sid, app_id)


def unmap(core: Filter, xdg: XdgSurface) -> None:
    """Hide a window whose surface lost its buffer; it starts from the beginning."""
    promote.end_window(core, xdg)
    xdg.mapped = False
    xdg.acked = False
    xdg.committed = False
    # A client may acknowledge what was on its way while it unmapped.
    xdg.stale = [*xdg.stale, *xdg.serials][-limits.WAYLAND_SHELL_OPS :]
    xdg.serials.clear()
    if isinstance(xdg.role, Toplevel):
        xdg.role.fake_fullscreen = False
        xdg.role.maximized = False
        xdg.role.real_fullscreen.clear()
    if xdg.frame is not None:
        popup = isinstance(xdg.role, Popup)
        xdg.frame.change_edges(core.popup_edges if popup else core.edges)
        xdg.frame.hide()
    core.windows_changed()
