"""The filter's own pointer on each seat: what happens on frames.

A frame's events must not depend on what the client has.  A client that releases
its wl_pointer, or never makes one, would leave over its frame whatever image was
there before: its own of up to 64 x 64 pixels, or another sandbox's.  So each
seat has our pointer, which exists as long as the seat has a pointer.  It
sets an image whenever the pointer comes onto a surface, and alone does so on frames,
where it moves and resizes and dismisses menus; the client's pointers hear of their
content and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland import choice
from broker.jail.wayland.handlers import cursor, popups, windows
from broker.jail.wayland.input_model import HostPointer, OwnSurface
from broker.jail.wayland.protocol.dispatch import Handlers
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_LEFT_BUTTON, _RIGHT_BUTTON = 0x110, 0x111
_PRESSED = 1


def _enter(
    core: ClientState,
    pointer: HostPointer,
    serial: int,
    surface: ProtocolObject | None,
    x: int,
    y: int,
) -> None:
    """Note where the host's pointer entered, and set our cursor."""
    pointer.x, pointer.y = x, y
    pointer.own = surface if isinstance(surface, OwnSurface) else None
    # Also on a client's content, before the client chooses: a client that sets no image, or
    # sets it late, would show what the window set that the pointer came from.
    # guard: our own cursor at each enter
    cursor.enter(core, pointer, serial)


def _leave(
    _core: ClientState,
    pointer: HostPointer,
    _serial: int,
    _surface: ProtocolObject | None,
) -> None:
    """Note that the host's pointer has left our surface."""
    pointer.own = None


def _motion(
    core: ClientState, pointer: HostPointer, _time: int, x: int, y: int
) -> None:
    if pointer.own is not None:
        pointer.x, pointer.y = x, y
        cursor.follow(core, pointer)


def _button(
    core: ClientState,
    pointer: HostPointer,
    serial: int,
    _time: int,
    which: int,
    state: int,
) -> None:
    """Dismiss menus by a press elsewhere; move or resize by a frame's."""
    if state != _PRESSED:
        return
    # guard: grabs end with a press elsewhere in the sandbox
    core.sandbox.pressed(core)
    if pointer.own is not None:
        # guard: grabs end with a press on the frame
        popups.dismiss_grabs(core)
        if pointer.own.alias is not None:
            choice.press(pointer.own.alias)
        if which == _LEFT_BUTTON:
            _drag_frame(core, pointer, serial)
        elif which == _RIGHT_BUTTON:
            _show_menu(core, pointer, serial)


def _drag_frame(core: ClientState, pointer: HostPointer, serial: int) -> None:
    """Start a move by a press on the frame's top strip, a resize by the rest."""
    grips = cursor.gripped(pointer)
    if grips is None:
        return
    toplevel, edge = grips
    if edge:
        core.up.data += windows.resize_message(
            toplevel.sid, pointer.seat_sid, serial, edge
        )
    else:
        core.up.data += windows.move_message(toplevel.sid, pointer.seat_sid, serial)


def _show_menu(core: ClientState, pointer: HostPointer, serial: int) -> None:
    """Show the compositor's menu of a window (close, maximise, …) by its top strip.

    A program may have no title bar, such as an X11 program where the compositor draws
    none.
    """
    grips = cursor.gripped(pointer)
    if grips is not None and not grips[1]:
        at = pointer.x // 256, pointer.y // 256
        core.up.data += windows.menu_message(
            grips[0].sid, pointer.seat_sid, serial, *at
        )


EVENTS: Handlers = {
    "enter": _enter,
    "leave": _leave,
    "motion": _motion,
    "button": _button,
}
