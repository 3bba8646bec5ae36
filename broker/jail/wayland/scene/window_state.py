"""Windows between commits: content rectangle, size limits, first and last appearance."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland import choice, identity, parents, unmapped
from broker.jail.wayland.model import FULLSCREEN, Popup, Surface, Toplevel, XdgSurface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import icon, promote
from broker.jail.wayland.scene.frame import NO_EDGES
from broker.jail.wayland.scene.geometry import Rect

if TYPE_CHECKING:
    from broker.core.streams.wayland_rules import WindowRules
    from broker.jail.wayland.scene.frame import Edges, Frame
    from broker.jail.wayland.state import ClientState

TOPLEVEL_INVALID_SIZE = 2
"""Error code, as xdg_toplevel numbers it."""


def content_rect(core: ClientState, xdg: XdgSurface) -> Rect:
    """Return the part of a window's surface that its frame surrounds.

    The window geometry that the client declared, or its whole surface.  A
    popup gets the size that it was placed with and no more (``_popup_size``).  A
    window is, with its frame, no larger than the largest screen, unless the
    compositor itself made it so: a frame beyond all edges is invisible.  Maximised or tiled
    it is no larger than configured: newer versions of sway cut that off.
    """
    surface = xdg.surface
    extent = (surface.extent if surface is not None else None) or (1, 1)
    rect = xdg.geometry or Rect(0, 0, *extent)
    most_w = most_h = limits.WAYLAND_BUFFER_SIDE
    if isinstance(xdg.role, Popup):
        return Rect(rect.x, rect.y, *_popup_size(core, xdg, xdg.role, rect))
    if isinstance(xdg.role, Toplevel):
        edges = xdg.frame.edges if xdg.frame is not None else core.edges
        wide, high = _space(core, xdg.role)
        # guard: no window larger than the screen
        most_w = max(wide - edges.wide, xdg.role.imposed[0])
        most_h = max(high - edges.high, xdg.role.imposed[1])
        cap_w, cap_h = xdg.role.cap
        if xdg.frame is not None and xdg.frame.maximized is not None:
            w, h = xdg.frame.maximized
            # guard: tiles are not exceeded
            cap_w = min(cap_w or w, w - edges.wide)
            cap_h = min(cap_h or h, h - edges.high)
        most_w, most_h = min(most_w, cap_w or most_w), min(most_h, cap_h or most_h)
    return Rect(
        rect.x, rect.y, max(1, min(rect.w, most_w)), max(1, min(rect.h, most_h))
    )


def _space(core: ClientState, role: Toplevel) -> tuple[int, int]:
    """Return the size that a window may have, with its frame, by its own choice."""
    wide, high = core.screen()
    if not role.placed:
        # KWin centres a window that comes.  If it is higher than the space beside the
        # panel, its upper edge with the name is outside the screen.  Once it is placed,
        # it grows to the right and downwards.
        # guard: a window comes no larger than its bounds
        wide, high = (
            min(wide, role.bounds[0] or wide),
            min(high, role.bounds[1] or high),
        )
    return wide, high


def _popup_size(
    core: ClientState, xdg: XdgSurface, popup: Popup, rect: Rect
) -> tuple[int, int]:
    """Return a popup's content size: at most as placed, touching its parent.

    The compositor keeps that much on the screen, so its frame cannot hang over the
    edge.  A window that is beside its parent's left or upper side, and smaller than it
    was placed with, would stand alone somewhere: it keeps that size, empty.
    """
    edges = xdg.frame.edges if xdg.frame is not None else core.edges
    # guard: popup keeps its size
    most_w, most_h = popup.granted.size
    w, h = max(1, min(rect.w, most_w)), max(1, min(rect.h, most_h))
    if any(x < -(w + edges.wide) for _, (x, _) in popup.places()):
        # guard: a popup on the left is as wide as it was placed
        w = most_w
    if any(y < -(h + edges.high) for _, (_, y) in popup.places()):
        # guard: a popup above is as high as it was placed
        h = most_h
    return w, h


def asked(core: ClientState, xdg: XdgSurface, role: Toplevel) -> None:
    """Start the timer of a window that exceeds the size that the compositor sent.

    The timeout is handled in ``resize_timeout.py``.
    """
    if role.due is None and (role.bound or too_large(core, xdg, role)):
        role.due = core.now + limits.WAYLAND_LATE_SECONDS
        core.due = min(role.due, core.due or role.due)


def answered(core: ClientState, xdg: XdgSurface, role: Toplevel) -> None:
    """Stop the timer of a window whose commit acknowledges the last configure."""
    role.placed = role.placed or xdg.mapped
    # guard: lateness is not put off
    if not xdg.serials:
        role.due, role.cap = None, (0, 0)
    elif role.cap != (0, 0) and xdg.frame is not None:
        role.cap = room(core, role, xdg.frame)


# No window is larger than the largest screen. A window whose frame lies beyond every
# edge of the screen has no frame. The compositor places windows, not we, but a window
# that is no larger than a screen can be placed whole. The price: an application whose
# least size is larger is cropped. A size that the compositor itself configured (a
# window that a user stretches over two screens) is allowed until a screen becomes
# smaller or is unplugged. To a floating window, a compositor sends the size that the
# application chose, also once more after the change. So afterwards only a configure
# that is larger than the window could have been before counts, or the next one after a
# configure that fits the new screens; the price is that a window that was stretched
# over two screens is cropped when one of them goes.
def too_large(core: ClientState, xdg: XdgSurface, role: Toplevel) -> bool:
    """Return whether the frame is larger than the compositor's last configure."""
    frame, (w, h) = xdg.frame, role.configured
    if frame is None or frame.outer is None or not xdg.mapped:
        return False
    if not may_have(core, role, frame.edges):
        # guard: a frame however large
        return True  # it was really fullscreen, or had a title bar
    edges = core.edges_for(role)
    wide, high = w + edges.wide, h + edges.high
    return (w > 0 and frame.outer[0] > wide) or (h > 0 and frame.outer[1] > high)


def may_have(core: ClientState, role: Toplevel, edges: Edges) -> bool:
    """Return whether a window may have this frame in its present state.

    That with its name it may always have.
    """
    real = edges == NO_EDGES and FULLSCREEN in role.states
    return real or edges in {core.edges, core.edges_for(role)}


def room(core: ClientState, role: Toplevel, frame: Frame) -> tuple[int, int]:
    """Return the content size that the compositor's last configure leaves."""
    wide, high = role.configured
    if frame.edges == core.edges and high:
        # It was for the frame that a window has besides its title bar.
        # guard: a name takes its room from the content
        high = max(1, high + core.edges_for(role).high - frame.edges.high)
    return wide, high


def set_edges(
    core: ClientState, role: Toplevel, frame: Frame, acknowledged: Edges
) -> None:
    """Give a window the frame of the configure that it acknowledged.

    No frame at all counts only while the compositor's last state is fullscreen, one
    without a name while it draws the title bar: an application could keep the
    acknowledgement of an earlier one for later.
    """
    # guard: a frame by the last configure
    edges = acknowledged if may_have(core, role, acknowledged) else core.edges
    if edges != frame.edges:
        frame.change_edges(edges)
        size_hints(core, role)


# A menu is accepted at any place that the compositor may have chosen. A lone rectangle
# on top of another window is what a fake dialog looks like, so a menu that is not at
# its window is not shown. The compositor says in a configure where it puts a menu, but
# not when: KWin moves one whose size stays at once, others when the application has
# acknowledged the place and drawn. So a menu must touch its window at its last place
# and at each one sent to it since; one that does not is dismissed. The sent place is
# that of its upper left corner: drawn smaller than it was placed, a menu at the left of
# its window, or above it, would come off it. It keeps the size it was placed with, its
# frame around an empty rest, which costs an honest application nothing and is not its
# end.
def touches(popup: Popup, parent: XdgSurface) -> bool:
    """Return whether a popup meets its parent, wherever the compositor may have it."""
    frame = popup.xdg.frame if popup.xdg is not None else None
    its = parent.frame.outer if parent.frame is not None else None
    if frame is None or its is None:
        return True
    wide, high = frame.edges.wide, frame.edges.high
    return all(
        -(w + wide) <= x <= its[0] and -(h + high) <= y <= its[1]
        for (w, h), (x, y) in popup.places()
    )


def astray(popup: Popup) -> bool:
    """Return whether a popup that is shown is not at its parent, or may soon not be."""
    return popup.parent is not None and not touches(popup, popup.parent)


def placed(core: ClientState, xdg: XdgSurface, popup: Popup, serial: int) -> None:
    """Record a popup's configured place, and hide it if it may be adrift."""
    if popup.adrift:
        return
    popup.told[serial] = popup.next
    # guard: a popup's places are bounded
    if len(popup.told) > limits.WAYLAND_SERIALS:
        cut_loose(core, xdg, popup)  # its place among so many is unknown
    frame, surface = xdg.frame, xdg.surface
    if frame is None or surface is None or not xdg.mapped:
        return
    _, _, w, h = content_rect(core, xdg)
    # guard: a popup's place counts at once
    if astray(popup) or frame.outer != (w + frame.edges.wide, h + frame.edges.high):
        core.late.append(partial(_show_popup, core, xdg, surface))


def _show_popup(core: ClientState, xdg: XdgSurface, surface: Surface) -> None:
    """Lay a popup out again, unless the compositor has closed it at once."""
    if xdg.mapped and not surface.dead:
        core.show_again(surface)


def drop_adrift(core: ClientState, parent: XdgSurface) -> None:
    """Hide popups that a parent has shrunk away from, or that is not shown itself.

    Placed beside a wide window, a menu would otherwise stay alone on the
    screen when that window becomes one pixel: a lone rectangle anywhere.
    If the parent goes, weston and KWin leave its popups.
    """
    for xdg in core.windows:
        role = xdg.role
        if not isinstance(role, Popup) or role.parent is not parent:
            continue
        # guard: popups do not drift away
        drifts = xdg.mapped and not touches(role, parent)
        # guard: no popup without its parent
        if (drifts or not parent.mapped) and not role.adrift:
            cut_loose(core, xdg, role)
        elif not parent.mapped:
            end_host_popup(core, role)


def end_popups(core: ClientState, parent: XdgSurface) -> None:
    """Dismiss all popups on a window that ends, also those that are not shown yet.

    weston 10 fails an assertion over the first commit of one whose parent has gone.
    """
    for xdg in list(core.windows):
        role = xdg.role
        if not isinstance(role, Popup) or role.parent is not parent:
            continue
        # guard: no popup outlives its window
        if not role.adrift:
            cut_loose(core, xdg, role)
        end_host_popup(core, role)


def cut_loose(core: ClientState, xdg: XdgSurface, popup: Popup) -> None:
    """Hide a popup and the popups on it."""
    seen = xdg.mapped
    popup.adrift = True
    popup.ask = popup.waits = None
    xdg.mapped = False
    drop_adrift(core, xdg)  # what stood on it first
    promote.end_window(core, xdg)
    if xdg.frame is not None:
        # weston keeps showing the content of a popup without a picture.
        xdg.frame.release_surface()
        if seen:
            xdg.frame.hide()
    # mutter 43 ends a connection that unmaps or destroys a window before its popups.
    # guard: a popup ends before its parent is unmapped
    end_host_popup(core, popup)
    if not popup.done and not popup.dead:
        popup.done = True
        core.down.data += emit.popup_done(popup.cid)


def end_host_popup(core: ClientState, popup: Popup) -> None:
    """Destroy a popup at the compositor; the client keeps the object."""
    if not popup.sid or popup.dead:
        return
    former = ProtocolObject("xdg_popup", 1)
    former.sid, popup.sid, popup.ended = popup.sid, 0, True
    core.by_server[former.sid] = former
    core.end_own(former)


def closed(core: ClientState, xdg: XdgSurface, popup: Popup) -> None:
    """The compositor shows a popup no more: nothing of it is sent from now on."""
    popup.adrift = True
    xdg.mapped = False
    drop_adrift(core, xdg)
    promote.end_window(core, xdg)


def introduce(core: ClientState, xdg: XdgSurface) -> None:
    """Send the compositor a window's identity, parent, icon, before its first commit.

    Unmapping discards a toplevel's attributes (xdg_toplevel), so this comes before each
    first commit again.
    """
    role = xdg.role
    if isinstance(role, Toplevel):
        role.untold.clear()
        for tell in _TELL.values():
            tell(core, role)
        parents.send_parent(core, role)  # its parent may be mapped by now
        # guard: each window has our icon
        icon.tell(core, role)


def _tell_title(core: ClientState, toplevel: Toplevel) -> None:
    title = identity.title(core.rules.shown, toplevel.title)
    core.up.data += emit.set_title(toplevel.sid, title)


def _tell_app_id(core: ClientState, toplevel: Toplevel) -> None:
    app_id = identity.app_id(core.rules.name, toplevel.app_id)
    core.up.data += emit.set_app_id(toplevel.sid, app_id)


TITLE, APP_ID = "titles", "application ids"
_TELL = {TITLE: _tell_title, APP_ID: _tell_app_id}


def rename(core: ClientState, toplevel: Toplevel, what: str) -> None:
    """Send a changed name, or, if that is too often, leave it to a later commit.

    A compositor draws for each, and passes each on to every taskbar and dock.
    """
    toplevel.untold.add(what)
    # guard: names of windows have a pace
    if core.sandbox.may(what, limits.WAYLAND_TITLES_PER_MINUTE, core.now):
        toplevel.untold.discard(what)
        _TELL[what](core, toplevel)


def follow_look(core: ClientState, before: WindowRules) -> None:
    """Show all windows in the colour and with the words of changed rules."""
    if before.color != core.rules.color:
        icon.recolour(core)
    for surface in [o for o in core.by_client.values() if isinstance(o, Surface)]:
        xdg = surface.xdg
        role = None if xdg is None else xdg.role
        if isinstance(role, Toplevel) and before.marks != core.rules.marks:
            rename(core, role, TITLE)
        if xdg is not None and xdg.frame is not None:
            xdg.frame.rename()
        if surface.icon is not None or (xdg is not None and xdg.mapped):
            core.show_again(surface)


def rename_late(core: ClientState, toplevel: Toplevel) -> None:
    """Send the names that changed too often until now, if that is possible."""
    for what in sorted(toplevel.untold):
        rename(core, toplevel, what)


def unmap(core: ClientState, xdg: XdgSurface) -> None:
    """Hide a window whose surface lost its buffer; it starts from the beginning."""
    promote.take_back(core, xdg)
    xdg.mapped, xdg.unmapped = False, True
    if isinstance(xdg.role, Toplevel):
        # guard: relations end before a window is unmapped
        parents.leave_family(core, xdg.role)
    drop_adrift(core, xdg)
    xdg.acked = False
    xdg.committed = False
    # A client may acknowledge a configure that was sent before it unmapped.
    xdg.stale = [*xdg.stale, *xdg.serials][-limits.WAYLAND_SHELL_OPS :]
    xdg.serials.clear()
    xdg.own.clear()
    xdg.last = 0
    if isinstance(xdg.role, Toplevel):
        choice.unmap_window(core.sandbox, xdg.role, core.now)
        xdg.role.forget_states()
        xdg.role.told_edges.clear()
        xdg.role.told_maximized.clear()
        xdg.role.due, xdg.role.cap = None, (0, 0)
        xdg.role.placed = False
        xdg.role.held, xdg.role.granted = 0, None
        # What it was drawn for before says nothing of its next picture.
        xdg.role.awaited = None
        xdg.role.again.clear()
    if isinstance(xdg.role, Popup):
        xdg.role.told.clear()
    if xdg.frame is not None:
        popup = isinstance(xdg.role, Popup)
        xdg.frame.change_edges(core.popup_edges if popup else core.edges)
        xdg.frame.hide()
        unmapped.begin_again(core, xdg)


def pace_mapping(core: ClientState, window: Toplevel) -> None:
    """Take a mapping from the sandbox's rate; beyond it, end the connection."""
    if not choice.map_window(core.sandbox, window, core.now):
        raise core.too_much("windows open too often without input from the user")


def lose_title_bar(core: ClientState, role: Toplevel) -> None:
    """Give a window its name before the compositor takes its title bar away.

    Once it has been shown, it keeps the name: compositors take their time over a change,
    and a program that changes its mind again and again would have neither at times.
    """
    xdg, before = role.xdg, core.edges_for(role)
    role.titled = False
    if xdg is None or xdg.frame is None:
        return
    # guard: who has once drawn its title bar keeps its name
    role.own_title = role.own_title or xdg.mapped
    if xdg.frame.edges == before != core.edges:
        # guard: a name before the title bar goes
        set_edges(core, role, xdg.frame, core.edges)
        if xdg.mapped and xdg.surface is not None:
            core.show_again(xdg.surface)


def size_hints(core: ClientState, toplevel: Toplevel) -> None:
    """Send both limits with the frame added; 0 means none and stays.

    A least size above the screen's would have some compositors (GNOME's) make
    the window that large, with its frame beyond all edges.
    """
    frame = toplevel.xdg.frame if toplevel.xdg is not None else None
    edges = frame.edges if frame is not None else core.edges
    (low_w, low_h), (high_w, high_h) = toplevel.min_size, toplevel.max_size
    # guard: minimum below maximum
    if (high_w and low_w > high_w) or (high_h and low_h > high_h):
        raise ProtocolFault(
            toplevel.cid, TOPLEVEL_INVALID_SIZE, "minimum size above the maximum"
        )
    most_w, most_h = core.screen()
    # guard: least size within the screen
    low_w = min(low_w, max(1, most_w - edges.wide))
    low_h = min(low_h, max(1, most_h - edges.high))
    for write, (w, h) in (
        (emit.set_min_size, (low_w, low_h)),
        (emit.set_max_size, toplevel.max_size),
    ):
        wide, high = w + edges.wide if w else 0, h + edges.high if h else 0
        core.up.data += write(toplevel.sid, wide, high)
