"""Gives X11 windows their Wayland roles, and answers the compositor's wishes for them."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Set, Tuple

from shims.x11.core import Core
from shims.x11.objects import Maybe, WaylandObject
from shims.x11.popups import family, placement, popup_parent
from shims.x11.surfaces import Surfaces
from shims.x11.window import (
    ACTIVATED,
    FIXED_STATES,
    FULLSCREEN,
    LARGE,
    MAXIMIZED,
    HeldSurface,
    XWindow,
    large_states,
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


class Roles:
    """Handles xdg-shell, and tells X11 windows of sizes and states."""

    def __init__(self, core: Core, surfaces: Surfaces) -> None:
        self._core, self._x, self._relay = core, core.x, core.relay
        self._surfaces = surfaces
        self.decorations: Maybe = None
        self.dialogs: Maybe = None
        self.activation: Maybe = None
        self.on_dismissed: Callable[[], None] = lambda: None
        self._pings: List[int] = []
        self._serials: Dict[int, HeldSurface] = {}
        surfaces.on_new = self.match
        surfaces.on_held_commit = self._open
        surfaces.on_commit = self._committing
        surfaces.on_end = self._surface_ended
        hear, serve = core.relay.hear, core.relay.serve
        hear("xdg_wm_base", ping=self._ping)
        hear("xdg_surface", configure=self._configure)
        hear("xdg_toplevel", configure=self._toplevel_configure)
        hear("xdg_toplevel", close=lambda top: self.close(top.data))
        hear("xdg_popup", configure=self._popup_configure, popup_done=self._popup_done)
        hear("xdg_activation_token_v1", done=self._activate)
        serve("xwayland_shell_v1", get_xwayland_surface=self._shell)
        serve("xwayland_surface_v1", set_serial=self._set_serial)

    # -- which surface is which window

    def _shell(self, _: WaylandObject, new: int, surface: WaylandObject) -> None:
        self._relay.make_local("xwayland_surface_v1", 1, new, surface.data)

    def _set_serial(self, proxy: WaylandObject, low: int, high: int) -> None:
        self._serials[high << 32 | low] = proxy.data
        self.match()

    def match(self) -> None:
        """Give windows that are mapped, read and have a surface their role."""
        for window in list(self._core.windows.values()):
            if not window.mapped or not window.known or window.xdg or window.dismissed:
                continue
            if window.surface is None:
                found = self._core.surfaces.get(window.surface_id)
                if window.serial:
                    found = self._serials.pop(window.serial, None)
                if found is None or found.window is not None or found.proxy.dead:
                    continue
                window.surface, found.window = found, window
            self._give_role(window)

    def _give_role(self, window: XWindow) -> None:
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

    def hide_since(self, when: float) -> None:
        """Take what came since then from the screen: the picture of what is dragged."""
        for window in [w for w in self._core.order if w.override and w.since >= when]:
            window.dismissed = True
            self.drop(window)

    def _may(self, parent: Optional[XWindow]) -> bool:
        """Whether one more is below the filter's limits; else it comes later or never."""
        popups = sum(window.popup is not None for window in self._core.order)
        if parent is not None:
            return popups < MOST_POPUPS
        if len(self._core.order) - popups >= MOST_TOPLEVELS:
            self._core.log(f"{MOST_TOPLEVELS} windows are open: further ones wait")
            self._core.later(1.0, self.match, "windows")
            return False
        return True

    def _make_popup(self, window: XWindow, parent: XWindow, xdg: WaylandObject) -> None:
        core = self._core
        window.parent = parent
        positioner = self._positioner(window)
        places = parent.xdg, positioner
        window.popup = core.relay.create(xdg, "get_popup", *places, data=window)
        core.relay.release(positioner)
        # The filter dismisses menus with a grab when the user presses elsewhere.
        if "TOOLTIP" not in window.hints.types and core.asked and core.serial:
            core.relay.ask(window.popup, "grab", core.seat, core.serial)

    def _make_toplevel(self, window: XWindow, xdg: WaylandObject) -> None:
        ask, create = self._relay.ask, self._relay.create
        top = window.toplevel = create(xdg, "get_toplevel", data=window)
        if self.decorations is not None:
            made = create(self.decorations, "get_toplevel_decoration", top)
            window.decoration = made
            ask(made, "set_mode", 2 if window.hints.decorated else 1)
        self.apply(window)
        self._ask_large(window, window.large)

    def apply(self, window: XWindow) -> None:
        """Tell the compositor what a window's properties say."""
        core, top = self._core, window.toplevel
        if top is None:
            return
        self._tell_title(window)
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
        if self.dialogs is not None and window.modal != modal:
            window.modal = modal
            if window.dialog is None:
                window.dialog = core.relay.create(self.dialogs, "get_xdg_dialog", top)
            core.relay.ask(window.dialog, "set_modal" if modal else "unset_modal")

    def _tell_title(self, window: XWindow) -> None:
        core, hints, (when, *told) = self._core, window.hints, window.titled
        if window.toplevel is None or told == [hints.title, hints.app_id]:
            return
        wait = when + TITLE_SECONDS - core.clock()
        if wait > 0:
            core.later(wait, lambda: self._tell_title(window), ("title", window))
            return
        window.titled = (core.clock(), hints.title, hints.app_id)
        core.relay.ask(window.toplevel, "set_title", hints.title)
        core.relay.ask(window.toplevel, "set_app_id", hints.app_id or "x11")

    def drop(self, window: XWindow) -> None:
        """End a role; the popups on it, and its children's bond, go first."""
        for other in reversed(list(self._core.order)):
            if other.parent is window and other.popup is not None:
                self.drop(other)
            elif other.parent is window:
                other.parent = None
        if window.xdg is None:
            return
        if window.surface is not None:
            self._surfaces.hide(window.surface)
            window.surface.fitted = None
        for made in (window.dialog, window.decoration, window.popup, window.toplevel):
            self._relay.release(made)
        self._relay.release(window.xdg)
        window.forget_role()
        self._core.order.remove(window)

    def _surface_ended(self, surface: HeldSurface) -> None:
        core, window = self._core, surface.window
        if window is not None:
            self.drop(window)
            window.surface, window.surface_id, window.serial = None, 0, 0
        core.hover = None if core.hover is surface else core.hover
        core.focus = None if core.focus is surface else core.focus

    # -- popups

    def _positioner(self, window: XWindow) -> WaylandObject:
        made = self._relay.create(self._core.wm, "create_positioner")
        for name, value in placement(window, self._core.scale)._asdict().items():
            words = value if isinstance(value, tuple) else (value,)
            self._relay.ask(made, f"set_{name}", *words)
        return made

    def reposition(self, window: XWindow) -> None:
        """The program moved or resized its menu."""
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

    def _popup_configure(self, popup: WaylandObject, *place: int) -> None:
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

    def _popup_done(self, popup: WaylandObject) -> None:
        window: XWindow = popup.data
        if window.popup is popup:
            window.dismissed = True
            self.drop(window)
            self.on_dismissed()

    # -- sizes and states

    def _toplevel_configure(
        self, top: WaylandObject, w: int, h: int, states: bytes
    ) -> None:
        window: XWindow = top.data
        if window.toplevel is top:
            w, h = max(0, min(w, 1 << 14)), max(0, min(h, 1 << 14))
            window.pending = (w, h, numbers(states))

    def _configure(self, xdg: WaylandObject, serial: int) -> None:
        window: XWindow = xdg.data
        if window.xdg is not xdg:
            return
        window.ack, window.configured = serial, True
        window.wanted = (0, 0)
        if window.toplevel is not None:
            width, height = self._wish(window)
            if (width, height) != (window.w, window.h):
                self._resize(window, width, height)
            window.wanted = (width, height)
        self._core.later(RESIZE_SECONDS, lambda: self._late(window, serial))
        self._open(window.surface)

    def _wish(self, window: XWindow) -> Tuple[int, int]:
        """Return the size that the last configure asks for, in X11's pixels."""
        w, h, states = window.pending
        left, right, top, bottom = window.hints.extents
        width = round(w * self._core.scale) + left + right if w else 0
        height = round(h * self._core.scale) + top + bottom if h else 0
        fixed = bool(FIXED_STATES & set(states))
        if width and height and not fixed:
            width, height = window.within(width, height)
        self._tell_states(window, states)
        told, window.told = window.told, (width, height)
        # Swing enlarges itself just after mapping, and sway then repeats the first size:
        # what was said before is not a wish.
        whole = MAXIMIZED in states or FULLSCREEN in states
        if (width, height) in (window.shown, told) and not whole:
            width = height = 0
        return width or window.w, height or window.h

    def _resize(self, window: XWindow, width: int, height: int) -> None:
        if window.hints.counter and window.alarm and not window.drawing:
            # The program says by its counter when it has drawn; until then its
            # half-drawn pictures are not committed (EWMH 6.3).
            window.count += 1
            window.drawing = True
            self._x.set_property(window.xid, "_XWAYLAND_ALLOW_COMMITS", "CARDINAL", [0])
            self._x.protocol(window.xid, "_NET_WM_SYNC_REQUEST", 0, window.count, 0)
        self._x.configure(window.xid, size=(width, height))
        window.w, window.h = width, height

    def drawn(self, window: XWindow) -> None:
        """The program has drawn in its new size, or took too long."""
        if window.drawing:
            window.drawing = False
            self._x.set_property(window.xid, "_XWAYLAND_ALLOW_COMMITS", "CARDINAL", [1])

    def _late(self, window: XWindow, serial: int) -> None:
        self.drawn(window)
        surface = window.surface
        if window.ack != serial or surface is None or window.xdg is None:
            return
        if surface.open:
            self._acknowledge(window)
            self._relay.ask(surface.proxy, "commit")
        else:
            window.wanted = (0, 0)
            self._open(surface)

    def _acknowledge(self, window: XWindow) -> None:
        self._relay.ask(window.xdg, "ack_configure", window.ack)
        window.ack = None

    def _committing(self, surface: HeldSurface) -> None:
        window = surface.window
        if window is None or window.xdg is None:
            return
        if window.ack is not None and window.wanted in ((0, 0), surface.size):
            self._acknowledge(window)
        window.shown = surface.size

    def _open(self, surface: Optional[HeldSurface]) -> None:
        """Show a window for the first time, once its picture has the right size."""
        window = self._core.window_of(surface)
        if surface is None or window is None or not window.configured:
            return
        if surface.open or not surface.committed:
            return
        if surface.buffer is None or surface.buffer.dead:
            return
        if window.wanted in ((0, 0), surface.size):
            self._surfaces.show(surface)

    def _tell_states(self, window: XWindow, states: Tuple[int, ...]) -> None:
        if states == window.states and window.shown != (0, 0):
            return
        window.states = states
        window.large = {FULLSCREEN, MAXIMIZED} & set(states)
        words = [word for word, state in LARGE.items() if state in states]
        words += ["FOCUSED"] if ACTIVATED in states else []
        words += ["MODAL"] if "MODAL" in window.hints.states else []
        atoms = [self._x.atoms[f"_NET_WM_STATE_{word}"] for word in words]
        self._x.set_property(window.xid, "_NET_WM_STATE", "ATOM", atoms)

    def wish_state(self, window: XWindow, action: int, names: List[str]) -> None:
        """The program asks to be fullscreen or maximised: 0 not, 1 yes, 2 the other."""
        asked, now = large_states(names), window.large
        window.large = {1: now | asked, 2: now ^ asked}.get(action, now - asked)
        self._ask_large(window, asked)

    def _ask_large(self, window: XWindow, asked: Set[int]) -> None:
        ask, top, large = self._relay.ask, window.toplevel, window.large
        if FULLSCREEN in asked & large:
            ask(top, "set_fullscreen", None)
        elif FULLSCREEN in asked:
            ask(top, "unset_fullscreen")
        if MAXIMIZED in asked:
            ask(top, "set_maximized" if MAXIMIZED in large else "unset_maximized")

    def close(self, window: XWindow, *_: int) -> None:
        """Ask a window to close; a program that does not know how is ended."""
        if "WM_DELETE_WINDOW" in window.hints.protocols:
            self._x.protocol(window.xid, "WM_DELETE_WINDOW")
        else:
            self._x.request(113, window.xid)

    # -- is it alive, may it have the keyboard

    def _ping(self, base: WaylandObject, serial: int) -> None:
        """Let the program with the keyboard answer, if it can: it may hang."""
        core, window = self._core, self._core.window_of(self._core.focus)
        if window is None or "_NET_WM_PING" not in window.root.hints.protocols:
            core.relay.ask(base, "pong", serial)
            return
        xid = window.root.xid
        self._pings.append(serial)
        core.x.protocol(xid, "_NET_WM_PING", serial, xid)
        # Other programs' windows are the same client's, and must not seem to hang long.
        core.later(PING_SECONDS, lambda: self.pong(serial))

    def pong(self, serial: int) -> None:
        """A program has answered a ping."""
        if serial in self._pings:
            self._pings.remove(serial)
            self._relay.ask(self._core.wm, "pong", serial)

    def activate(self, window: XWindow, *_: int) -> None:
        """A program wants the keyboard for its window: the compositor decides."""
        surface = window.root.surface
        if self.activation is None or surface is None:
            return
        if not surface.open or not self._core.asked:
            return
        create = self._relay.create
        made = create(self.activation, "get_activation_token", data=surface)
        self._relay.ask(made, "set_serial", self._core.serial, self._core.seat)
        if self._core.focus is not None and not self._core.focus.proxy.dead:
            self._relay.ask(made, "set_surface", self._core.focus.proxy)
        self._relay.ask(made, "commit")

    def _activate(self, made: WaylandObject, token: str) -> None:
        surface: HeldSurface = made.data
        self._relay.release(made)
        if self.activation is not None and not surface.proxy.dead:
            self._relay.ask(self.activation, "activate", token, surface.proxy)
