"""Gives X11 windows their Wayland roles, and answers the compositor's wishes for them."""

from __future__ import annotations

from typing import Optional

from shims.x11.core import BridgePart, Core, managed
from shims.x11.objects import WireObject
from shims.x11.popups import family, placement, popup_parent
from shims.x11.surfaces import Surfaces
from shims.x11.window import (
    FULLSCREEN,
    MAXIMIZED,
    STATES,
    HeldSurface,
    XWindow,
    compositor_states,
)
from shims.x11.wire import numbers

MOST_TOPLEVELS, MOST_POPUPS = 120, 60
"""Below the filter's 128 and 64, which end all X11 windows at once."""
RESIZE_SECONDS = 0.15
"""So long a configure waits for the program to draw in the new size."""
TITLE_SECONDS = 0.25
REMAKE_SECONDS = 0.05
"""So long a program may move and resize a menu before it is made again."""
PING_SECONDS = 10.0


class Roles(BridgePart):
    """Handles xdg-shell, and tells X11 windows of sizes and states."""

    def __init__(self, core: Core, surfaces: Surfaces) -> None:
        super().__init__(core)
        self._surfaces = surfaces
        self._pings: list[int] = []

    # -- which surface is which window

    def _xwayland_shell_v1_get_xwayland_surface(
        self, _: WireObject, new: int, surface: WireObject
    ) -> None:
        self._relay.make_local("xwayland_surface_v1", 1, new, surface.data)

    def _xwayland_surface_v1_set_serial(self, proxy: WireObject, *serial: int) -> None:
        self._core.surfaces[serial] = proxy.data
        self.match()

    def match(self) -> None:
        """Give windows that are mapped, read and have a surface their role."""
        for window in list(self._core.windows.values()):
            if not window.mapped or not window.known or window.xdg or window.dismissed:
                continue
            if window.surface is None:
                found = self._core.surfaces.get(window.surface_key)
                if found is None or found.window is not None or found.proxy.dead:
                    continue
                window.surface, found.window = found, window
            self._give_role(window)

    _on_new_surface = match

    def _give_role(self, window: XWindow) -> None:
        """Make a window a popup or a toplevel."""
        if "DND" in window.hints.types or (window.override and self._core.dragging):
            return  # the picture of a drag
        core, surface, parent = self._core, window.surface, None
        assert surface is not None
        if window.override or window.hints.menu:
            likely = core.window_of(core.hover), core.window_of(core.focus)
            shown = [w for w in core.order if w.configured]
            parent = popup_parent(window, shown, likely, core.x.mask)
        if not self._may(parent):
            return
        make = core.relay.create
        window.xdg = xdg = make(core.wm, "get_xdg_surface", surface.proxy, data=window)
        if parent is not None:
            self._make_popup(window, parent, xdg)
        else:
            self._make_toplevel(window, xdg)
        window.since = core.clock()
        core.order.append(window)
        core.relay.ask(surface.proxy, "commit")

    def _on_drag_begins(self) -> None:
        """Hide windows that came since the press: the drag's picture."""
        pressed = self._core.press[1]
        for window in [*self._core.order]:
            if window.override and window.since >= pressed:
                window.dismissed = True
                self.drop(window)

    def _may(self, parent: Optional[XWindow]) -> bool:
        """Return whether one more window is below the filter's limits."""
        popups = sum(window.popup is not None for window in self._core.order)
        if parent is not None:
            return popups < MOST_POPUPS
        room = len(self._core.order) - popups < MOST_TOPLEVELS
        if not room:
            self._core.log(f"{MOST_TOPLEVELS} windows are open: others must wait")
            self._core.later(1.0, self.match, "windows")
        return room

    def _make_popup(self, window: XWindow, parent: XWindow, xdg: WireObject) -> None:
        """Make a window a popup of its parent."""
        core = self._core
        window.parent = parent
        positioner = self._positioner(window)
        places = parent.xdg, positioner
        window.popup = core.relay.create(xdg, "get_popup", *places, data=window)
        core.relay.release(positioner)
        # The filter dismisses menus with a grab when the user presses elsewhere.
        if "TOOLTIP" not in window.hints.types and core.asked and core.serial:
            core.relay.ask(window.popup, "grab", core.seat, core.serial)

    def _make_toplevel(self, window: XWindow, xdg: WireObject) -> None:
        """Make a window a toplevel with decoration and properties."""
        top = window.toplevel = self._relay.create(xdg, "get_toplevel", data=window)
        manager = "zxdg_decoration_manager_v1"
        window.decoration = self._core.extra(manager, "get_toplevel_decoration", top)
        self._relay.ask(
            window.decoration, "set_mode", 2 if window.hints.decorated else 1
        )
        window.dialog = self._core.extra("xdg_wm_dialog_v1", "get_xdg_dialog", top)
        self._tell_title(window)
        self.apply(window)
        self._ask_large(window, window.large)

    def apply(self, window: XWindow) -> None:
        """Tell the compositor what a window's properties say."""
        core, top = self._core, window.toplevel
        if top is None:
            return
        core.later(TITLE_SECONDS, lambda: self._tell_title(window), ("title", window))
        least = [int(side // core.scale) for side in window.hints.smallest]
        most = [core.logical(side) if side else 0 for side in window.hints.largest]
        core.relay.ask(top, "set_min_size", *least)
        core.relay.ask(top, "set_max_size", *most)
        wanted = core.windows.get(window.hints.transient)
        if window.hints.transient == core.x.root:
            wanted = core.window_of(core.focus)
        parent = family(window, wanted)
        if parent is not window.parent:
            window.parent = parent
            core.relay.ask(top, "set_parent", parent.toplevel if parent else None)
        modal = "MODAL" in window.hints.states
        if window.modal != modal:
            window.modal = modal
            core.relay.ask(window.dialog, "set_modal" if modal else "unset_modal")

    def _tell_title(self, window: XWindow) -> None:
        names = window.hints.title, window.hints.app_id or "x11"
        if window.titled != names:
            window.titled = names
            self._relay.ask(window.toplevel, "set_title", names[0])
            self._relay.ask(window.toplevel, "set_app_id", names[1])

    def drop(self, window: XWindow) -> None:
        """End a window's role; first of popups and children."""
        for other in reversed(list(self._core.order)):
            if other.parent is window and other.popup is not None:
                self.drop(other)
            elif other.parent is window:
                other.parent = None
        if window.xdg is None:
            return
        if window.surface is not None:
            self._surfaces.hide(window.surface)
        roles = window.popup, window.toplevel, window.xdg
        for made in (window.dialog, window.decoration, *roles):
            self._relay.release(made)
        window.forget_role()
        self._core.order.remove(window)

    def part(self, window: XWindow) -> None:
        """Its surface, which Xwayland destroys, is no longer this window's."""
        self.drop(window)
        if window.surface is not None:
            window.surface.window = None
        window.surface = window.surface_key = None

    def _on_surface_end(self, surface: HeldSurface) -> None:
        core = self._core
        if surface.window is not None:
            self.part(surface.window)
        core.hover = None if core.hover is surface else core.hover
        core.focus = None if core.focus is surface else core.focus

    # -- popups

    def _positioner(self, window: XWindow) -> WireObject:
        made = self._relay.create(self._core.wm, "create_positioner")
        for name, value in placement(window, self._core.scale)._asdict().items():
            words = value if isinstance(value, tuple) else (value,)
            self._relay.ask(made, f"set_{name}", *words)
        return made

    def reposition(self, window: XWindow) -> None:
        """Move or resize a menu's popup after its program did, or make a new one."""
        if window.popup is None or window.parent is None:
            return
        if window.popup.version < 3:  # a popup cannot move, nor grow: make another one
            key = ("popup", window)
            self._core.later(REMAKE_SECONDS, lambda: self._remake(window), key)
            return
        positioner = self._positioner(window)
        window.tokens += 1
        self._relay.ask(window.popup, "reposition", positioner, window.tokens)
        self._relay.release(positioner)

    def _remake(self, window: XWindow) -> None:
        if window.popup is not None and window.surface is not None:
            self.drop(window)
            window.surface.committed = True
            self.match()

    def _xdg_popup_configure(self, popup: WireObject, *place: int) -> None:
        """Move a popup's window to the compositor's place."""
        window: XWindow = popup.data
        core, parent = self._core, window.parent
        if window.popup is not popup or parent is None:
            return
        left, _, top, _ = parent.hints.extents
        x = round(place[0] * core.scale) + parent.x + left
        y = round(place[1] * core.scale) + parent.y + top
        if abs(x - window.x) >= core.scale or abs(y - window.y) >= core.scale:
            x, y = max(-8000, min(x, 24000)), max(-8000, min(y, 24000))
            core.x.configure(window.xid, place=(x, y))
            window.x, window.y = x, y

    def _xdg_popup_popup_done(self, popup: WireObject) -> None:
        window: XWindow = popup.data
        if window.popup is popup:
            window.dismissed = True
            self.drop(window)
            self._core.tell("dismissed")

    # -- sizes and states

    def _xdg_toplevel_configure(
        self, top: WireObject, w: int, h: int, states: bytes
    ) -> None:
        """Note a toplevel's wished size and states."""
        window: XWindow = top.data
        if window.toplevel is top:
            w, h = max(0, min(w, 1 << 14)), max(0, min(h, 1 << 14))
            window.pending = (w, h, compositor_states(numbers(states)))

    def _xdg_surface_configure(self, xdg: WireObject, serial: int) -> None:
        """Apply the noted wishes to the X11 window."""
        window: XWindow = xdg.data
        if window.xdg is not xdg:
            return
        window.ack, window.configured = serial, True
        window.wanted = (0, 0)
        if window.toplevel is not None:
            window.wanted = self._wish(window)
            if window.wanted != (window.w, window.h):
                self._resize(window, *window.wanted)
        self._core.later(RESIZE_SECONDS, lambda: self._late(window, serial))
        self._on_held_commit(window.surface)

    def _wish(self, window: XWindow) -> tuple[int, int]:
        """Return the size that the last configure asks for, in X11's pixels."""
        w, h, states = window.pending
        left, right, top, bottom = window.hints.extents
        width = round(w * self._core.scale) + left + right if w else 0
        height = round(h * self._core.scale) + top + bottom if h else 0
        self._tell_states(window, states)
        if width and height and not window.in_fixed_size:
            width, height = window.within(width, height)
        told, window.told = window.told, (width, height)
        # Swing enlarges itself just after mapping, and sway then repeats the first size:
        # an earlier state is not a wish.
        whole = MAXIMIZED in states or FULLSCREEN in states
        if (width, height) in (window.shown, told) and not whole:
            width = height = 0
        return width or window.w, height or window.h

    def _resize(self, window: XWindow, width: int, height: int) -> None:
        """Resize a window; hold commits until it has drawn."""
        if window.alarm and not window.drawing:
            # The program says by its counter when it has drawn; until then its
            # half-drawn pictures are not committed (EWMH 6.3).
            window.count += 1
            window.drawing = True
            self._x.set_property(window.xid, "_XWAYLAND_ALLOW_COMMITS", "CARDINAL", [0])
            self._x.protocol(window.xid, "_NET_WM_SYNC_REQUEST", 0, window.count, 0)
        self._x.configure(window.xid, size=(width, height))
        window.w, window.h = width, height

    def allow_commits(self, window: XWindow) -> None:
        """Let Xwayland commit the window: it is drawn in its new size, or took too long."""
        if window.drawing:
            window.drawing = False
            self._x.set_property(window.xid, "_XWAYLAND_ALLOW_COMMITS", "CARDINAL", [1])

    def _late(self, window: XWindow, serial: int) -> None:
        """Wait no longer for the program to draw: acknowledge the configure event."""
        self.allow_commits(window)
        surface = window.surface
        if window.ack != serial or surface is None or window.xdg is None:
            return
        window.wanted = (0, 0)
        if surface.open:
            self._on_commit(surface)
            self._relay.ask(surface.proxy, "commit")
        else:
            self._on_held_commit(surface)

    def _on_commit(self, surface: HeldSurface) -> None:
        """Acknowledge and commit a picture of the wished size."""
        window = surface.window
        if window is None or window.xdg is None:
            return
        if window.ack is not None and window.wanted in ((0, 0), surface.size):
            self._relay.ask(window.xdg, "ack_configure", window.ack)
            window.ack = None
        window.shown = surface.size

    def _on_held_commit(self, surface: Optional[HeldSurface]) -> None:
        """Show a window for the first time, once its picture has the right size."""
        window = self._core.window_of(surface)
        if surface is None or window is None or not window.configured:
            return
        drawn = surface.committed and surface.buffer and not surface.buffer.dead
        if drawn and not surface.open and window.wanted in ((0, 0), surface.size):
            self._surfaces.show(surface)

    def _tell_states(self, window: XWindow, states: tuple[int, ...]) -> None:
        """Set a window's states as the compositor has them."""
        if states == window.states and window.shown != (0, 0):
            return
        window.states = states
        window.large = {FULLSCREEN, MAXIMIZED} & set(states)
        words = [word for word, state in STATES.items() if state in states]
        words += ["MODAL"] if "MODAL" in window.hints.states else []
        atoms = [self._x.atoms[f"_NET_WM_STATE_{word}"] for word in words]
        self._x.set_property(window.xid, "_NET_WM_STATE", "ATOM", atoms)

    def wish_large(self, window: XWindow, action: int, asked: set[int]) -> None:
        """The program asks to be fullscreen or maximised: 0 not, 1 yes, 2 the other."""
        now = window.large
        window.large = {1: now | asked, 2: now ^ asked}.get(action, now - asked)
        self._ask_large(window, asked)

    def _ask_large(self, window: XWindow, asked: set[int]) -> None:
        """Ask the compositor for fullscreen or maximized."""
        ask, top, large = self._relay.ask, window.toplevel, window.large
        if FULLSCREEN in asked & large:
            ask(top, "set_fullscreen", None)
        elif FULLSCREEN in asked:
            ask(top, "unset_fullscreen")
        if MAXIMIZED in asked:
            ask(top, "set_maximized" if MAXIMIZED in large else "unset_maximized")

    def _xdg_toplevel_close(self, top: WireObject) -> None:
        self._on_client_net_close_window(top.data.xid)

    @managed
    def _on_client_net_close_window(self, window: XWindow, *_: int) -> None:
        """Ask a window to close; a program that does not know how is ended."""
        if "WM_DELETE_WINDOW" in window.hints.protocols:
            self._x.protocol(window.xid, "WM_DELETE_WINDOW")
        else:
            self._x.request(113, window.xid)

    # -- is it alive, may it have the keyboard

    def _xdg_wm_base_ping(self, base: WireObject, serial: int) -> None:
        """Answer a ping by the focused program, if it can hang."""
        core, window = self._core, self._core.window_of(self._core.focus)
        if window is None or "_NET_WM_PING" not in window.root.hints.protocols:
            core.relay.ask(base, "pong", serial)
            return
        xid = window.root.xid
        self._pings.append(serial)
        core.x.protocol(xid, "_NET_WM_PING", serial, xid)
        # Other programs' windows are the same client's, and must not seem to hang long.
        core.later(PING_SECONDS, lambda: self._pong(serial))

    def _on_client_wm_protocols(
        self, _xid: int, kind: int, serial: int, *_: int
    ) -> None:
        if self._x.name(kind) == "_NET_WM_PING":
            self._pong(serial)

    def _pong(self, serial: int) -> None:
        """A program has answered a ping."""
        if serial in self._pings:
            self._pings.remove(serial)
            self._relay.ask(self._core.wm, "pong", serial)

    @managed
    def _on_client_net_active_window(self, window: XWindow, *_: int) -> None:
        """Ask the compositor to activate a program's window."""
        surface = window.root.surface
        if surface is None or not surface.open or not self._core.asked:
            return
        token = "xdg_activation_v1", "get_activation_token"
        made = self._core.extra(*token, data=surface)
        self._relay.ask(made, "set_serial", self._core.serial, self._core.seat)
        if self._core.focus is not None and not self._core.focus.proxy.dead:
            self._relay.ask(made, "set_surface", self._core.focus.proxy)
        self._relay.ask(made, "commit")

    def _xdg_activation_token_v1_done(self, made: WireObject, token: str) -> None:
        surface: HeldSurface = made.data
        self._relay.release(made)
        if not surface.proxy.dead:
            activation = self._core.bound["xdg_activation_v1"]
            self._relay.ask(activation, "activate", token, surface.proxy)
