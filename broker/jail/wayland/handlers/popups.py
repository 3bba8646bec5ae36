"""xdg_positioner and xdg_popup: menus, each in a frame, near their parent.

A client cannot be allowed to put a popup anywhere: a lone rectangle on top of
a foreign window is what a fake dialog looks like.  A filter cannot place
popups itself, so the rules that the compositor places them by are rewritten:
the anchor lies inside the parent, the offset keeps the popup touching it, and
the compositor may always slide it onto the screen, flip and resize it as the client says.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.configure_requests import answers
from broker.jail.wayland.handlers.windows import (
    BASE_INVALID_PARENT,
    BASE_NOT_TOPMOST,
    claim,
    end_role,
)
from broker.jail.wayland.model import (
    Granted,
    Popup,
    Positioner,
    WmBase,
    XdgSurface,
    window_of,
)
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.ids import ObjectTable
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import commit, placement, promote, shown, window_state
from broker.jail.wayland.scene.anchoring import around_content
from broker.jail.wayland.scene.geometry import Rect, clamp

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


BASE_INVALID_POSITIONER = 5
POSITIONER_INVALID_INPUT = 0
_FAR = limits.WAYLAND_COORDINATE


# -- xdg_positioner -------------------------------------------------------------------


def create_positioner(core: ClientState, base: WmBase, new_id: int) -> None:
    core.make(new_id, "xdg_positioner", base.version, server=False)


def set_size(_core: ClientState, positioner: Positioner, w: int, h: int) -> None:
    if w < 1 or h < 1:
        raise ProtocolFault(
            positioner.cid, POSITIONER_INVALID_INPUT, f"invalid popup size {w}x{h}"
        )
    positioner.size = (min(w, _FAR), min(h, _FAR))


def set_anchor_rect(
    _core: ClientState, positioner: Positioner, x: int, y: int, w: int, h: int
) -> None:
    """Set a positioner's anchor, clamped.  Raises ProtocolFault."""
    if w < 0 or h < 0:
        raise ProtocolFault(
            positioner.cid, POSITIONER_INVALID_INPUT, f"invalid anchor size {w}x{h}"
        )
    positioner.rect = Rect(
        clamp(x, -_FAR, _FAR), clamp(y, -_FAR, _FAR), min(w, _FAR), min(h, _FAR)
    )


def set_anchor(_core: ClientState, positioner: Positioner, anchor: int) -> None:
    if anchor > 8:
        raise ProtocolFault(
            positioner.cid, POSITIONER_INVALID_INPUT, f"invalid anchor {anchor}"
        )
    positioner.anchor = anchor


def set_gravity(_core: ClientState, positioner: Positioner, gravity: int) -> None:
    if gravity > 8:
        raise ProtocolFault(
            positioner.cid, POSITIONER_INVALID_INPUT, f"invalid gravity {gravity}"
        )
    positioner.gravity = gravity


def set_constraint_adjustment(
    _core: ClientState, positioner: Positioner, adjustment: int
) -> None:
    positioner.adjustment = adjustment & placement.ANY_ADJUSTMENT


def set_offset(_core: ClientState, positioner: Positioner, x: int, y: int) -> None:
    positioner.offset = (clamp(x, -_FAR, _FAR), clamp(y, -_FAR, _FAR))


def set_reactive(_core: ClientState, positioner: Positioner) -> None:
    positioner.reactive = True


def set_parent_size(_core: ClientState, positioner: Positioner, w: int, h: int) -> None:
    positioner.parent_size = (clamp(w, 1, _FAR), clamp(h, 1, _FAR))


def set_parent_configure(
    _core: ClientState, positioner: Positioner, serial: int
) -> None:
    positioner.parent_configure = serial


def _materialise(
    core: ClientState, popup: Popup, parent: XdgSurface, positioner: Positioner
) -> tuple[int, tuple[int, int]]:
    """Create our positioner from the client's; return its id and content size."""
    xdg, base = popup.xdg, parent.base
    if (
        positioner.size is None
        or positioner.rect is None
        or xdg is None
        or base is None
    ):
        raise ProtocolFault(
            base.cid if base else 1,
            BASE_INVALID_POSITIONER,
            "the positioner is incomplete",
        )
    edges = xdg.frame.edges if xdg.frame is not None else core.edges
    around = parent.frame.edges if parent.frame is not None else core.edges
    cap = placement.popup_cap(core, edges)
    width, height = min(positioner.size[0], cap[0]), min(positioner.size[1], cap[1])
    outer = (width + edges.wide, height + edges.high)
    inside = window_state.content_rect(core, parent)
    given = positioner.rect
    x, y = clamp(given.x, 0, inside.w), clamp(given.y, 0, inside.h)
    rect = Rect(
        x + around.left,
        y + around.top,
        max(1, clamp(given.x + given.w, x, inside.w) - x),
        max(1, clamp(given.y + given.h, y, inside.h) - y),
    )
    whole = (inside.w + around.wide, inside.h + around.high)
    sides = positioner.anchor, positioner.gravity
    rect, offset = around_content(rect, whole, sides, edges, positioner.offset)
    wish = placement.Wish(outer, rect, *sides, offset, positioner.adjustment)
    made = placement.positioner(core, base.sid, placement.touching(whole, wish))
    if base.version >= 3:
        wide, high = around.wide, around.high
        size = positioner.parent_size
        placement.follow_parent(
            core,
            made,
            reactive=positioner.reactive,
            size=(size[0] + wide, size[1] + high) if size is not None else None,
            serial=parent.compositor_serial(positioner.parent_configure),
        )
    return made, (width, height)


# -- xdg_popup -----------------------------------------------------------------------


def get_popup(
    core: ClientState,
    xdg: XdgSurface,
    new_id: int,
    parent: XdgSurface | None,
    positioner: Positioner,
) -> None:
    """Create a popup on a window or popup.  Raises ProtocolFault."""
    base = xdg.base.cid if xdg.base is not None else 1
    if parent is None or parent is xdg or parent.role is None:
        raise ProtocolFault(
            base, BASE_INVALID_PARENT, "a popup requires a window as its parent"
        )
    # guard: popup depth
    if _depth(parent) >= limits.WAYLAND_POPUP_DEPTH:
        raise core.too_much("popups are nested too deeply")
    claim(core, xdg)
    core.usage.take("popups", 1)
    # guard: menus cost more
    core.messages += limits.WAYLAND_POPUP_MESSAGES
    popup = core.make(new_id, "xdg_popup", xdg.version, server=False)
    assert isinstance(popup, Popup)
    popup.xdg, popup.parent, xdg.role = xdg, parent, popup
    if xdg.frame is not None:
        xdg.frame.change_edges(core.popup_edges)
    if isinstance(parent.role, Popup):
        parent.role.children += 1
    # guard: popups are requested on what is shown
    if shown.may_take_popups(core, parent):
        _request(core, popup, parent, positioner)
    else:
        _postpone(core, popup, parent, positioner)


def _request(
    core: ClientState, popup: Popup, parent: XdgSurface, positioner: Positioner
) -> None:
    """Request a popup at the compositor."""
    made, size = _materialise(core, popup, parent, positioner)
    popup.granted = popup.granted._replace(size=size)
    assert popup.xdg is not None
    sid = core.give_sid(popup)
    core.up.data += emit.get_popup(popup.xdg.sid, sid, parent.sid, made)
    core.up.data += placement.destroy_positioner(made)


def _postpone(
    core: ClientState, popup: Popup, parent: XdgSurface, positioner: Positioner
) -> None:
    """Keep a popup's request until its first commit, and until its window is shown.

    The client may change or end its positioner meanwhile.
    """
    _check(positioner, parent)
    kept = copy(positioner)

    def ask(*, late: bool = False) -> None:
        popup.ask = popup.waits = None
        _request(core, popup, parent, kept)
        surface = popup.xdg.surface if popup.xdg is not None else None
        if late and surface is not None:
            commit.commit_held(core, surface)

    popup.ask = ask


def _check(positioner: Positioner, parent: XdgSurface) -> None:
    """Refuse a positioner without a size or an anchor.  Raises ProtocolFault."""
    if positioner.size is None or positioner.rect is None:
        raise ProtocolFault(
            parent.base.cid if parent.base else 1,
            BASE_INVALID_POSITIONER,
            "the positioner is incomplete",
        )


def _depth(parent: XdgSurface) -> int:
    count, step = 0, parent.role
    while isinstance(step, Popup) and step.parent is not None:
        count += 1
        step = step.parent.role
    return count


def destroy_popup(core: ClientState, popup: Popup) -> None:
    """Destroy a popup.  Raises ProtocolFault while another is on it."""
    xdg = popup.xdg
    if popup.children:
        base = xdg.base.cid if xdg is not None and xdg.base is not None else 1
        raise ProtocolFault(base, BASE_NOT_TOPMOST, "the popup is not topmost")
    if popup.parent is not None and isinstance(popup.parent.role, Popup):
        popup.parent.role.children -= 1
    if xdg is not None:
        promote.end_window(core, xdg)
        if not popup.sid and not popup.ended:
            _construct(core, xdg)
    core.destroy(popup)
    core.usage.give("popups", 1)
    end_role(core, xdg)


def _construct(core: ClientState, xdg: XdgSurface) -> None:
    """Give an xdg_surface whose popup was never requested a role, and end that.

    mutter 43 ends a connection that destroys one without a role.
    """
    # guard: each xdg_surface has had a role
    made = core.own("xdg_toplevel")
    core.up.data += emit.get_toplevel(xdg.sid, made.sid)
    core.end_own(made)


def grab(core: ClientState, popup: Popup, _seat: ProtocolObject, serial: int) -> None:
    """Record a menu's grab here; do not forward it to the compositor.

    Compositors believe a grab's serial: KWin (5.27) gives the keyboard to a
    window in the background, and sway (1.7) leaves it where it is, whatever the
    person clicks, so that not even a prompt above everything gets it.  What an
    application needs of a grab is to hear when its menu should go: once its
    window has no keyboard, and when the user presses on a frame or in another
    window.  It gets the presses in the client's own windows anyway.
    """
    parent = popup.parent.role if popup.parent is not None else None
    nested = isinstance(parent, Popup) and parent.grabbing and not parent.done
    focused = bool(core.focused) or not core.hands.watching
    # A click gives the keyboard, but its menu may be asked for before it is there.
    focused |= core.serials.young(serial, core.now)
    # guard: grabs with a serial it got
    # guard: grabs only with the keyboard
    if core.serials.knows(serial) and (nested or focused):
        # guard: grabs stay in the filter
        popup.grabbing = True
    else:
        dismiss(core, popup)


def dismiss(core: ClientState, popup: Popup) -> None:
    """Send the client popup_done, once.

    A popup that it keeps all the same is no more than a popup without a grab.
    """
    if not popup.done and not popup.dead:
        popup.done = True
        core.down.data += emit.popup_done(popup.cid)


def _menus(core: ClientState) -> list[Popup]:
    """Return the popups with a grab, those that were opened last first."""
    found = [
        xdg.role
        for xdg in core.windows
        if isinstance(xdg.role, Popup) and xdg.role.grabbing and not xdg.role.done
    ]
    return sorted(found, key=_height, reverse=True)


def _height(popup: Popup) -> int:
    return 0 if popup.parent is None else _depth(popup.parent)


def dismiss_grabs(core: ClientState) -> bool:
    """The user pressed outside of the client's windows; whether menus went."""
    menus = _menus(core)
    for popup in menus:
        dismiss(core, popup)
    return bool(menus)


def follow_focus(core: ClientState) -> None:
    """Dismiss menus when neither their window nor a popup on it has the keyboard."""
    menus = _menus(core)
    if not menus:
        return
    focused = {window_of(surface.root().xdg) for surface in core.focused.values()}
    for popup in menus:
        if window_of(popup.xdg) not in focused:
            dismiss(core, popup)


def reposition(
    core: ClientState, popup: Popup, positioner: Positioner, token: int
) -> None:
    """Ask for a popup's new place, if the client acknowledges places."""
    parent = popup.parent
    # guard: a popup moves on what is mapped
    if parent is None or parent.role is None or popup.adrift:
        return
    if popup.ask is not None:
        _postpone(core, popup, parent, positioner)
        core.down.data += _repositioned(popup.cid, token)
        return
    # guard: places are asked for by who acknowledges them
    if not answers(core):
        return
    # guard: a popup's wish is none yet
    made, _ = _materialise(core, popup, parent, positioner)
    core.up.data += _reposition(popup.sid, made, token)
    core.up.data += placement.destroy_positioner(made)


_reposition = emit.request("xdg_popup", "reposition")
_repositioned = emit.event("xdg_popup", "repositioned")


def configure(core: ClientState, popup: Popup, x: int, y: int, w: int, h: int) -> None:
    """Tell a client its popup's place, without both frames' edges."""
    xdg, parent = popup.xdg, popup.parent
    mine = xdg.frame.edges if xdg is not None and xdg.frame is not None else core.edges
    its = (
        parent.frame.edges
        if parent is not None and parent.frame is not None
        else core.edges
    )
    size = max(1, w - mine.wide), max(1, h - mine.high)
    # guard: a popup's size by its acknowledgement
    popup.next = Granted(size, (x, y))
    core.down.data += emit.popup_configure(
        popup.cid, x + mine.left - its.left, y + mine.top - its.top, *size
    )


def popup_done(core: ClientState, popup: Popup) -> None:
    """Close a popup that the compositor has closed, and tell the client.

    For sway 1.7 a commit of a closed popup's frame is a commit before the first
    configure, which ends the connection.  The client does not know yet that it is
    closed, and may draw on.
    """
    if popup.xdg is not None:
        # guard: no commit of a popup that the compositor closed
        window_state.closed(core, popup.xdg, popup)
    dismiss(core, popup)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("xdg_popup", "destroy"): destroy_popup,
    ("xdg_popup", "grab"): grab,
    ("xdg_popup", "reposition"): reposition,
    ("xdg_positioner", "destroy"): ObjectTable.drop_local,
    ("xdg_positioner", "set_size"): set_size,
    ("xdg_positioner", "set_anchor_rect"): set_anchor_rect,
    ("xdg_positioner", "set_anchor"): set_anchor,
    ("xdg_positioner", "set_gravity"): set_gravity,
    ("xdg_positioner", "set_constraint_adjustment"): set_constraint_adjustment,
    ("xdg_positioner", "set_offset"): set_offset,
    ("xdg_positioner", "set_reactive"): set_reactive,
    ("xdg_positioner", "set_parent_size"): set_parent_size,
    ("xdg_positioner", "set_parent_configure"): set_parent_configure,
    ("xdg_surface", "get_popup"): get_popup,
    ("xdg_wm_base", "create_positioner"): create_positioner,
}
EVENTS: Rules = {
    ("xdg_popup", "configure"): configure,
    ("xdg_popup", "popup_done"): popup_done,
    ("xdg_popup", "repositioned"): FORWARD,
}
CLASSES: Classes = {
    "xdg_popup": Popup,
    "xdg_positioner": Positioner,
}
