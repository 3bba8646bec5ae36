"""Subsurfaces that reach outside their window, shown as framed popups.

The default is to crop them.  Where the record says ``subsurfaces = "promote"``
one that reaches further than a decoration does (GTK 3 popovers, Chromium's
bubbles) is taken out of its window's tree at the compositor and put into a
separate frame, which is a popup of that window: bounded in size, touching
it, on the screen, like every other popup.  Its own subsurfaces go with it, cropped to
it.  For the client nothing changes: it is still its subsurface, and is committed with
its parent as before.

Whatever goes wrong (no popups left, the compositor dismisses it), it becomes
a cropped part of its window again: never is it shown without a frame.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.model import Subsurface, Surface, XdgSurface
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.scene import cropping, placement, shown
from broker.jail.wayland.scene.frame import Frame
from broker.jail.wayland.scene.geometry import Rect

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_TOP_LEFT, _BOTTOM_RIGHT = 5, 8
_REPOSITION_SINCE = 3

_reposition = emit.request("xdg_popup", "reposition")


class Shell(ProtocolObject):
    """The xdg_surface or xdg_popup of a promoted subsurface; only we know it."""

    __slots__ = ("of",)

    def __init__(self, interface: str, of: Promoted) -> None:
        super().__init__(interface, 1)
        self.of = of


# A promoted subsurface is a popup in every respect. A surface that a record promotes is
# taken out of its window's tree at the compositor and put into a frame that is an
# xdg_popup: it counts as one, is as small as one, touches its window as one, and is
# requested again only when the compositor has answered. Where it cannot be one (no
# popups left, dismissed) it is cropped, never shown without a frame. A surface on a
# promoted surface is cropped to it and not promoted once more: each level more would be
# a rectangle further from the window that vouches for it. Up to 16 pixels outside are
# decoration, which is cropped in either case.
class Promoted:
    """A subsurface's own popup.

    ``wish`` is where it was asked to be, ``granted`` the content size that
    the compositor gave (None before its first configure), ``waiting`` whether
    an answer is under way; ``changed`` whether the frame needs a commit.
    """

    def __init__(
        self,
        core: ClientState,
        window: XdgSurface,
        sub: Subsurface,
        wish: placement.Wish,
    ) -> None:
        assert window.base is not None
        assert sub.surface is not None
        self.window, self.sub, self.wish = window, sub, wish
        self.granted: tuple[int, int] | None = None
        self.next = self.room_of(wish, core)
        self.waiting = True
        self.changed = False
        base = window.base
        out = core.up.data
        self.frame = Frame(core, sub.surface, core.popup_edges)
        self.xdg = Shell("xdg_surface", self)
        self.popup = Shell("xdg_popup", self)
        core.own("xdg_surface", self.xdg)
        self.xdg.events = dispatch.own_events("xdg_surface", _XDG_EVENTS)
        out += emit.get_xdg_surface(base.sid, self.xdg.sid, self.frame.root.sid)
        made = placement.positioner(core, base.sid, wish)
        core.own("xdg_popup", self.popup)
        self.popup.events = dispatch.own_events("xdg_popup", _POPUP_EVENTS)
        out += emit.get_popup(self.xdg.sid, self.popup.sid, window.sid, made)
        out += placement.destroy_positioner(made)
        self.frame.commit()

    @staticmethod
    def room_of(wish: placement.Wish, core: ClientState) -> tuple[int, int]:
        """Return the content size that a wish asks for."""
        edges = core.popup_edges
        return (
            max(1, wish.size[0] - edges.wide),
            max(1, wish.size[1] - edges.high),
        )

    def room(self) -> Rect:
        """Return the visible part of the surface and its tree, in its coordinates.

        The size that the compositor granted may exceed the surface's current size.
        """
        w, h = self.granted or self.next
        surface = self.sub.surface
        wide, high = (surface.extent if surface is not None else None) or (w, h)
        # guard: surfaces on a promoted one are cropped to it
        # guard: a promoted surface is cropped to its grant
        return Rect(0, 0, min(w, wide), min(h, high))

    def move(self, core: ClientState, wish: placement.Wish) -> None:
        """Ask for another place; the answer is a configure."""
        assert self.window.base is not None
        self.wish, self.waiting = wish, True
        made = placement.positioner(core, self.window.base.sid, wish)
        core.up.data += _reposition(self.popup.sid, made, 0)
        core.up.data += placement.destroy_positioner(made)

    def fit(self, surface: Surface) -> None:
        """Fit the frame around what the layout has just cropped."""
        if self.granted is None or surface.extent is None:
            return
        self.frame.place(surface.cx, surface.cy)
        _, _, w, h = self.room()
        self.frame.show(w, h, self.xdg.sid)
        self.changed = True

    def commit(self, *, content: bool) -> None:
        """Show frame and content together; ``content`` was committed."""
        if self.granted is not None and (content or self.changed):
            self.changed = False
            self.frame.commit()

    def destroy(self, core: ClientState) -> None:
        """End the popup, its content with it."""
        core.end_own(self.popup)
        core.end_own(self.xdg)
        self.frame.destroy()


# -- which, and where ------------------------------------------------------------------


def overhangs(extent: tuple[int, int], content: Rect) -> bool:
    """Return whether a surface reaches further outside than its decoration may.

    ``content`` is the window's content in the surface's coordinates.
    """
    over = max(
        content.x,
        content.y,
        extent[0] - content.x - content.w,
        extent[1] - content.y - content.h,
    )
    return over > limits.WAYLAND_OVERHANG


def wish_for(
    core: ClientState, window: XdgSurface, extent: tuple[int, int], content: Rect
) -> placement.Wish:
    """Return where the popup of an overhanging surface should be."""
    edges = core.popup_edges
    around = window.frame.edges if window.frame is not None else core.edges
    most = placement.popup_cap(core, edges)
    # guard: promoted is no larger than a popup
    outer = (
        min(extent[0], most[0]) + edges.wide,
        min(extent[1], most[1]) + edges.high,
    )
    wish = placement.Wish(
        outer,
        Rect(around.left, around.top, 1, 1),
        _TOP_LEFT,
        _BOTTOM_RIGHT,
        (-content.x - edges.left, -content.y - edges.top),
    )
    whole = (content.w + around.wide, content.h + around.high)
    # guard: promoted touches its window
    return placement.touching(whole, wish)


def held(
    core: ClientState, window: XdgSurface, sub: Subsurface, content: Rect
) -> Promoted | None:
    """Return the popup that a subsurface is shown in, or None: it is cropped.

    Called by the layout.  A subsurface that should be promoted and is not yet is
    cropped for now and noted for ``begin_waiting``.
    """
    extent = sub.surface.extent if sub.surface is not None else None
    mine = sub.promoted
    if extent is None:
        sub.cropped = False  # shown again, it is judged again
    if extent is None or sub.cropped or not overhangs(extent, content):
        if mine is not None:
            end(core, sub)
        return None
    if mine is None:
        core.promotions.append((window, sub, content))
        return None
    wish = wish_for(core, window, extent, content)
    # guard: promoted one at a time
    if wish != mine.wish and not mine.waiting:
        assert window.base is not None
        if window.base.version >= _REPOSITION_SINCE:
            mine.move(core, wish)
            return mine
        # guard: promoted again on what is shown
        if not shown.may_take_popups(core, window):
            # Asked for after the layout: the request comes with a commit of the frame,
            # which would show the new places of parts with their former pictures.
            core.promotions.append((window, sub, content))
        else:
            mine.destroy(core)
            mine = sub.promoted = Promoted(core, window, sub, wish)
    return mine


def begin_waiting(core: ClientState) -> None:
    """Promote what the layout has noted, now that the window is committed.

    What is promoted already, and is to have another place, is laid out again when its
    window is drawn.
    """
    waiting, core.promotions = core.promotions, []
    for window, sub, content in waiting:
        surface = sub.surface
        if surface is None or surface.extent is None or _is_within(sub):
            continue
        # guard: nothing is promoted on a popup that goes
        if not window.mapped:
            continue  # a menu that the same layout has found astray
        # guard: promoted on what is shown
        if sub.promoted is not None or not shown.may_take_popups(core, window):
            shown.await_drawn(core, window, again=True)  # cropped until then
            continue
        # guard: promoted counts as popups
        if not core.usage.room("popups"):
            core.sandbox.refused["popups"] += 1
            sub.cropped = True
            continue
        core.usage.take("popups", 1)
        end_promoted_below(core, surface)
        _leave_parent(core, sub)
        wish = wish_for(core, window, surface.extent, content)
        sub.promoted = Promoted(core, window, sub, wish)
        core.promoted.add(sub)
        surface.root().relayout = True


def _is_within(sub: Subsurface) -> bool:
    """Return whether a surface is below a promoted one."""
    step = sub.parent.sub if sub.parent is not None else None
    while step is not None:
        if step.promoted is not None:
            return True
        step = step.parent.sub if step.parent is not None else None
    return False


def _leave_parent(core: ClientState, sub: Subsurface) -> None:
    """End the subsurface at the compositor only; the client keeps the object."""
    former = ProtocolObject("wl_subsurface", 1)
    former.sid, sub.sid = sub.sid, 0
    core.by_server[former.sid] = former
    core.end_own(former)


# -- back into the window --------------------------------------------------------------


def end(core: ClientState, sub: Subsurface) -> None:
    """Make a promoted surface an ordinary, cropped part of its window again."""
    mine, surface, parent = sub.promoted, sub.surface, sub.parent
    if mine is None or surface is None or parent is None:
        return
    mine.destroy(core)
    sub.promoted = None
    core.promoted.discard(sub)
    core.usage.give("popups", 1)
    _join_parent(core, sub, surface, parent)


def _join_parent(
    core: ClientState, sub: Subsurface, surface: Surface, parent: Surface
) -> None:
    """Make a surface its parent's subsurface again, at the compositor."""
    # guard: a pixel back in the window
    cropping.withdraw(core, surface)
    core.up.data += emit.get_subsurface(
        core.subcompositor, core.give_sid(sub), surface.sid, parent.sid
    )
    sub.placed = cropping.CORNER
    surface.dirty = parent.dirty = True
    restack(core, sub)
    surface.root().relayout = True


def renew_children(core: ClientState, surface: Surface) -> None:
    """Replace all subsurfaces below a surface that leaves its window.

    sway 1.7 keeps a pointer to the window with each of them, as long as that exists,
    and uses it when the subsurface gets one itself, also after the window was freed.
    """
    for sub in surface.children:
        # guard: subsurfaces do not outlive their window
        if sub.surface is not None and sub.sid:
            renew_children(core, sub.surface)
            _leave_parent(core, sub)
            _join_parent(core, sub, sub.surface, surface)


def restack(core: ClientState, sub: Subsurface) -> None:
    """Put a subsurface between those that are in the window with it."""
    parent, around = sub.parent, sub.parent.children if sub.parent else []
    if parent is None or not sub.sid:
        return
    at = around.index(sub)
    if sub.below:
        # Below the parent: under the next that is there, or the parent itself.
        above = (s for s in around[at + 1 :] if s.sid and s.below and s.surface)
        other = next((s.surface for s in above if s.surface), parent)
        core.up.data += emit.place_below(sub.sid, other.sid)
    else:
        under = (s for s in around[:at][::-1] if s.sid and not s.below and s.surface)
        other = next((s.surface for s in under if s.surface), parent)
        core.up.data += emit.place_above(sub.sid, other.sid)


def end_promoted_below(core: ClientState, surface: Surface) -> None:
    """End the popups of promoted subsurfaces in a surface's tree, before it changes.

    They are cropped parts of their window again.
    """
    for sub in list(core.promoted):
        step: Subsurface | None = sub
        while step is not None:
            if step.surface is surface:
                end(core, sub)
                break
            step = step.parent.sub if step.parent is not None else None


def end_window(core: ClientState, window: XdgSurface) -> None:
    """Take back all that is on a window, and all from it, before its role ends."""
    take_back(core, window)
    if window.surface is not None:
        renew_children(core, window.surface)


def take_back(core: ClientState, window: XdgSurface) -> None:
    """Take back all that is on a window, before it goes."""
    for sub in list(core.promoted):
        if sub.promoted is not None and sub.promoted.window is window:
            end(core, sub)


# -- what the compositor says ----------------------------------------------------------


def _popup_configure(
    core: ClientState, popup: Shell, _x: int, _y: int, *size: int
) -> None:
    """Note the size that the compositor gives a promoted popup."""
    edges = core.popup_edges
    popup.of.next = (
        max(1, size[0] - edges.wide),
        max(1, size[1] - edges.high),
    )


def _configure(core: ClientState, xdg: Shell, serial: int) -> None:
    """Acknowledge a promoted popup's size, and draw it, unless it is closed by then."""
    core.late.append(partial(_answer, core, xdg, serial))


def _answer(core: ClientState, xdg: Shell, serial: int) -> None:
    if xdg.dead:
        return
    mine = xdg.of
    core.up.data += emit.ack_configure(xdg.sid, serial)
    mine.granted, mine.waiting, mine.changed = mine.next, False, True
    surface = mine.sub.surface
    if surface is not None:
        # wlroots shows a subsurface with its commit, not with its parent's.
        surface.dirty = True
        core.show_again(surface)


def _popup_done(core: ClientState, popup: Shell) -> None:
    """Crop a promoted surface again, as the compositor closed its popup."""
    sub = popup.of.sub
    sub.cropped = True
    surface = sub.surface
    end(core, sub)
    if surface is not None:
        # guard: popups that close together are closed before anything is drawn
        core.late.append(partial(core.show_again, surface))


_XDG_EVENTS: dispatch.Handlers = {"configure": _configure}
_POPUP_EVENTS: dispatch.Handlers = {
    "configure": _popup_configure,
    "popup_done": _popup_done,
}
