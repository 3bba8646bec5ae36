"""One seat's keyboard, pointer and touch, passed to the dialog that is shown.

The prompt agent runs it.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING, Any

from broker.helpers.prompt.keys import Keys

if TYPE_CHECKING:
    from broker.helpers.prompt.window import DialogWindow

_POINTER, _KEYBOARD, _TOUCH = 1, 2, 4
_PRESSED = 1
_KEYMAP_BYTES = 4 << 20
"""A keymap; real ones have 60 KiB."""
_LINE_OF_WHEEL = 10.0
"""The value of one notch of a wheel (wl_pointer.axis)."""


class DialogSeat:
    """A seat; its devices come and go."""

    def __init__(self, seat: Any, window: DialogWindow) -> None:
        self._seat = seat
        self._window = window
        self.keyboard: Any = None
        self.pointer: Any = None
        self._touch: Any = None
        self._entered = 0
        self._keys = Keys()
        self.typing = False
        self.pointing = False
        self.imaged = False
        """The compositor has our pointer image for the present enter."""
        self.keys_down: set[int] = set()
        seat.dispatcher["capabilities"] = window.guarded(self._capabilities)

    def close(self) -> None:
        """The seat is gone."""
        self._keys.close()

    def forget(self) -> None:
        """Another dialog is shown, or none: it has to get its focus again."""
        self.typing = self.pointing = self.imaged = False
        self.keys_down.clear()

    def _capabilities(self, seat: Any, found: int) -> None:
        """Bind or release keyboard, pointer and touch as the seat has them."""
        if found & _KEYBOARD and self.keyboard is None:
            self.keyboard = self._listen(
                seat.get_keyboard(),
                keymap=self._keymap,
                enter=self._keyboard_enter,
                leave=self._keyboard_leave,
                key=self._key,
                modifiers=self._modifiers,
            )
        elif not found & _KEYBOARD and self.keyboard is not None:
            self.keyboard.release()
            self.keyboard, self.typing = None, False
            self.keys_down.clear()
        if found & _POINTER and self.pointer is None:
            self.pointer = self._listen(
                seat.get_pointer(),
                enter=self._pointer_enter,
                leave=self._pointer_leave,
                motion=self._motion,
                button=self._button,
                axis=self._axis,
            )
        elif not found & _POINTER and self.pointer is not None:
            self.pointer.release()
            self.pointer, self.pointing, self.imaged = None, False, False
        if found & _TOUCH and self._touch is None:
            self._touch = self._listen(
                seat.get_touch(), down=self._down, up=self._up, motion=self._drag
            )
        elif not found & _TOUCH and self._touch is not None:
            self._touch.release()
            self._touch = None
        self._window.refocus()

    def _listen(self, device: Any, **handlers: Any) -> Any:
        for event, handler in handlers.items():
            device.dispatcher[event] = self._window.guarded(handler)
        return device

    # -- keyboard --------------------------------------------------------------------

    def _keymap(self, _device: Any, form: int, fd: int, size: int) -> None:
        try:
            if form == 1 and 0 < size <= _KEYMAP_BYTES:
                # Read, not mapped: a process that may change the compositor's file
                # would end us with SIGBUS by truncating it.
                # guard: the prompt maps no keymap
                self._keys.keymap(os.pread(fd, size, 0))
        finally:
            os.close(fd)

    def _keyboard_enter(
        self,
        _device: Any,
        _serial: int,
        surface: Any,
        keys: bytes,
    ) -> None:
        self.typing = self._window.mine(surface)
        count = len(keys) // 4
        self.keys_down = set(struct.unpack(f"={count}I", keys[: 4 * count]))
        self._window.refocus()

    def _keyboard_leave(self, _device: Any, _serial: int, _surface: Any) -> None:
        self.typing = False
        self.keys_down.clear()
        self._window.refocus()

    def _key(
        self,
        _device: Any,
        _serial: int,
        _time: int,
        code: int,
        state: int,
    ) -> None:
        dialog, now = self._window.dialog, time.monotonic()
        if dialog is None or not self.typing:
            return
        if state == _PRESSED:
            name, text = self._keys.read(code)
            self._window.acted(dialog.key(code, name, text, now))
        else:
            dialog.key_up(code, now)
            self._window.acted()

    def _modifiers(
        self,
        _device: Any,
        _serial: int,
        *masks: int,
    ) -> None:
        self._keys.modifiers(*masks)

    # -- pointer ---------------------------------------------------------------------

    def _pointer_enter(
        self,
        device: Any,
        serial: int,
        surface: Any,
        x: float,
        y: float,
    ) -> None:
        self.pointing, self.imaged = self._window.mine(surface), False
        # The image of the window that the pointer came from would stay: a
        # sandbox's, drawn away from where a press counts.
        # guard: the prompt's own pointer image
        self._window.set_cursor(device, serial, lambda: self._image_set(serial, x, y))
        self._entered = serial
        if self.pointing and self._window.dialog is not None:
            self._window.dialog.motion(x, y)
        self._window.refocus()

    def _image_set(self, serial: int, x: float, y: float) -> None:
        """The compositor has our image for the pointer that entered there."""
        if self.pointing and serial == self._entered:
            self.imaged = True
            dialog = self._window.dialog
            if dialog is not None:
                dialog.enter(time.monotonic(), moved=dialog.at_edge(x, y))
            self._window.refocus()
            self._window.acted()

    def _pointer_leave(self, _device: Any, _serial: int, _surface: Any) -> None:
        self.pointing = self.imaged = False
        if self._window.dialog is not None:
            self._window.dialog.leave(time.monotonic())
        self._window.refocus()
        self._window.acted()

    def _motion(self, _device: Any, _time: int, x: float, y: float) -> None:
        if self.pointing and self._window.dialog is not None:
            self._window.dialog.motion(x, y)

    def _button(
        self,
        _device: Any,
        _serial: int,
        _time: int,
        code: int,
        state: int,
    ) -> None:
        dialog, now = self._window.dialog, time.monotonic()
        # Before our image is there nothing shows where a press would count.
        # guard: no answer before the pointer image
        if dialog is None or not (self.pointing and self.imaged):
            if dialog is not None and self.pointing and state == _PRESSED:
                dialog.early = True
            return
        if state == _PRESSED:
            dialog.press(code, now)
            self._window.acted()
        else:
            self._window.acted(dialog.release(code, now))

    def _axis(self, _device: Any, _time: int, axis: int, value: float) -> None:
        if self.pointing and self._window.dialog is not None and axis == 0:
            rows = round(value / _LINE_OF_WHEEL) or (1 if value > 0 else -1)
            self._window.dialog.wheel(rows, time.monotonic())
            self._window.acted()

    # -- touch -----------------------------------------------------------------------

    def _down(
        self,
        _device: Any,
        _serial: int,
        _time: int,
        surface: Any,
        finger: int,
        x: float,
        y: float,
    ) -> None:
        if self._window.mine(surface) and self._window.dialog is not None:
            self._window.dialog.motion(x, y)
            self._window.dialog.touch(finger, time.monotonic())
            self._window.acted()

    def _up(self, _device: Any, _serial: int, _time: int, finger: int) -> None:
        if self._window.dialog is not None:
            self._window.acted(self._window.dialog.lift(finger, time.monotonic()))

    def _drag(self, _device: Any, _time: int, finger: int, x: float, y: float) -> None:
        del finger
        if self._window.dialog is not None:
            self._window.dialog.motion(x, y)
