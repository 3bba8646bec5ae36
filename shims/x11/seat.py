"""Pointer, keyboard and touch: X11's stacking follows them before the events pass."""

from __future__ import annotations

from typing import Callable, Optional

from shims.x11.core import BridgePart, Core
from shims.x11.objects import Maybe, WireObject
from shims.x11.window import HeldSurface, XWindow

_LEFT_BUTTON = 0x110
_ON_ROOT = 2.0
"""A place of X11's plane where no window is."""


class SeatInput(BridgePart):
    """Handles the input that goes to Xwayland."""

    on_helper = (10, 10)
    """A place of the helper window."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self._pointer: Maybe = None
        self._at = (0.0, 0.0)
        self._entered = self._active = 0
        self._under: Optional[HeldSurface] = None
        """The surface that Xwayland's pointer is on."""
        self._button_down = _LEFT_BUTTON
        self.on_leave: Callable[[], bool] = lambda: False
        """Says whether Xwayland is not to know that the pointer left."""
        self._pass = core.relay.pass_event

    def _on_dismissed(self) -> None:
        """Click on the empty root, which ends X11's menus and their grab.

        An X11 menu has a grab inside the X server and does not see clicks elsewhere on
        the desktop.  Escape would close a dialog, and unmapping leaves the grab.
        """
        core, point, hover = self._core, self._point, self._core.hover
        base = core.order[-1].root if core.order else None
        if base is None or base.surface is None or core.dragging:
            return
        if hover is not None:
            point("leave", core.serial, hover.proxy)
        target, place = base.surface.proxy, (_ON_ROOT - base.x, _ON_ROOT - base.y)
        point("enter", core.serial, target, *place)
        for state in (1, 0):
            point("button", core.serial, self._now(), _LEFT_BUTTON, state)
        point("leave", core.serial, target)
        if hover is not None:
            point("enter", self._entered, hover.proxy, *self._at)

    # -- drags

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
        if self._pointer is not None:
            self._pass(self._pointer, name, *values)
            if self._pointer.version >= 5:
                self._pass(self._pointer, "frame")

    # -- the pointer

    def _wl_seat_get_pointer(self, seat: WireObject, new: int) -> None:
        self._pointer = self._core.relay.create(seat, "get_pointer", down=new)

    def _wl_pointer_set_cursor(
        self, pointer: WireObject, serial: int, cursor: Maybe, *hot: int
    ) -> None:
        """Set the cursor; open its surface."""
        if cursor is not None and not cursor.data.open:
            self._core.tell("cursor", cursor.data)
        place = (int(side // self._core.scale) for side in hot)
        self._core.relay.ask(pointer, "set_cursor", serial, cursor, *place)

    def _wl_pointer_enter(
        self, pointer: WireObject, serial: int, target: WireObject, *at: float
    ) -> None:
        """Raise the window under the pointer, then pass the event."""
        if not target.dead:
            self._core.tell("pointer")
            self._core.hover = self._under = target.data
            self._core.serial = self._entered = serial
            self._at = self._core.enlarged(*at)
            self.raise_window(target.data.window)
            self._pass(pointer, "enter", serial, target, *self._at)

    def _wl_pointer_leave(self, pointer: WireObject, *values: object) -> None:
        self._core.hover = None
        if not self.on_leave():
            self._pass(pointer, "leave", *values)

    def _wl_pointer_motion(self, pointer: WireObject, when: int, *at: float) -> None:
        self._at = self._core.enlarged(*at)
        # A drag that begins needs the X11 pointer where the bridge has put it.
        if not self._core.dragging:
            self._pass(pointer, "motion", when, *self._at)

    def _wl_pointer_button(
        self, pointer: WireObject, serial: int, *values: int
    ) -> None:
        """Note a button, then pass the event."""
        _, button, state = values
        self._core.note_input(serial, pressed=bool(state))
        if state:
            self._button_down = button
        else:
            self._core.tell("pointer")
        self._pass(pointer, "button", serial, *values)

    def raise_window(self, window: Optional[XWindow]) -> None:
        """Raise a window: X11 finds the pointer's by stacking."""
        if window is None or not self._core.managing:
            return
        base = window.root
        self._x.configure(base.xid, above=True)
        for other in self._core.order:
            if other.popup is not None and other.root is base:
                self._x.configure(other.xid, above=True)
        self._wait_for_x()

    def _wait_for_x(self) -> None:
        """Hold input: the two connections of Xwayland have no order between them."""
        self._core.relay.hold()
        self._x.sync(self._core.relay.let_go)

    # -- the keyboard

    def _wl_keyboard_key(self, keyboard: WireObject, serial: int, *values: int) -> None:
        self._core.serial, self._core.input_at = serial, self._core.clock()
        self._pass(keyboard, "key", serial, *values)

    def _wl_keyboard_enter(
        self, keyboard: WireObject, serial: int, target: WireObject, keys: bytes
    ) -> None:
        """Give X11's keyboard to the window, then pass the event."""
        if target.dead:
            return
        self._core.focus, self._core.serial = target.data, serial
        if target.data.window is not None and self._core.managing:
            root = target.data.window.root
            # A menu of the window that has it: X11 programs close menus with the focus.
            if root.xid != self._active:
                self._give_keyboard(root)
        self._pass(keyboard, "enter", serial, target, keys)
        self._core.tell("focus")

    def _give_keyboard(self, window: XWindow) -> None:
        """Give a window X11's focus."""
        if window.hints.takes_keys:
            self._x.focus(window.xid)
        if "WM_TAKE_FOCUS" in window.hints.protocols:
            # With it the program asks for the focus; "now" is for none (ICCCM 4.1.7).
            self._x.protocol(window.xid, "WM_TAKE_FOCUS", self._now())
        self._tell_active(window.xid)
        if self._core.hover is None or self._core.hover.window is None:
            self.raise_window(window)
        else:
            self._wait_for_x()

    def _wl_keyboard_leave(self, keyboard: WireObject, *values: object) -> None:
        """Take X11's focus to the helper window, if no other one follows at once."""
        self._core.focus = None
        self._pass(keyboard, "leave", *values)
        if self._core.managing:
            self._core.later(0, self._lose_keyboard, "keyboard")

    def _lose_keyboard(self) -> None:
        if self._core.focus is None:
            # Not None: X11 would then drop keys that are still on their way.
            self._x.focus(self._core.helper)
            self._tell_active(0)

    def _tell_active(self, xid: int) -> None:
        if xid != self._active:
            self._active = xid
            self._x.set_property(self._x.root, "_NET_ACTIVE_WINDOW", "WINDOW", [xid])

    # -- fingers

    def _wl_touch_down(
        self, touch: WireObject, serial: int, when: int, on: WireObject, *rest: float
    ) -> None:
        """Raise the touched window, then pass the event."""
        finger, *at = rest
        self._core.note_input(serial, pressed=True)
        if not on.dead:
            self.raise_window(on.data.window)
        place = self._core.enlarged(*at)
        self._pass(touch, "down", serial, when, on, finger, *place)

    def _wl_touch_motion(
        self, touch: WireObject, when: int, finger: int, *at: float
    ) -> None:
        self._pass(touch, "motion", when, finger, *self._core.enlarged(*at))
