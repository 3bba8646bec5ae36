"""The filter's own objects on each seat: focus, frames, chords, the user's selection.

Beside the client's own there are, on every seat: a pointer (``host_pointer``); a
keyboard, so that focus and chords are seen whatever the client makes; and, where
something may cross, a data device while the client has none (with two, some compositors
notify only the newer one, and the end of either of a drag's two offers would end the drag).
Events of these objects never reach the client.

The user's own selection is kept as an offer, unread: it is read after a
paste chord only, through our pipe.  Ours takes its place after a copy
chord only, with that press's own serial, once: compositors remember made-up
serials, and refuse honest ones after them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.clipboard.key_verdicts import KeyVerdict
from broker.core.limits import wayland as limits
from broker.jail.wayland.handlers import cursor, host_pointer
from broker.jail.wayland.handlers.seat import (
    client_surface,
    lose_pointer,
    shown_keys,
)
from broker.jail.wayland.handlers.selection import HostOffer, host_offer
from broker.jail.wayland.input_model import HostPointer, Keyboard, Seat
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.event_clock import EventClock
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.ports import ExportPort, SeatChords
    from broker.jail.wayland.protocol.wire import Fd
    from broker.jail.wayland.state import ClientState

_POINTER, _KEYBOARD = 1, 2
"""Bits of wl_seat.capability."""
_XKB_V1 = 1
"""Format in wl_keyboard.keymap."""
SEAT_VERSION = 5
"""Keyboards can be released since 3."""
RELEASABLE = 2
"""Version of wl_data_device_manager whose devices can be released."""


class OwnSeat(ProtocolObject):
    """Our wl_seat, with what we have on it."""

    __slots__ = ("capabilities", "device", "judge", "keyboard", "name", "pointer")

    def __init__(self, version: int, name: int, judge: SeatChords | None) -> None:
        super().__init__("wl_seat", version)
        self.name = name
        self.judge = judge
        self.capabilities: int | None = None
        """Bits of wl_seat.capability; None before the compositor has told."""
        self.keyboard: Keyboard | None = None
        self.pointer: HostPointer | None = None
        self.device: OwnDevice | None = None


class OwnDevice(ProtocolObject):
    """Our wl_data_device; ``dragged`` is an offer of a drag over it."""

    __slots__ = ("dragged",)

    def __init__(self, version: int) -> None:
        super().__init__("wl_data_device", version)
        self.dragged: HostOffer | None = None


class ExportSource(ProtocolObject):
    """Our wl_data_source, which the user's programs may read."""

    __slots__ = ("content", "mark")

    def __init__(self, version: int, content: ExportPort, mark: bytes) -> None:
        super().__init__("wl_data_source", version)
        self.content = content
        self.mark = mark


class Hands:
    """Of one connection; chords and selections only where the sandbox has a hand."""

    def __init__(self, core: ClientState) -> None:
        self._core = core
        self._seats: dict[int, OwnSeat] = {}
        self.offer: HostOffer | None = None
        """The user's own selection, as the compositor announced it last."""
        self._export: ExportSource | None = None
        self.clock = EventClock()
        """How late an input event is heard."""
        self.refocused = False
        """The keyboard has come or gone since the menus were looked at."""

    @property
    def active(self) -> bool:
        """Return whether chords are looked for."""
        return self._core.sandbox.hand is not None

    @property
    def watching(self) -> bool:
        """Return whether our keyboard reports which surface has the focus."""
        return any(seat.keyboard is not None for seat in self._seats.values())

    @property
    def seats(self) -> tuple[OwnSeat, ...]:
        """Ours, one for each of the compositor's."""
        return tuple(self._seats.values())

    # -- seats ---------------------------------------------------------------------

    def add_seat(self, name: int, version: int) -> None:
        """Bind a seat that the compositor offers, for the filter's own use."""
        core, hand = self._core, self._core.sandbox.hand
        version = min(SEAT_VERSION, version)
        seat = OwnSeat(version, name, hand.judge() if hand is not None else None)
        core.own("wl_seat", seat)
        seat.events = dispatch.own_events("wl_seat", _SEAT_EVENTS)
        core.up.data += emit.bind(core.registry, name, b"wl_seat", version, seat.sid)
        self._seats[name] = seat
        self.balance()

    def remove_seat(self, name: int) -> None:
        """Remove a seat that the compositor has withdrawn."""
        seat = self._seats.pop(name, None)
        if seat is not None:
            self.drop_keyboard(seat)
            self.drop_pointer(seat)
            self.lose_pointers(name)

    def lose_pointers(self, name: int) -> None:
        """Make the client's pointers of a seat inert."""
        for pointer in self._core.pointers:
            if isinstance(pointer.seat, Seat) and pointer.seat.host_name == name:
                lose_pointer(self._core, pointer)

    def of(self, seat: ProtocolObject) -> OwnSeat | None:
        """Ours beside one of the client's."""
        return self._seats.get(seat.host_name) if isinstance(seat, Seat) else None

    def make_keyboard(self, seat: OwnSeat) -> None:
        """Create our own keyboard on a seat that has a keyboard."""
        core = self._core
        keyboard = Keyboard("wl_keyboard", seat.version)
        core.own("wl_keyboard", keyboard)
        keyboard.events = dispatch.own_events("wl_keyboard", _KEYBOARD_EVENTS)
        keyboard.judge, keyboard.seat, seat.keyboard = seat.judge, seat, keyboard
        core.up.data += _get_keyboard(seat.sid, keyboard.sid)

    def drop_keyboard(self, seat: OwnSeat) -> None:
        """Drop our own keyboard on a seat that no longer has a keyboard."""
        keyboard, seat.keyboard = seat.keyboard, None
        if keyboard is None:
            return
        blur(self._core, keyboard)
        if keyboard.version >= 3:
            self._core.end_own(keyboard)

    def make_pointer(self, seat: OwnSeat) -> None:
        """Create our own pointer on a seat that has a pointer; it serves the frames."""
        pointer = HostPointer(seat.version, seat.sid)
        self._core.own("wl_pointer", pointer)
        pointer.events = dispatch.own_events("wl_pointer", host_pointer.EVENTS)
        seat.pointer = pointer
        self._core.up.data += _get_pointer(seat.sid, pointer.sid)

    def drop_pointer(self, seat: OwnSeat) -> None:
        """Drop our own pointer on a seat that no longer has a pointer."""
        pointer, seat.pointer = seat.pointer, None
        if pointer is None:
            return
        cursor.forget(self._core, pointer)
        if pointer.version >= 3:
            self._core.end_own(pointer)

    # -- keys ------------------------------------------------------------------------

    def passes(
        self, keyboard: Keyboard, serial: int, key: int, state: int, late: float
    ) -> bool:
        """Return whether the client may see a key event; report a chord.

        A chord that arrives ``late``, in seconds, was meant for the state at that time.
        """
        if keyboard.judge is None or keyboard.seat is None:
            return True
        verdict = keyboard.judge.key(serial, key, state)
        hand = self._core.sandbox.hand
        acting = verdict in {KeyVerdict.COPY, KeyVerdict.PASTE}
        # guard: a late chord does nothing
        if acting and hand is not None and late <= limits.WAYLAND_LATE_KEY_SECONDS:
            paste = verdict is KeyVerdict.PASTE
            hand.pressed(self._core, keyboard.seat, serial, paste=paste)
        return verdict is KeyVerdict.FORWARD

    # -- devices ----------------------------------------------------------------------

    def _devices(self, seat: OwnSeat) -> list[ProtocolObject]:
        """Return a seat's data devices at the compositor, the client's before ours."""
        found: list[ProtocolObject] = [
            device
            for device in self._core.devices
            if device.kind == "clipboard"
            and device.sid
            and isinstance(device.seat, Seat)
            and device.seat.host_name == seat.name
        ]
        return [*found, seat.device] if seat.device is not None else found

    def balance(self) -> None:
        """Create our data device on each seat on which the client has none."""
        core = self._core
        if not core.data_manager or not self.active:
            return
        for seat in self._seats.values():
            devices = self._devices(seat)
            if not devices:
                made = OwnDevice(core.data_version)
                core.own("wl_data_device", made)
                made.events = dispatch.own_events("wl_data_device", _DEVICE_EVENTS)
                seat.device = made
                core.up.data += _get_data_device(core.data_manager, made.sid, seat.sid)
            elif seat.device is not None and len(devices) > 1:
                if core.data_version < RELEASABLE:
                    continue
                core.end_own(seat.device)
                seat.device = None

    # -- the user's own selection -----------------------------------------------------

    def selected(self, offer: ProtocolObject | None) -> None:
        """Record the offer of the user's selection that the compositor announced."""
        core = self._core
        before = self.offer
        mine = offer if isinstance(offer, HostOffer) else None
        self.offer = mine
        # Not before the next one, also if nothing is ever read: weston 10 tells a
        # selection's owner that it is cancelled when its newest offer is destroyed.
        # guard: host clipboard swallowed
        if before is not None and before is not mine:
            core.end_own(before)
        export = self._export
        if mine is not None and export is not None and export.mark in mine.mimes:
            export.content.taken()

    def read(self, mime: bytes, fd: Fd) -> bool:
        """Request the user's selection into ``fd``; return whether ``fd`` was taken."""
        if self.offer is None or mime not in self.offer.mimes:
            return False
        self._core.up.add(_receive(self.offer.sid, mime), [fd])
        self._core.wake()
        return True

    def export(
        self, seat: OwnSeat, serial: int, content: ExportPort, mark: bytes
    ) -> bool:
        """Set the user's selection to a sandbox's content; return if it was requested.

        ``serial`` is that of the chord's press.
        """
        core = self._core
        devices = self._devices(seat)
        if not devices:
            return False
        before = self._export
        source = ExportSource(core.data_version, content, mark)
        core.own("wl_data_source", source)
        source.events = dispatch.own_events("wl_data_source", _EXPORT_EVENTS)
        core.up.data += _create_source(core.data_manager, source.sid)
        for mime in content.mimes:
            core.up.data += _offer(source.sid, mime)
        core.up.data += _set_selection(devices[0].sid, source.sid, serial)
        self._export = source
        if before is not None:
            self._end_export(before)
        core.wake()
        return True

    def take_back(self, content: ExportPort) -> None:
        """End the export of this content, if it is still the current one."""
        export = self._export
        if export is not None and export.content is content:
            self._export = None
            self._end_export(export)
            self._core.wake()

    def _end_export(self, source: ExportSource) -> None:
        if not source.dead:
            # Once: KWin says twice that one is cancelled.
            self._core.end_own(source)
            source.content.cancel()

    def cancelled(self, source: ExportSource) -> None:
        """Another selection took its place, or the compositor refused it."""
        if self._export is source:
            self._export = None
        self._end_export(source)

    def close(self) -> None:
        """Drop the focus and cancel the export, as the connection has ended."""
        for seat in self._seats.values():
            if seat.keyboard is not None:
                seat.keyboard.focus = None
        self._seats.clear()
        export, self._export = self._export, None
        if export is not None and not export.dead:
            export.dead = True
            export.content.cancel()


_get_keyboard = emit.request("wl_seat", "get_keyboard")
_get_pointer = emit.request("wl_seat", "get_pointer")
_get_data_device = emit.request("wl_data_device_manager", "get_data_device")
_create_source = emit.request("wl_data_device_manager", "create_data_source")
_offer = emit.request("wl_data_source", "offer")
_set_selection = emit.request("wl_data_device", "set_selection")
_receive = emit.request("wl_data_offer", "receive")


# -- what the compositor says on our objects -------------------------------------------


def _capabilities(core: ClientState, seat: OwnSeat, bits: int) -> None:
    """Create or drop our devices by a seat's capabilities."""
    seat.capabilities = bits
    if not bits & _POINTER:
        core.hands.lose_pointers(seat.name)
        core.hands.drop_pointer(seat)
    elif seat.pointer is None:
        # guard: each seat has our pointer
        core.hands.make_pointer(seat)
    if not bits & _KEYBOARD:
        core.hands.drop_keyboard(seat)
        _tell_trouble(core, "the seat has no keyboard")
    elif seat.keyboard is None:
        core.hands.make_keyboard(seat)


def _tell_trouble(core: ClientState, reason: str) -> None:
    if core.sandbox.hand is not None:
        core.sandbox.hand.trouble(reason)


def _keymap(
    core: ClientState, keyboard: Keyboard, form: int, fd: Fd, size: int
) -> None:
    """Read the seat's keymap for recognising the user's chords."""
    if keyboard.judge is None:
        core.discard(fd)
        return
    text = core.machine.read_keymap(fd, size)
    _tell_trouble(core, keyboard.judge.keymap(text if form == _XKB_V1 else None))


def _enter(
    core: ClientState,
    keyboard: Keyboard,
    _serial: int,
    surface: ProtocolObject | None,
    keys: bytes,
) -> None:
    """Handle that our keyboard gets the focus on a surface of the client."""
    keyboard.focus = client_surface(surface)
    if keyboard.focus is not None:
        core.focus_keyboard(keyboard, keyboard.focus)
        shown_keys(keyboard, keys)


def _leave(
    core: ClientState,
    keyboard: Keyboard,
    _serial: int,
    _surface: ProtocolObject | None,
) -> None:
    """Take the keyboard's focus from this client."""
    blur(core, keyboard)


def blur(core: ClientState, keyboard: Keyboard) -> None:
    """Handle that our keyboard loses its focus."""
    before, keyboard.focus = keyboard.focus, None
    if before is not None:
        # The client's keyboards of a seat that has gone get no more events.
        for other in [k for k in core.focused if k.seat is keyboard.seat]:
            core.blur_keyboard(other)
        if keyboard.judge is not None:
            keyboard.judge.leave()


def _key(
    core: ClientState,
    keyboard: Keyboard,
    serial: int,
    time: int,
    key: int,
    state: int,
) -> None:
    """Judge a key for the user's chords."""
    if keyboard.focus is not None:
        late = core.hands.clock.lateness(time, core.now)
        core.hands.passes(keyboard, serial, key, state, late)


def _modifiers(
    _core: ClientState,
    keyboard: Keyboard,
    _serial: int,
    depressed: int,
    latched: int,
    locked: int,
    group: int,
) -> None:
    """Note the held modifiers for the user's chords."""
    if keyboard.judge is not None:
        keyboard.judge.modifiers(depressed, latched, locked, group)


def _selection(
    core: ClientState, _device: OwnDevice, offer: ProtocolObject | None
) -> None:
    core.hands.selected(offer)


def _drag_enter(
    core: ClientState,
    device: OwnDevice,
    _serial: int,
    _surface: ProtocolObject | None,
    _x: int,
    _y: int,
    offer: ProtocolObject | None,
) -> None:
    """Note the data that is dragged over our surface."""
    _drag_leave(core, device)
    device.dragged = offer if isinstance(offer, HostOffer) else None


def _drag_leave(core: ClientState, device: OwnDevice) -> None:
    dragged, device.dragged = device.dragged, None
    if dragged is not None:
        core.end_own(dragged)


def _send(core: ClientState, source: ExportSource, mime: bytes, fd: Fd) -> None:
    if not source.content.send(mime, fd):
        core.machine.close(fd)


def _cancelled(core: ClientState, source: ExportSource) -> None:
    core.hands.cancelled(source)


_SEAT_EVENTS: dispatch.Handlers = {"capabilities": _capabilities}
_KEYBOARD_EVENTS: dispatch.Handlers = {
    "keymap": _keymap,
    "enter": _enter,
    "leave": _leave,
    "key": _key,
    "modifiers": _modifiers,
}
_DEVICE_EVENTS: dispatch.Handlers = {
    "data_offer": host_offer,
    "selection": _selection,
    "enter": _drag_enter,
    "leave": _drag_leave,
}
_EXPORT_EVENTS: dispatch.Handlers = {"send": _send, "cancelled": _cancelled}
