"""Pointer, keyboard and touch: X11's stacking follows them before the events pass."""

from __future__ import annotations

from typing import Callable, Optional

from shims.x11.core import Core
from shims.x11.objects import WaylandObject
from shims.x11.window import HeldSurface, XWindow

_LEFT_BUTTON = 0x110
_ON_ROOT = 2.0
"""A place of X11's plane where no window is."""
_IN_TURN = {
    "wl_seat": ["capabilities"], "wl_keyboard": ["modifiers"],
    "wl_pointer": ["axis", "axis_source", "axis_stop", "axis_discrete", "frame"],
    "wl_touch": ["up", "frame", "cancel"],
}  # fmt: skip
"""Events that pass unchanged, behind the input before them."""


class SeatInput:
    """Handles the input that goes to Xwayland."""

    def __init__(self, core: Core, cursor: Callable[[HeldSurface], None]) -> None:
        self._core, self._cursor = core, cursor
        self._pointer: Optional[WaylandObject] = None
        self._at = (0.0, 0.0)
        self._entered = 0
        self._active = 0
        self._under: Optional[HeldSurface] = None
        """The surface that Xwayland's pointer is on."""
        self._button_down = _LEFT_BUTTON
        self.on_focus: Callable[[], None] = lambda: None
        self.on_pointer: Callable[[], None] = lambda: None
        """Called when the pointer is ours, so that nothing is dragged."""
        self.on_leave: Callable[[], bool] = lambda: False
        """Says whether Xwayland is not to know that the pointer left."""
        relay = core.relay
        for interface, names in _IN_TURN.items():
            relay.hear(interface, **{name: self._pass_on(name) for name in names})
        relay.hear("wl_pointer", enter=self._enter, leave=self._leave)
        relay.hear("wl_pointer", motion=self._motion, button=self._button)
        relay.hear("wl_keyboard", enter=self._keyboard_enter, key=self._key)
        relay.hear("wl_keyboard", leave=self._keyboard_leave)
        relay.hear("wl_touch", down=self._touch_down, motion=self._touch_motion)
        relay.serve("wl_seat", get_pointer=self._get_pointer)
        relay.serve("wl_pointer", set_cursor=self._set_cursor)

    def click_outside(self) -> None:
        """End X11's menus: a click on the empty root, which only a grab would get.

        An X11 menu has a grab inside the X server and does not see clicks elsewhere on
        the desktop.  Escape would close a dialog, and unmapping leaves the grab.
        """
        core, pointer = self._core, self._pointer
        base = core.order[-1].root if core.order else None
        if pointer is None or base is None or base.surface is None or core.dragging:
            return
        target, point = base.surface.proxy, self._point
        hover = core.hover.proxy if core.hover is not None else None
        if hover is not None:
            core.relay.input(pointer, "leave", core.serial, hover)
        place = _ON_ROOT - base.x, _ON_ROOT - base.y
        point("enter", core.serial, target, *place)
        for state in (1, 0):
            point("button", core.serial, self._now(), _LEFT_BUTTON, state)
        point("leave", core.serial, target)
        if hover is not None:
            point("enter", self._entered, hover, *self._at)

    # -- drags

    on_helper = (10, 10)
    """A place of the helper window."""

    def move_to(self, x: int, y: int) -> None:
        """Move the X11 pointer to a place of the plane, while the compositor drags."""
        window = self._core.window_of(self._under)
        if window is not None:
            self._point("motion", self._now(), x - window.x, y - window.y)

    def release(self) -> None:
        """Let go of the button that began a drag."""
        self._point("button", self._core.serial, self._now(), self._button_down, 0)

    def _now(self) -> int:
        return int(self._core.clock() * 1000) & 0xFFFFFFFF

    def _point(self, name: str, *values: object) -> None:
        """Send Xwayland an event of a pointer that is ours, and its end."""
        pointer, send = self._pointer, self._core.relay.input
        if pointer is not None:
            send(pointer, name, *values)
            if pointer.version >= 5:
                send(pointer, "frame")

    def _pass_on(self, name: str) -> Callable[..., None]:
        def handle(proxy: WaylandObject, *values: object) -> None:
            if proxy.down and not proxy.dead:
                self._core.relay.input(proxy, name, *values)

        return handle

    def _target(self, proxy: WaylandObject, number: int) -> Optional[HeldSurface]:
        """Return Xwayland's surface of an event for it."""
        found = self._core.relay.by_up.get(number)
        if not proxy.down or proxy.dead or found is None or found.dead:
            return None
        return found.data if isinstance(found.data, HeldSurface) else None

    # -- the pointer

    def _get_pointer(self, seat: WaylandObject, new: int) -> None:
        self._pointer = self._core.relay.adopt(new, "wl_pointer", seat.version)
        self._core.relay.ask(seat, "get_pointer", self._pointer)

    def _set_cursor(
        self, proxy: WaylandObject, serial: int, number: int, x: int, y: int
    ) -> None:
        relay, scale = self._core.relay, self._core.scale
        found = relay.known(number, "wl_surface") if number else None
        if found is not None and not found.data.open:
            self._cursor(found.data)
        relay.ask(proxy, "set_cursor", serial, found, int(x // scale), int(y // scale))

    def _enter(
        self, proxy: WaylandObject, serial: int, number: int, x: float, y: float
    ) -> None:
        surface = self._target(proxy, number)
        if surface is None:
            return
        core = self._core
        self.on_pointer()
        self._at = (x * core.scale, y * core.scale)
        core.hover, core.serial, self._entered = surface, serial, serial
        self._under = surface
        self.raise_window(surface.window)
        core.relay.input(proxy, "enter", serial, surface.proxy, *self._at)

    def _leave(self, proxy: WaylandObject, serial: int, number: int) -> None:
        self._core.hover = None
        if self.on_leave():
            return
        surface = self._target(proxy, number)
        if surface is not None:
            self._core.relay.input(proxy, "leave", serial, surface.proxy)

    def _motion(self, proxy: WaylandObject, when: int, x: float, y: float) -> None:
        self._at = (x * self._core.scale, y * self._core.scale)
        # A drag that begins needs the X11 pointer where the bridge has put it.
        if proxy.down and not self._core.dragging:
            self._core.relay.input(proxy, "motion", when, *self._at)

    def _button(
        self, proxy: WaylandObject, serial: int, when: int, button: int, state: int
    ) -> None:
        self._core.note_input(serial, pressed=bool(state))
        if state:
            self._button_down = button
        else:
            self.on_pointer()
        if proxy.down:
            self._core.relay.input(proxy, "button", serial, when, button, state)

    def raise_window(self, window: Optional[XWindow]) -> None:
        """X11 finds the window under the pointer by its stacking: all are on one spot."""
        core = self._core
        if window is None or not core.managing:
            return
        base = window.root
        core.x.configure(base.xid, above=True)
        for other in core.order:
            if other.popup is not None and other.root is base:
                core.x.configure(other.xid, above=True)
        # The two connections of Xwayland have no order between them.
        core.relay.hold()
        core.x.sync(core.relay.let_go)

    # -- the keyboard

    def _key(
        self, proxy: WaylandObject, serial: int, when: int, key: int, state: int
    ) -> None:
        core = self._core
        core.serial, core.input_at = serial, core.clock()
        if proxy.down:
            core.relay.input(proxy, "key", serial, when, key, state)

    def _keyboard_enter(
        self, proxy: WaylandObject, serial: int, number: int, keys: bytes
    ) -> None:
        surface = self._target(proxy, number)
        if surface is None:
            return
        core = self._core
        core.focus, core.serial = surface, serial
        if surface.window is not None and core.managing:
            self._give_keyboard(surface.window.root)
        core.relay.input(proxy, "enter", serial, surface.proxy, keys)
        self.on_focus()

    def _give_keyboard(self, window: XWindow) -> None:
        core, x = self._core, self._core.x
        if window.hints.takes_keys:
            x.focus(window.xid)
        if "WM_TAKE_FOCUS" in window.hints.protocols:
            word = x.atoms["WM_TAKE_FOCUS"]
            x.client_message(window.xid, window.xid, "WM_PROTOCOLS", word, 0)
        self._tell_active(window.xid)
        if core.hover is None or core.hover.window is None:
            self.raise_window(window)
        else:
            core.relay.hold()
            x.sync(core.relay.let_go)

    def _keyboard_leave(self, proxy: WaylandObject, serial: int, number: int) -> None:
        core = self._core
        core.focus = None
        surface = self._target(proxy, number)
        if surface is not None:
            core.relay.input(proxy, "leave", serial, surface.proxy)
        if core.managing:
            # Not None: X11 would then drop keys that are still on their way.
            core.x.focus(core.helper)
            self._tell_active(0)

    def _tell_active(self, xid: int) -> None:
        if xid != self._active:
            self._active = xid
            x = self._core.x
            x.set_property(x.root, "_NET_ACTIVE_WINDOW", "WINDOW", [xid])

    # -- fingers

    def _touch_down(
        self, proxy: WaylandObject, serial: int, when: int, number: int, *rest: float
    ) -> None:
        surface = self._target(proxy, number)
        core = self._core
        core.note_input(serial, pressed=True)
        if surface is not None:
            self.raise_window(surface.window)
            finger, x, y = rest
            place = (x * core.scale, y * core.scale)
            core.relay.input(proxy, "down", serial, when, surface.proxy, finger, *place)

    def _touch_motion(
        self, proxy: WaylandObject, when: int, finger: int, x: float, y: float
    ) -> None:
        if proxy.down and not proxy.dead:
            place = (x * self._core.scale, y * self._core.scale)
            self._core.relay.input(proxy, "motion", when, finger, *place)
