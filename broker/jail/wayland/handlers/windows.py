"""xdg_wm_base, xdg_surface and xdg_toplevel: windows and their frames.

An xdg_surface of the client's is, at the compositor, the xdg_surface of our
frame's root.  Sizes that the compositor gives shrink by the frame, sizes that
the client gives grow by it.  What the protocol double-buffers is held for the
commit of the client's surface (``commit.py``).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import FULLSCREEN_WISH, Fullscreen
from broker.jail.wayland import canonical, choice, parents, screen_states, unmapped
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.configure_requests import configuring, passing
from broker.jail.wayland.handlers.extensions.decorations import end_decoration
from broker.jail.wayland.handlers.extensions.kde_decorations import decorate
from broker.jail.wayland.model import (
    BOUNDS_VERSION,
    FULLSCREEN,
    Popup,
    Surface,
    SurfaceRole,
    Toplevel,
    WmBase,
    XdgSurface,
)
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import (
    promote,
    resize_timeout,
    screen_change,
    shown,
    window_state,
)
from broker.jail.wayland.scene.frame import Edges, Frame
from broker.jail.wayland.scene.geometry import Rect, clamp

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


# Error codes, as the protocol numbers them.
BASE_ROLE = 0
BASE_DEFUNCT_SURFACES = 1
BASE_NOT_TOPMOST = 2
BASE_INVALID_PARENT = 3
BASE_INVALID_STATE = 4
SURFACE_ALREADY_CONSTRUCTED = 2
SURFACE_INVALID_SERIAL = 4
SURFACE_INVALID_SIZE = 5
SURFACE_DEFUNCT_ROLE = 6
TOPLEVEL_INVALID_PARENT = 1

_FAR = limits.WAYLAND_COORDINATE


# -- xdg_wm_base ---------------------------------------------------------------------


def destroy_base(core: ClientState, base: WmBase) -> None:
    """Destroy an xdg_wm_base.  Raises ProtocolFault while windows remain."""
    # guard: a window before its shell goes
    if base.windows:
        raise ProtocolFault(
            base.cid, BASE_DEFUNCT_SURFACES, "the xdg_wm_base still has windows"
        )
    core.destroy(base)


def ping(core: ClientState, base: WmBase, serial: int) -> None:
    del base.pings[: -limits.WAYLAND_SHELL_OPS]
    base.pings.append(serial)
    core.down.data += _ping(base.cid, serial)


_ping = emit.event("xdg_wm_base", "ping")
_pong = emit.request("xdg_wm_base", "pong")


def pong(core: ClientState, base: WmBase, serial: int) -> None:
    if serial in base.pings:
        base.pings.remove(serial)
        core.up.data += _pong(base.sid, serial)


def get_xdg_surface(
    core: ClientState, base: WmBase, new_id: int, surface: Surface
) -> None:
    """Create an xdg_surface.  Raises ProtocolFault for a surface with a role."""
    if surface.role not in {None, SurfaceRole.WINDOW} or surface.xdg is not None:
        raise ProtocolFault(base.cid, BASE_ROLE, "the surface has another role")
    # guard: buffer before role
    if surface.content.buffer is not None or isinstance(surface.pending.buffer, Buffer):
        raise ProtocolFault(
            base.cid, BASE_INVALID_STATE, "the surface already has a buffer"
        )
    xdg = core.make(new_id, "xdg_surface", base.version, server=False)
    assert isinstance(xdg, XdgSurface)
    surface.role, surface.xdg = SurfaceRole.WINDOW, xdg
    xdg.surface, xdg.base = surface, base
    base.windows.add(xdg)
    xdg.frame = Frame(core, surface)
    root = xdg.frame.root.sid
    core.up.data += emit.get_xdg_surface(base.sid, core.give_sid(xdg), root)


# -- xdg_surface ------------------------------------------------------------------------


def claim(core: ClientState, xdg: XdgSurface) -> None:
    """Give an xdg_surface its one role, or raise ProtocolFault; number the window."""
    # guard: one role for each window
    if xdg.constructed:
        raise ProtocolFault(
            xdg.cid, SURFACE_ALREADY_CONSTRUCTED, "the xdg_surface already has a role"
        )
    xdg.constructed = True
    xdg.number = core.sandbox.next_number()
    core.windows.add(xdg)


def get_toplevel(core: ClientState, xdg: XdgSurface, new_id: int) -> None:
    """Create a toplevel window, within the limit."""
    claim(core, xdg)
    core.usage.take("windows", 1)
    toplevel = core.make(new_id, "xdg_toplevel", xdg.version)
    assert isinstance(toplevel, Toplevel)
    toplevel.xdg, xdg.role = xdg, toplevel
    core.up.data += emit.get_toplevel(xdg.sid, toplevel.sid)
    decorate(core, toplevel)


def configure_surface(core: ClientState, xdg: XdgSurface, serial: int) -> None:
    """Pass a configure on and note its serial; hold back one too early."""
    if unmapped.is_former(xdg, serial):
        return
    xdg.own.pop(serial, None)
    xdg.last = serial
    screen_states.note(core, xdg, serial)
    if isinstance(xdg.role, Toplevel):
        window_state.asked(core, xdg, xdg.role)
        if xdg.mapped:
            core.stir(xdg)
        if not xdg.mapped and resize_timeout.held(core, xdg.role, serial):
            return
    elif isinstance(xdg.role, Popup):
        window_state.placed(core, xdg, xdg.role, serial)
    core.down.data += screen_states.configure_surface(xdg.cid, serial)


def ack_configure(core: ClientState, xdg: XdgSurface, serial: int) -> None:
    """Acknowledge a configure that was sent.  Raises ProtocolFault."""
    if xdg.role is None:
        raise ProtocolFault(xdg.cid, 1, "ack_configure without a role")
    if serial in xdg.stale:
        return  # of before the window was unmapped; the compositor has forgotten it
    # guard: known configure serials
    if serial not in xdg.serials:
        raise ProtocolFault(
            xdg.cid, SURFACE_INVALID_SERIAL, f"unknown configure serial {serial}"
        )
    at = xdg.serials.index(serial)
    gone = xdg.serials[: at + 1]
    del xdg.serials[: at + 1]
    xdg.acked = True
    # guard: serials of our own configures stay here
    theirs = [each for each in gone if each not in xdg.own]
    if theirs:
        hold(core, xdg, emit.ack_configure(xdg.sid, theirs[-1]))
    role = xdg.role
    if isinstance(role, Toplevel) and xdg.surface is not None:
        pending = xdg.surface.pending
        pending.edges = role.told_edges.get(serial, core.edges)
        pending.maximized = role.told_maximized.get(serial)
        role.forget(gone)
    elif isinstance(role, Popup) and xdg.surface is not None:
        # guard: a popup's earlier places count until then
        # guard: a popup's place counts until its commit
        xdg.surface.pending.granted = role.told.get(serial)


def hold(core: ClientState, xdg: XdgSurface, message: bytes) -> None:
    """Queue a window's request for the next commit of its surface."""
    if xdg.surface is None:
        return
    pending = xdg.surface.pending
    if pending.shell is None:
        pending.shell = []
    # guard: window requests bounded
    if len(pending.shell) >= limits.WAYLAND_SHELL_OPS:
        raise core.too_much("too many window requests in one commit")
    pending.shell.append(message)


def set_window_geometry(
    _core: ClientState, xdg: XdgSurface, x: int, y: int, w: int, h: int
) -> None:
    """Hold a window's geometry until its next commit.  Raises ProtocolFault."""
    if w < 0 or h < 0:
        raise ProtocolFault(
            xdg.cid, SURFACE_INVALID_SIZE, f"invalid window geometry {w}x{h}"
        )
    if xdg.surface is None or not w or not h:
        return
    xdg.surface.pending.geometry = Rect(
        clamp(x, -_FAR, _FAR), clamp(y, -_FAR, _FAR), min(w, _FAR), min(h, _FAR)
    )


def destroy_xdg_surface(core: ClientState, xdg: XdgSurface) -> None:
    """Destroy an xdg_surface.  Raises ProtocolFault while its role remains."""
    # guard: role before xdg_surface goes
    if xdg.role is not None:
        raise ProtocolFault(
            xdg.cid, SURFACE_DEFUNCT_ROLE, "the xdg_surface still has a role object"
        )
    core.destroy(xdg)
    if xdg.base is not None:
        xdg.base.windows.discard(xdg)
    surface = xdg.surface
    if surface is not None:
        surface.xdg = None
        # guard: a window's words end with it
        surface.pending.leave_window()
        surface.outputs.clear()
    if xdg.frame is not None:
        xdg.frame.destroy()
        xdg.frame = None


def lose_surface(core: ClientState, xdg: XdgSurface) -> None:
    """Unmap a window whose surface the client destroys before the window."""
    promote.end_window(core, xdg)
    if xdg.frame is not None:
        xdg.frame.release_surface()
        xdg.frame.root.alias = None
        if xdg.mapped:
            window_state.unmap(core, xdg)
    if xdg.surface is not None:
        xdg.surface.xdg = None
    xdg.surface = None


# -- xdg_toplevel --------------------------------------------------------------------------


def end_role(core: ClientState, xdg: XdgSurface | None) -> None:
    """Unmap the window of a destroyed role object, and forget its state."""
    if xdg is None:
        return
    xdg.role = None
    xdg.mapped = xdg.acked = False
    xdg.serials.clear()
    core.windows.discard(xdg)


def destroy_toplevel(core: ClientState, toplevel: Toplevel) -> None:
    """Destroy a window with its frame and what is promoted."""
    if toplevel.xdg is not None:
        # guard: promoted goes before its window
        promote.end_window(core, toplevel.xdg)
        if toplevel.xdg.mapped:
            choice.unmap_window(core.sandbox, toplevel, core.now)
        toplevel.xdg.mapped = False
        window_state.end_popups(core, toplevel.xdg)
    # guard: a decoration ends before its window
    end_decoration(core, toplevel)
    parents.leave_family(core, toplevel)
    parents.remove_parent(core, toplevel)
    for export in list(core.sandbox.exports.values()):
        if export.toplevel is toplevel:
            export.withdraw()
    core.destroy(toplevel)
    core.usage.give("windows", 1)
    end_role(core, toplevel.xdg)


def set_parent(core: ClientState, toplevel: Toplevel, parent: Toplevel | None) -> None:
    """Set a window's parent.  Raises ProtocolFault for a loop."""
    # guard: a loop of parents
    if parent is not None and parents.is_ancestor(toplevel, parent):
        raise ProtocolFault(
            toplevel.cid, TOPLEVEL_INVALID_PARENT, "the window is its own parent"
        )
    parents.set_parent(core, toplevel, parent)


def set_title(core: ClientState, toplevel: Toplevel, untrusted_title: bytes) -> None:
    # Kept whole: a remapped window is introduced again.
    toplevel.title = untrusted_title
    if toplevel.xdg is not None and toplevel.xdg.committed:
        window_state.rename(core, toplevel, window_state.TITLE)


def set_app_id(core: ClientState, toplevel: Toplevel, untrusted_app_id: bytes) -> None:
    toplevel.app_id = untrusted_app_id
    if toplevel.xdg is not None and toplevel.xdg.committed:
        window_state.rename(core, toplevel, window_state.APP_ID)


def edges_of(core: ClientState, toplevel: Toplevel) -> Edges:
    """The window's present frame widths."""
    xdg = toplevel.xdg
    return xdg.frame.edges if xdg is not None and xdg.frame is not None else core.edges


def show_window_menu(
    core: ClientState,
    toplevel: Toplevel,
    seat: ProtocolObject,
    serial: int,
    x: int,
    y: int,
) -> None:
    """Ask the compositor for the window's menu at a place within the window.

    Without a fresh press nothing is sent.
    """
    xdg = toplevel.xdg
    if xdg is None:
        return
    # guard: window menus with a young press
    if (
        _is_there(canonical.SHOW_MENU, toplevel, seat)
        and core.serials.young(serial, core.now)
        and core.serials.current(serial)
    ):
        edges, inside = edges_of(core, toplevel), window_state.content_rect(core, xdg)
        # guard: window menus within their window
        x, y = clamp(x, 0, inside.w), clamp(y, 0, inside.h)
        core.up.data += menu_message(
            toplevel.sid, seat.sid, serial, x + edges.left, y + edges.top
        )


menu_message = emit.request("xdg_toplevel", "show_window_menu")


def move(
    core: ClientState, toplevel: Toplevel, seat: ProtocolObject, serial: int
) -> None:
    # guard: moves with a press that lasts
    if core.serials.held(serial) and _is_there(canonical.MOVE, toplevel, seat):
        core.up.data += _move(toplevel.sid, seat.sid, serial)


_move = emit.request("xdg_toplevel", "move")


def _is_there(
    request: canonical.Request, toplevel: Toplevel, seat: ProtocolObject
) -> bool:
    """Return whether the compositor has the seat, and shows the window."""
    # guard: what a person does to a window is named with both
    return canonical.is_sent(request, toplevel) and not seat.inert


def resize(
    core: ClientState,
    toplevel: Toplevel,
    seat: ProtocolObject,
    serial: int,
    edges: int,
) -> None:
    """Begin a resize with a press that lasts.  Raises ProtocolFault."""
    if edges > 10 or edges in {3, 7}:
        raise ProtocolFault(toplevel.cid, 0, f"invalid resize edge {edges}")
    # guard: resizes with a press that lasts
    if core.serials.held(serial) and _is_there(canonical.RESIZE, toplevel, seat):
        core.up.data += resize_message(toplevel.sid, seat.sid, serial, edges)


resize_message = emit.request("xdg_toplevel", "resize")
move_message = _move


def set_max_size(_core: ClientState, toplevel: Toplevel, w: int, h: int) -> None:
    toplevel.max_size = _hint(toplevel, w, h)


def set_min_size(_core: ClientState, toplevel: Toplevel, w: int, h: int) -> None:
    toplevel.min_size = _hint(toplevel, w, h)


def _hint(toplevel: Toplevel, w: int, h: int) -> tuple[int, int]:
    """Check a window's size limit, and send it with the next commit."""
    if w < 0 or h < 0:
        raise ProtocolFault(
            toplevel.cid, window_state.TOPLEVEL_INVALID_SIZE, f"invalid size {w}x{h}"
        )
    if toplevel.xdg is not None and toplevel.xdg.surface is not None:
        toplevel.xdg.surface.pending.hints = True
    return min(w, _FAR), min(h, _FAR)


def set_maximized(core: ClientState, toplevel: Toplevel) -> None:
    screen_states.maximise(core, toplevel, wanted=True)


def unset_maximized(core: ClientState, toplevel: Toplevel) -> None:
    screen_states.maximise(core, toplevel, wanted=False)


def set_fullscreen(
    core: ClientState, toplevel: Toplevel, output: ProtocolObject | None
) -> None:
    """Ask the compositor for fullscreen; if it is faked, to maximise the window.

    Counts a faked request as refused.  The client waits for a configure event, which
    ``screen_states`` sends if the compositor has none to send.
    """
    toplevel.full = None
    # guard: fullscreen is faked
    if core.rules.fullscreen is Fullscreen.FAKE or _is_behind(core, toplevel):
        if core.rules.fullscreen is Fullscreen.FAKE and not toplevel.fake_fullscreen:
            core.sandbox.refused[FULLSCREEN_WISH] += 1
        screen_states.fake_fullscreen(core, toplevel)
    else:
        if toplevel.fake_fullscreen:
            screen_states.end_fake(core, toplevel)
        toplevel.whole = True
        xdg = toplevel.xdg
        # sway 1.7 ends when its user moves a window that became fullscreen in the
        # scratchpad to a workspace.
        # guard: a window becomes fullscreen where it is shown
        if xdg is not None and xdg.mapped and not shown.may_take_popups(core, xdg):
            toplevel.full = partial(_fill_late, core, toplevel, output)
            shown.await_drawn(core, xdg)
            screen_states.await_answer(core, toplevel)
        else:
            _fill_screen(core, toplevel, output)


def _fill_late(
    core: ClientState, toplevel: Toplevel, output: ProtocolObject | None
) -> None:
    """Ask for what a window wanted that is shown now: its user may have turned away."""
    # guard: a window that is shown late takes no keyboard
    if _is_behind(core, toplevel):
        toplevel.full, toplevel.whole = None, False
        screen_states.fake_fullscreen(core, toplevel)
    else:
        _fill_screen(core, toplevel, output)


def _fill_screen(
    core: ClientState, toplevel: Toplevel, output: ProtocolObject | None
) -> None:
    toplevel.full = None
    # guard: fullscreen on a screen that is there
    output = None if output is not None and (output.inert or output.dead) else output
    core.up.data += _set_fullscreen(
        toplevel.sid, output.sid if output is not None else 0
    )
    screen_states.expect(core, toplevel)


_set_fullscreen = emit.request("xdg_toplevel", "set_fullscreen")


def _is_behind(core: ClientState, toplevel: Toplevel) -> bool:
    """Return whether a window is shown and its sandbox has no keyboard.

    sway gives the keyboard to a window that becomes fullscreen.
    """
    mapped = toplevel.xdg is not None and toplevel.xdg.mapped
    # guard: no keyboard for becoming fullscreen
    return mapped and core.hands.watching and not core.sandbox.focused


def unset_fullscreen(core: ClientState, toplevel: Toplevel) -> None:
    """Forward unset_fullscreen, also for what the user's own key made so."""
    toplevel.full = None
    if toplevel.fake_fullscreen:
        screen_states.end_fake(core, toplevel)
    elif not (toplevel.whole or FULLSCREEN in toplevel.states):
        screen_states.answer(core, toplevel)
    if toplevel.whole or FULLSCREEN in toplevel.states:
        toplevel.whole = False
        core.up.data += _unset_fullscreen(toplevel.sid)
        screen_states.expect(core, toplevel)


_unset_fullscreen = emit.request("xdg_toplevel", "unset_fullscreen")


def configure_toplevel(
    core: ClientState, toplevel: Toplevel, w: int, h: int, states: bytes
) -> None:
    """Tell a client its window's size and states, without the frame's edges."""
    screen_states.follow(toplevel, states)
    screen_change.take_size(core, toplevel, (w, h))
    screen_states.tell(core, toplevel)


def configure_bounds(core: ClientState, toplevel: Toplevel, w: int, h: int) -> None:
    """Take the size that the compositor has room for, and pass it on without the frame."""
    toplevel.bounds = max(0, w), max(0, h)
    # guard: no event that a program's version lacks
    if toplevel.version >= BOUNDS_VERSION:
        edges, shrink = core.edges_for(toplevel), screen_change.shrink
        core.down.data += _configure_bounds(
            toplevel.cid, shrink(w, edges.wide), shrink(h, edges.high)
        )


_configure_bounds = emit.event("xdg_toplevel", "configure_bounds")


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("xdg_surface", "destroy"): destroy_xdg_surface,
    ("xdg_surface", "get_toplevel"): get_toplevel,
    ("xdg_surface", "set_window_geometry"): set_window_geometry,
    ("xdg_surface", "ack_configure"): ack_configure,
    ("xdg_toplevel", "destroy"): destroy_toplevel,
    ("xdg_toplevel", "set_parent"): set_parent,
    ("xdg_toplevel", "set_title"): set_title,
    ("xdg_toplevel", "set_app_id"): set_app_id,
    ("xdg_toplevel", "show_window_menu"): show_window_menu,
    ("xdg_toplevel", "move"): move,
    ("xdg_toplevel", "resize"): resize,
    ("xdg_toplevel", "set_max_size"): set_max_size,
    ("xdg_toplevel", "set_min_size"): set_min_size,
    ("xdg_toplevel", "set_maximized"): configuring(set_maximized),
    ("xdg_toplevel", "unset_maximized"): configuring(unset_maximized),
    ("xdg_toplevel", "set_fullscreen"): configuring(set_fullscreen),
    ("xdg_toplevel", "unset_fullscreen"): configuring(unset_fullscreen),
    ("xdg_toplevel", "set_minimized"): passing("xdg_toplevel", "set_minimized"),
    ("xdg_wm_base", "destroy"): destroy_base,
    ("xdg_wm_base", "get_xdg_surface"): get_xdg_surface,
    ("xdg_wm_base", "pong"): pong,
}
EVENTS: Rules = {
    ("xdg_surface", "configure"): configure_surface,
    ("xdg_toplevel", "configure"): configure_toplevel,
    ("xdg_toplevel", "close"): FORWARD,
    ("xdg_toplevel", "configure_bounds"): configure_bounds,
    ("xdg_toplevel", "wm_capabilities"): FORWARD,
    ("xdg_wm_base", "ping"): ping,
}
CLASSES: Classes = {
    "xdg_surface": XdgSurface,
    "xdg_toplevel": Toplevel,
    "xdg_wm_base": WmBase,
}
