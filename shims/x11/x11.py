"""An X11 client without a library and without waiting: replies come to callbacks."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any, Callable, NamedTuple, Optional, Sequence, Union

from shims.x11.wire import BridgeError, Stream, numbers

_Call = Callable[[Any], None]
Atom = Union[int, str]
"""An atom, or the name of an atom that is known from the start."""
Part = Union[int, bytes]
Data = Union[bytes, Sequence[int]]
Pair = Optional[tuple[int, int]]
Reply = Callable[[Optional[bytes]], None]
"""Gets the whole reply, or None for an error (the window has gone)."""

_NAMES = """
WM_S0 WM_STATE WM_PROTOCOLS WM_DELETE_WINDOW WM_TAKE_FOCUS WM_CHANGE_STATE WM_NAME
WM_CLASS WM_TRANSIENT_FOR WM_HINTS WM_NORMAL_HINTS WL_SURFACE_ID WL_SURFACE_SERIAL
UTF8_STRING COMPOUND_TEXT STRING TEXT ATOM ATOM_PAIR INTEGER WINDOW CARDINAL INCR
TARGETS TIMESTAMP MULTIPLE CLIPBOARD PRIMARY
RESOURCE_MANAGER _XSETTINGS_S0 _XSETTINGS_SETTINGS _NET_SUPPORTED
_NET_SUPPORTING_WM_CHECK _NET_NUMBER_OF_DESKTOPS _NET_CURRENT_DESKTOP _NET_WORKAREA
_NET_CLIENT_LIST _NET_ACTIVE_WINDOW _NET_FRAME_EXTENTS _NET_REQUEST_FRAME_EXTENTS
_NET_CLOSE_WINDOW _NET_WM_MOVERESIZE _NET_WM_NAME _NET_WM_PING _NET_WM_SYNC_REQUEST
_NET_WM_SYNC_REQUEST_COUNTER _NET_WM_STATE _NET_WM_STATE_FULLSCREEN
_NET_WM_STATE_MAXIMIZED_VERT _NET_WM_STATE_MAXIMIZED_HORZ _NET_WM_STATE_FOCUSED
_NET_WM_STATE_MODAL _NET_WM_WINDOW_TYPE _NET_WM_WINDOW_TYPE_MENU
_NET_WM_WINDOW_TYPE_POPUP_MENU _NET_WM_WINDOW_TYPE_DROPDOWN_MENU
_NET_WM_WINDOW_TYPE_COMBO _NET_WM_WINDOW_TYPE_TOOLTIP _NET_WM_WINDOW_TYPE_SPLASH
_NET_WM_WINDOW_TYPE_NOTIFICATION _NET_WM_WINDOW_TYPE_DND _MOTIF_WM_HINTS
_GTK_FRAME_EXTENTS _XWAYLAND_ALLOW_COMMITS XdndSelection XdndAware XdndEnter
XdndPosition XdndStatus XdndLeave XdndDrop XdndFinished XdndTypeList XdndActionCopy
XdndActionMove
"""
ATOMS = _NAMES.split()
"""Those that are known from the start; predefined ones have the same names."""


class Property(NamedTuple):
    """A window's property; ``more`` is the size of the rest that was not asked for."""

    kind: int
    format: int
    data: bytes
    more: int

    def words(self) -> tuple[int, ...]:
        """Return 32-bit values; none for another format."""
        return numbers(self.data) if self.format == 32 else ()


NOTHING = Property(0, 0, b"", 0)
Found = Callable[[Property], None]


class X11(Stream):
    """The window manager's connection.

    ``ready`` is called once the server has accepted us and all atoms are known, ``event``
    with each event (32 bytes or more), ``failed`` with each error nobody waits for.
    """

    def __init__(
        self, cookie: bytes, ready: Callable[[], None], event: Callable[[bytes], None]
    ) -> None:
        super().__init__("Xwayland")
        name = b"MIT-MAGIC-COOKIE-1" if cookie else b""
        self.out += struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), len(cookie))
        self.out += _padded(name) + _padded(cookie)
        self._ready, self._event = ready, event
        self._open = False
        self._sequence = 0
        self._waiting: dict[int, Reply] = {}
        self.atoms: dict[str, int] = {}
        self._names: dict[int, str] = {0: ""}
        self._last_id = 0
        self.base = self.mask = self.root = 0

    # -- bytes from the server

    def handle(self) -> None:
        """Parse the received replies and events, and call their callbacks.

        Raises BridgeError.
        """
        if not self._open and not self._accepted():
            return
        while len(self.received) >= 32:
            kind, size = self.received[0], 32
            if kind == 1 or kind & 0x7F == 35:
                size += 4 * struct.unpack_from("<I", self.received, 4)[0]
            if size > 1 << 27:
                raise BridgeError(f"Xwayland sent a reply of {size} bytes")
            if len(self.received) < size:
                return
            piece = bytes(self.received[:size])
            del self.received[:size]
            if kind > 1:
                self._event(piece)
                continue
            waiting = self._waiting.pop(struct.unpack_from("<H", piece, 2)[0], None)
            if waiting is not None:
                waiting(piece if kind else None)

    def _accepted(self) -> bool:
        """Read the server's answer to the connection; False: not complete."""
        if len(self.received) < 8:
            return False
        accepted, length = struct.unpack_from("<B5xH", self.received)
        data = bytes(self.received[8 : 8 + 4 * length])
        if len(data) < 4 * length:
            return False
        del self.received[: 8 + 4 * length]
        if accepted != 1:
            raise BridgeError(f"Xwayland rejected its window manager: {data[:100]!r}")
        try:
            _, self.base, self.mask, _, vendor = struct.unpack_from("<IIIIH", data)
            at = 32 + (vendor + 3 & ~3) + 8 * data[21]
            (self.root,) = struct.unpack_from("<I", data, at)
        except (struct.error, IndexError):
            raise BridgeError("Xwayland sent an incomplete setup reply") from None
        self._open = True
        self.intern(ATOMS, lambda _atoms: self._ready())
        return True

    # -- requests

    def request(
        self, opcode: int, *parts: Part, minor: int = 0, then: Optional[Reply] = None
    ) -> None:
        """Queue a request of at most 256 KiB; its parts are 32-bit values and bytes."""
        body = _padded(b"".join(map(_part, parts)))
        self.out += struct.pack("<BBH", opcode, minor, 1 + len(body) // 4) + body
        self._sequence = (self._sequence + 1) & 0xFFFF
        if then is not None:
            self._waiting[self._sequence] = then

    def sync(self, then: Callable[[], None]) -> None:
        """Call back when the server has done everything before (GetInputFocus)."""
        self.request(43, then=lambda _reply: then())

    def new_id(self) -> int:
        """Return an id for a window or cursor."""
        self._last_id += 1
        return self.base | self._last_id

    def extension(self, name: str, then: Callable[..., None], *version: int) -> None:
        """Ask for a version of an extension; call back with its opcode and first event."""

        def answered(reply: Optional[bytes]) -> None:
            if reply is not None and reply[8]:
                self.request(reply[9], *version)
                then(reply[9], reply[10])

        self.request(98, len(name), name.encode(), then=answered)

    def intern(self, names: Sequence[str], then: Callable[[list[int]], None]) -> None:
        """Call back with the atoms of these names, in order."""

        def answered(name: str, reply: Optional[bytes]) -> None:
            atom = struct.unpack_from("<I", reply, 8)[0] if reply else 0
            self.atoms[name] = atom
            self._names[atom] = name if atom else ""

        def ask(name: str) -> None:
            data = name.encode("utf-8", "replace")[:1000]
            self.request(16, len(data), data, then=partial(answered, name))

        self._look_up(names, self.atoms, ask, then, 0)

    def names(self, atoms: Sequence[int], then: Callable[[list[str]], None]) -> None:
        """Call back with the names of these atoms, "" if a number is no atom."""

        def answered(atom: int, reply: Optional[bytes]) -> None:
            # A program may list the number of an atom that another one makes later.
            # guard: an atom that does not exist yet is asked for again
            if reply is None:
                return
            size = struct.unpack_from("<H", reply, 8)[0]
            name = reply[32 : 32 + size].decode("utf-8", "replace")
            self.atoms.setdefault(name, atom)
            self._names[atom] = name

        def ask(atom: int) -> None:
            self.request(17, atom, then=partial(answered, atom))

        self._look_up(atoms, self._names, ask, then, "")

    def _look_up(
        self,
        keys: Sequence[Any],
        known: dict[Any, Any],
        ask: _Call,
        then: _Call,
        nothing: Atom,
    ) -> None:
        """Call back with the known data of all keys, which is asked for where it is not.

        ``nothing`` stands for what the server does not know.
        """
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        for key in missing:
            ask(key)
        if missing:
            self.sync(lambda: then([known.get(key, nothing) for key in keys]))
        else:
            then([known[key] for key in keys])

    def name(self, atom: int) -> str:
        """Return the name of an atom that is known already, or ""."""
        return self._names.get(atom, "")

    def property(
        self,
        window: int,
        atom: int,
        then: Found,
        units: int = 1024,
        *,
        delete: bool = False,
    ) -> None:
        """Call back with up to so many units (of 4 bytes) of a property."""

        def answered(reply: Optional[bytes]) -> None:
            if reply is None or reply[1] not in (8, 16, 32):
                then(NOTHING)
                return
            kind, more, items = struct.unpack_from("<III", reply, 8)
            data = reply[32 : 32 + items * (reply[1] // 8)]
            then(Property(kind, reply[1], data, more))

        words = (window, atom, 0, 0, units)
        self.request(20, *words, minor=int(delete), then=answered)

    def set_property(self, window: int, name: Atom, kind: Atom, data: Data) -> None:
        """Replace a property: bytes, or a list of 32-bit values."""
        atom = self.atoms[name] if isinstance(name, str) else name
        kind = self.atoms[kind] if isinstance(kind, str) else kind
        form, parts = (8, [data]) if isinstance(data, bytes) else (32, data)
        items = len(data)
        self.request(18, window, atom, kind, form, items, *parts)

    def select(self, window: int, mask: int) -> None:
        """Choose the events of a window."""
        self.request(2, window, 1 << 11, mask)

    def create_window(self) -> int:
        """Make an unmapped, override-redirect, input-only window."""
        window = self.new_id()
        place = struct.pack("<6H", 8, 8, 4, 4, 0, 2)
        self.request(1, window, self.root, place, 0, 1 << 9 | 1 << 11, 1, 1 << 22)
        return window

    def configure(
        self, window: int, *, place: Pair = None, size: Pair = None, above: bool = False
    ) -> None:
        """Move, resize or raise a window; the border goes with a size."""
        sides = [max(1, side) for side in size] + [0] if size else [None] * 3
        words = [*(place or (None, None)), *sides, None, 0 if above else None]
        mask = sum(1 << bit for bit, word in enumerate(words) if word is not None)
        self.request(12, window, mask, *(word for word in words if word is not None))

    def send_event(self, window: int, mask: int, event: bytes) -> None:
        """Send a synthetic event."""
        self.request(25, window, mask, event.ljust(32, b"\0"))

    def client_message(self, window: int, kind: str, *values: int) -> None:
        """Send a client message about a window to it; up to five 32-bit values."""
        head = struct.pack("<BBHII", 33, 32, 0, window, self.atoms[kind])
        self.send_event(window, 0, head + b"".join(map(_part, values)))

    def protocol(self, window: int, name: str, *values: int) -> None:
        """Send a window a message of WM_PROTOCOLS."""
        self.client_message(window, "WM_PROTOCOLS", self.atoms[name], *values)

    def own(self, window: int, selection: str) -> None:
        """Take a selection, or leave it with window 0."""
        self.request(22, window, self.atoms[selection], 0)

    def focus(self, window: int) -> None:
        """Give a window the keyboard."""
        self.request(42, window, 0, minor=1)


def _part(value: Part) -> bytes:
    return value if isinstance(value, bytes) else struct.pack("<I", value & 0xFFFFFFFF)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
