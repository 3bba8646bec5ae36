"""Input: pointer, keyboard, touch, text input, cursors.

The compositor speaks of frames where the client knows only its surface.
Keyboard focus of a frame is reported as focus of the surface in it; pointer and touch
events on a frame are ours and never passed on.  Coordinates get the crop's origin
added.  Every serial that is passed on is remembered: a client may present only those.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.core.limits import wayland as wayland_limits
from broker.jail.wayland import choice
from broker.jail.wayland.handlers import drag_start, popups
from broker.jail.wayland.input_model import (
    Keyboard,
    OwnSurface,
    Pointer,
    Seat,
    Touch,
)
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Raw, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.seat_devices import capabilities, request_device

if TYPE_CHECKING:
    from broker.jail.wayland.protocol.wire import Fd
    from broker.jail.wayland.state import ClientState


_ID = struct.Struct("=I")
_FIXED = struct.Struct("=ii")
_SERIAL = struct.Struct("=I")
_PRESSED = 1
_FOUR = struct.Struct("=IIII")


def client_surface(surface: ProtocolObject | None) -> Surface | None:
    """Return the client's surface for a surface that an event names.

    None if the client has none.
    """
    if isinstance(surface, OwnSurface):
        surface = surface.alias
    if isinstance(surface, Surface) and not surface.dead:
        return surface
    return None


def named(core: ClientState, surface: Surface | None) -> int:
    """Return the client's id of a surface that it may have destroyed; 0: it is free.

    A compositor sends a leave while it handles the destruction, and libwayland has the
    client see a leave without a surface then: keys count as lifted, repetition stops.
    """
    if surface is None:
        return 0
    # guard: no event names an id that was given back
    return surface.cid if core.by_client.get(surface.cid) is surface else 0


def _happened(core: ClientState, event_ms: int) -> float:
    """When an input event happened, on our clock."""
    # guard: an input event counts from its own time
    return core.now - core.hands.clock.lateness(event_ms, core.now)


def forward(
    core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
) -> None:
    """Send an event of the compositor's to the client as it is, with the client's id."""
    out = core.down.data
    out += _ID.pack(obj.cid)
    out += data[pos + 4 : pos + size]


# -- wl_seat ------------------------------------------------------------------------------


def get_pointer(core: ClientState, seat: Seat, new_id: int) -> None:
    """Create a pointer of a seat, inert while the seat has none.

    wlroots 0.15 takes the seat of an inert pointer from a null address: a relative pointer
    or a lock of it ends sway 1.7.
    """
    pointer = core.make(new_id, "wl_pointer", seat.version, server=False)
    assert isinstance(pointer, Pointer)
    pointer.seat = seat
    core.pointers.append(pointer)

    def send() -> None:
        core.up.data += _get_pointer(seat.sid, core.give_sid(pointer))

    request_device(core, seat, pointer, ("wl_seat", "get_pointer"), send)


def lose_pointer(core: ClientState, pointer: Pointer) -> None:
    """Make a pointer inert, as its seat has lost the devices: a new one is another."""
    # guard: a pointer ends with its seat's
    pointer.inert = True
    pointer.focus = None
    core.serials.lift(pointer.cid)


_get_pointer = emit.request("wl_seat", "get_pointer")


def get_keyboard(core: ClientState, seat: Seat, new_id: int) -> None:
    """Create a keyboard of a seat, with its judge of chords."""
    keyboard = core.make(new_id, "wl_keyboard", seat.version, server=False)
    assert isinstance(keyboard, Keyboard)
    keyboard.seat = core.hands.of(seat)
    if keyboard.seat is not None:
        keyboard.judge = keyboard.seat.judge

    def send() -> None:
        core.up.data += _get_keyboard(seat.sid, core.give_sid(keyboard))

    request_device(core, seat, keyboard, ("wl_seat", "get_keyboard"), send)


_get_keyboard = emit.request("wl_seat", "get_keyboard")


def get_touch(core: ClientState, seat: Seat, new_id: int) -> None:
    """Create a touch screen of a seat."""
    touch = core.make(new_id, "wl_touch", seat.version, server=False)

    def send() -> None:
        core.up.data += _get_touch(seat.sid, core.give_sid(touch))

    request_device(core, seat, touch, ("wl_seat", "get_touch"), send)


_get_touch = emit.request("wl_seat", "get_touch")


def seat_name(core: ClientState, seat: ProtocolObject, _name: bytes) -> None:
    """A seat's name may reveal hardware; every sandbox sees the same one."""
    core.down.data += _seat_name(seat.cid, b"seat0")


_seat_name = emit.event("wl_seat", "name")


# -- wl_pointer ----------------------------------------------------------------------------


def release_pointer(core: ClientState, pointer: Pointer) -> None:
    core.pointers.remove(pointer)
    core.serials.lift(pointer.cid)
    core.destroy(pointer)


def enter(
    core: ClientState,
    pointer: Pointer,
    serial: int,
    surface: ProtocolObject | None,
    x: int,
    y: int,
) -> None:
    """Give the pointer's focus to a client's surface; a frame keeps it."""
    pointer.lost, pointer.missed = None, b""
    if not isinstance(surface, Surface) or surface.dead:
        # guard: frame clicks are ours
        pointer.focus = None  # a frame: ``host_pointer``
        return
    pointer.focus, pointer.news, pointer.entered = surface, True, serial
    core.serials.note(serial)
    core.down.data += _enter(
        pointer.cid, serial, surface.cid, x + surface.cx * 256, y + surface.cy * 256
    )


_enter = emit.event("wl_pointer", "enter")


def leave(
    core: ClientState, pointer: Pointer, serial: int, surface: ProtocolObject | None
) -> None:
    """Tell a client that the pointer has left its surface."""
    drag_start.heard(core)
    left = pointer.focus or pointer.lost
    cid = named(core, left) if surface is left else 0
    if cid:
        core.serials.note(serial)
        core.down.data += _leave(pointer.cid, serial, cid)
        pointer.news = True
    pointer.focus = pointer.lost = None
    # guard: a press ends with the pointer's leave
    core.serials.lift(pointer.cid)


_leave = emit.event("wl_pointer", "leave")


def _is_far_behind(core: ClientState) -> bool:
    """Return whether so much waits for a client that motions are dropped.

    The programs of a suspended sandbox read nothing for hours, and keep their windows:
    where the pointer was meanwhile is of no use to them.
    """
    return len(core.down.data) > wayland_limits.WAYLAND_MOTION_BYTES


def motion(
    core: ClientState,
    pointer: Pointer,
    data: bytes,
    pos: int,
    size: int,
    *,
    last: bool = False,
) -> None:
    """Pass the pointer's motion on, in the surface's own coordinates."""
    surface, pointer.missed = pointer.focus, b""
    if surface is None:
        return
    # guard: a client that reads nothing gets no motion that fills its queue
    if _is_far_behind(core) and not last:
        pointer.missed = data[pos : pos + size]
        return
    pointer.news = True
    if not surface.cx and not surface.cy:
        forward(core, pointer, data, pos, size)
        return
    x, y = _FIXED.unpack_from(data, pos + 12)
    out = core.down.data
    out += _ID.pack(pointer.cid)
    out += data[pos + 4 : pos + 12]
    out += _FIXED.pack(x + surface.cx * 256, y + surface.cy * 256)


def button(
    core: ClientState, pointer: Pointer, data: bytes, pos: int, size: int
) -> None:
    """Pass a button on and note it as input; a press chooses the window."""
    if pointer.focus is not None:
        pointer.news = True
        serial, time, which, state = _FOUR.unpack_from(data, pos + 8)
        # guard: a press is where the pointer is
        if missed := pointer.missed:
            motion(core, pointer, missed, 0, len(missed), last=True)
        core.serials.note_input(serial, _happened(core, time))
        if state == _PRESSED:
            choice.press(pointer.focus)
            core.serials.press(pointer.cid, which, serial, pointer.focus)
        else:
            core.serials.lift(pointer.cid, which)
        forward(core, pointer, data, pos, size)


def _if_told(
    core: ClientState, pointer: Pointer, data: bytes, pos: int, size: int
) -> None:
    if pointer.focus is not None and not _is_far_behind(core):
        pointer.news = True
        forward(core, pointer, data, pos, size)


def relative_motion(
    core: ClientState, relative: ProtocolObject, data: bytes, pos: int, size: int
) -> None:
    """Forward relative motion over the client's content only, not on a frame.

    The next wl_pointer.frame ends it, and is all that comes while a pointer is locked.
    """
    focused = [pointer for pointer in core.pointers if pointer.focus is not None]
    if _is_far_behind(core):
        return
    for pointer in focused:
        pointer.news = True
    # guard: relative motion on the content only
    if focused:
        forward(core, relative, data, pos, size)


def pointer_frame(
    core: ClientState, pointer: Pointer, data: bytes, pos: int, size: int
) -> None:
    if pointer.news:
        pointer.news = False
        forward(core, pointer, data, pos, size)


# -- wl_keyboard -----------------------------------------------------------------------------


def release_keyboard(core: ClientState, keyboard: Keyboard) -> None:
    # guard: no focus of a keyboard that is gone
    core.blur_keyboard(keyboard)
    core.destroy(keyboard)


def keymap(core: ClientState, keyboard: Keyboard, form: int, fd: Fd, size: int) -> None:
    """Our copy: the compositor's file is every other program's, too."""
    # guard: a keymap is a copy
    copy, length = core.machine.copy_keymap(fd, size)
    form = form if length else _NO_KEYMAP
    core.down.add(_keymap(keyboard.cid, form, length), [copy])


_keymap = emit.event("wl_keyboard", "keymap")
_NO_KEYMAP = 0
"""wl_keyboard.keymap_format"""


def keyboard_enter(
    core: ClientState,
    keyboard: Keyboard,
    serial: int,
    surface: ProtocolObject | None,
    keys: bytes,
) -> None:
    """Give a client's surface the keyboard, with the held keys that it may see."""
    known = client_surface(surface)
    keyboard.focus = known
    if known is None:
        return
    core.serials.note(serial)
    core.focus_keyboard(keyboard, known)
    shown = shown_keys(keyboard, keys)
    core.down.data += _keyboard_enter(keyboard.cid, serial, known.cid, shown)
    # Some compositors send them just before the enter.  The judge of chords has had
    # them then; it must not take earlier ones (weston's) for those of this enter.
    waiting, keyboard.waiting = keyboard.waiting, b""
    if waiting:
        # guard: modifiers of before are not those of the enter
        _pass_modifiers(core, keyboard, waiting, 0, len(waiting))


_keyboard_enter = emit.event("wl_keyboard", "enter")


def shown_keys(keyboard: Keyboard, keys: bytes) -> bytes:
    """Return which of the keys held at an enter the client may see."""
    if keyboard.judge is None:
        return keys
    held = struct.unpack(f"={len(keys) // 4}I", keys[: len(keys) & ~3])
    shown = keyboard.judge.enter(held)
    return struct.pack(f"={len(shown)}I", *shown)


def keyboard_leave(
    core: ClientState, keyboard: Keyboard, serial: int, surface: ProtocolObject | None
) -> None:
    """Tell a client that it has lost the keyboard's focus."""
    before, keyboard.focus = keyboard.focus, None
    if before is not None and keyboard.judge is not None:
        keyboard.judge.leave()
    # Our own keyboard of the seat ends it, too (``host_seat.blur``): either suffices.
    core.blur_keyboard(keyboard)
    cid = named(core, before)
    if not cid or client_surface(surface) not in {None, before}:
        return
    core.serials.note(serial)
    core.down.data += _keyboard_leave(keyboard.cid, serial, cid)


_keyboard_leave = emit.event("wl_keyboard", "leave")


def key(
    core: ClientState, keyboard: Keyboard, data: bytes, pos: int, size: int
) -> None:
    """Pass a key on, unless it belongs to a chord of the user's."""
    if keyboard.focus is None:
        return
    serial, time, which, state = _FOUR.unpack_from(data, pos + 8)
    late = core.hands.clock.lateness(time, core.now)
    if core.hands.passes(keyboard, serial, which, state, late):
        # guard: a stolen key is not input
        if choice.counts(keyboard.focus, core.now - late):
            core.serials.note_input(serial, core.now - late)
        else:
            core.serials.note(serial)
        forward(core, keyboard, data, pos, size)


def modifiers(
    core: ClientState, keyboard: Keyboard, data: bytes, pos: int, size: int
) -> None:
    """Pass the modifiers on to a client with the focus only."""
    if keyboard.judge is not None:
        keyboard.judge.modifiers(*_FOUR.unpack_from(data, pos + 12))
    # weston sends them to the client under the pointer, too: it would hear how many
    # capitals a password has that is typed elsewhere.
    # guard: modifiers with the focus only
    if keyboard.focus is None:
        keyboard.waiting = data[pos : pos + size]
        return
    _pass_modifiers(core, keyboard, data, pos, size)


def _pass_modifiers(
    core: ClientState, keyboard: Keyboard, data: bytes, pos: int, size: int
) -> None:
    core.serials.note(_SERIAL.unpack_from(data, pos + 8)[0])
    forward(core, keyboard, data, pos, size)


# -- wl_touch ------------------------------------------------------------------------------------


def release_touch(core: ClientState, touch: Touch) -> None:
    # guard: a press ends with its finger's object
    core.serials.lift(touch.cid)
    core.destroy(touch)


def touch_down(
    core: ClientState,
    touch: Touch,
    serial: int,
    time: int,
    surface: ProtocolObject | None,
    finger: int,
    x: int,
    y: int,
) -> None:
    """Begin a touch; one on a frame dismisses menus."""
    # guard: grabs end with a finger elsewhere in the sandbox
    core.sandbox.pressed(core)
    if not isinstance(surface, Surface) or surface.dead:
        popups.dismiss_grabs(core)
        return
    touch.fingers[finger], touch.told = surface, True
    choice.press(surface)
    core.serials.press(touch.cid, finger, serial, surface)
    core.serials.note_input(serial, _happened(core, time))
    core.down.data += _touch_down(
        touch.cid,
        serial,
        time,
        surface.cid,
        finger,
        x + surface.cx * 256,
        y + surface.cy * 256,
    )


_touch_down = emit.event("wl_touch", "down")


def touch_up(
    core: ClientState, touch: Touch, serial: int, time: int, finger: int
) -> None:
    """End a touch, and note it as input."""
    core.serials.lift(touch.cid, finger)
    if touch.fingers.pop(finger, None) is not None:
        touch.told = True
        core.serials.note_input(serial, _happened(core, time))
        core.down.data += _touch_up(touch.cid, serial, time, finger)


_touch_up = emit.event("wl_touch", "up")


def touch_motion(
    core: ClientState, touch: Touch, time: int, finger: int, x: int, y: int
) -> None:
    """Pass a touch's motion on, in the surface's own coordinates."""
    surface = touch.fingers.get(finger)
    if surface is not None:
        touch.told = True
        core.down.data += _touch_motion(
            touch.cid, time, finger, x + surface.cx * 256, y + surface.cy * 256
        )


_touch_motion = emit.event("wl_touch", "motion")


def touch_frame(core: ClientState, touch: Touch) -> None:
    """Pass the end of a touch frame on, if the client got part of it."""
    # KWin 5.27 sends one to the client that was touched last for a finger that is on no
    # window, as on the desktop: a sandbox would hear when the user touches that.
    # guard: a client gets touch frames of its own fingers only
    if not touch.told:
        return
    touch.told = False
    core.down.data += _touch_frame(touch.cid)


_touch_frame = emit.event("wl_touch", "frame")


def touch_cancel(core: ClientState, touch: Touch) -> None:
    """Cancel the client's touches."""
    core.serials.lift(touch.cid)
    # guard: a client gets touch cancels of its own fingers only
    if not touch.fingers and not touch.told:
        return
    touch.fingers.clear()
    touch.told = False
    core.down.data += _touch_cancel(touch.cid)


_touch_cancel = emit.event("wl_touch", "cancel")


def touch_shape(
    core: ClientState, touch: Touch, finger: int, major: int, minor: int
) -> None:
    if finger in touch.fingers:
        touch.told = True
        core.down.data += _touch_shape(touch.cid, finger, major, minor)


_touch_shape = emit.event("wl_touch", "shape")


def touch_orientation(core: ClientState, touch: Touch, finger: int, angle: int) -> None:
    if finger in touch.fingers:
        touch.told = True
        core.down.data += _touch_orientation(touch.cid, finger, angle)


_touch_orientation = emit.event("wl_touch", "orientation")


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_keyboard", "release"): release_keyboard,
    ("wl_pointer", "release"): release_pointer,
    ("wl_seat", "get_pointer"): get_pointer,
    ("wl_seat", "get_keyboard"): get_keyboard,
    ("wl_seat", "get_touch"): get_touch,
    ("wl_seat", "release"): FORWARD,
    ("wl_touch", "release"): release_touch,
}
EVENTS: Rules = {
    ("wl_keyboard", "keymap"): keymap,
    ("wl_keyboard", "enter"): keyboard_enter,
    ("wl_keyboard", "leave"): keyboard_leave,
    ("wl_keyboard", "key"): Raw(key),
    ("wl_keyboard", "modifiers"): Raw(modifiers),
    ("wl_keyboard", "repeat_info"): FORWARD,
    ("wl_pointer", "enter"): enter,
    ("wl_pointer", "leave"): leave,
    ("wl_pointer", "motion"): Raw(motion),
    ("wl_pointer", "button"): Raw(button),
    ("wl_pointer", "axis"): Raw(_if_told),
    ("wl_pointer", "frame"): Raw(pointer_frame),
    ("wl_pointer", "axis_source"): Raw(_if_told),
    ("wl_pointer", "axis_stop"): Raw(_if_told),
    ("wl_pointer", "axis_discrete"): Raw(_if_told),
    ("wl_pointer", "axis_value120"): Raw(_if_told),
    ("wl_pointer", "axis_relative_direction"): Raw(_if_told),
    ("wl_seat", "capabilities"): capabilities,
    ("wl_seat", "name"): seat_name,
    ("wl_touch", "down"): touch_down,
    ("wl_touch", "up"): touch_up,
    ("wl_touch", "motion"): touch_motion,
    ("wl_touch", "frame"): touch_frame,
    ("wl_touch", "cancel"): touch_cancel,
    ("wl_touch", "shape"): touch_shape,
    ("wl_touch", "orientation"): touch_orientation,
    ("zwp_relative_pointer_v1", "relative_motion"): Raw(relative_motion),
}
CLASSES: Classes = {
    "wl_keyboard": Keyboard,
    "wl_pointer": Pointer,
    "wl_seat": Seat,
    "wl_touch": Touch,
}
