"""A Wayland compositor that shows nothing, until a program has drawn its first window.

For a rehearsal (``rehearsal``): the program's own start is the purpose, so this has
only the globals without which toolkits give up, and only the events that a program
waits for before it draws.  Sans-IO; the requests and events are those of wayland.xml
and xdg-shell.xml.
"""

from __future__ import annotations

import struct
from typing import Dict, List, Tuple

SCREEN_GLOBALS = (
    ("wl_compositor", 4),
    ("wl_subcompositor", 1),
    ("wl_shm", 1),
    ("wl_data_device_manager", 3),
    ("xdg_wm_base", 2),
    ("wl_seat", 7),
    ("wl_output", 4),
    ("wp_viewporter", 1),
)
SCREEN_SIZE = (1280, 800)
SCREEN_MESSAGE_BYTES = 4096  # libwayland's largest
SCREEN_OBJECTS = 10000
WL_DISPLAY = 1
# The requests of each interface that have an answer or make an object.
SYNC, GET_REGISTRY = 0, 1
CREATE_SURFACE = 0
GET_XDG_SURFACE = 2
GET_TOPLEVEL = 1
ATTACH, FRAME, COMMIT = 1, 3, 6


class ScreenError(Exception):
    """The program's requests are not understood."""


class Screen:
    """One connection's objects, and whether a window has been drawn."""

    def __init__(self) -> None:
        self.drawn = False
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._kinds: Dict[int, str] = {WL_DISPLAY: "wl_display"}
        self._roles: Dict[int, Tuple[int, int]] = {}  # surface -> its xdg objects
        self._surfaces: Dict[int, int] = {}  # xdg_surface -> surface
        self._buffers: Dict[int, int] = {}  # surface -> buffer
        self._frames: List[int] = []
        self._serial = 0

    def feed(self, data: bytes) -> bytes:
        """Process bytes of the program; return those to send.

        Raises ScreenError.
        """
        self._incoming += data
        while len(self._incoming) >= 8:
            number, word = struct.unpack_from("=II", self._incoming)
            size, code = word >> 16, word & 0xFFFF
            if not 8 <= size <= SCREEN_MESSAGE_BYTES:
                raise ScreenError(f"invalid message size: {size} bytes")
            if len(self._incoming) < size:
                break
            body = bytes(self._incoming[8:size])
            del self._incoming[:size]
            try:
                self._request(number, code, body)
            except struct.error as error:
                raise ScreenError(f"truncated message: {error}") from error
        answer = bytes(self._outgoing)
        self._outgoing.clear()
        return answer

    def _request(self, number: int, code: int, body: bytes) -> None:
        """Answer a request of the program."""
        kind = self._kinds.get(number, "")
        if kind == "wl_display" and code == SYNC:
            self._done(*struct.unpack_from("=I", body))
        elif kind == "wl_display" and code == GET_REGISTRY:
            self._registry(*struct.unpack_from("=I", body))
        elif kind == "wl_registry":
            self._bind(body)
        elif kind == "wl_compositor" and code == CREATE_SURFACE:
            (made,) = struct.unpack_from("=I", body)
            self._make(made, "wl_surface")
        elif kind == "xdg_wm_base" and code == GET_XDG_SURFACE:
            made, surface = struct.unpack_from("=II", body)
            self._make(made, "xdg_surface")
            self._surfaces[made] = surface
        elif kind == "xdg_surface" and code == GET_TOPLEVEL:
            (made,) = struct.unpack_from("=I", body)
            self._roles[self._surfaces[number]] = (number, made)
        elif kind == "wl_surface":
            self._surface(number, code, body)

    def _surface(self, number: int, code: int, body: bytes) -> None:
        """Note a surface's buffer and commit, and so whether something is drawn."""
        if code == ATTACH:
            (self._buffers[number],) = struct.unpack_from("=I", body)
        elif code == FRAME:
            self._frames += struct.unpack_from("=I", body)
        elif code == COMMIT:
            if number in self._roles and self._buffers.get(number):
                self.drawn = True
            elif number in self._roles:
                self._configure(*self._roles[number])
            frames, self._frames = self._frames, []
            for callback in frames:
                self._done(callback)

    def _configure(self, xdg_surface: int, toplevel: int) -> None:
        self._send(toplevel, 0, struct.pack("=iiI", 0, 0, 0))
        self._serial += 1
        self._send(xdg_surface, 0, struct.pack("=I", self._serial))

    def _registry(self, number: int) -> None:
        self._make(number, "wl_registry")
        for name, (interface, version) in enumerate(SCREEN_GLOBALS, start=1):
            body = struct.pack("=I", name) + wire_text(interface)
            self._send(number, 0, body + struct.pack("=I", version))

    def _bind(self, body: bytes) -> None:
        """Make a bound global and describe it."""
        _name, size = struct.unpack_from("=II", body)
        interface = body[8 : 8 + size].rstrip(b"\0").decode("ascii", "replace")
        version, number = struct.unpack_from("=II", body, 8 + (size + 3) // 4 * 4)
        self._make(number, interface)
        if interface == "wl_shm":
            for pixels in (0, 1):  # ARGB8888 and XRGB8888, which each server has
                self._send(number, 0, struct.pack("=I", pixels))
        elif interface == "wl_seat":
            self._send(number, 0, struct.pack("=I", 0))
            if version >= 2:
                self._send(number, 1, wire_text("seat0"))
        elif interface == "wl_output":
            self._output(number, version)

    def _output(self, number: int, version: int) -> None:
        """Describe the one output."""
        place = struct.pack("=iiiii", 0, 0, 0, 0, 0)
        text = wire_text("screen")
        self._send(number, 0, place + text + text + struct.pack("=i", 0))
        self._send(number, 1, struct.pack("=Iiii", 1, *SCREEN_SIZE, 60000))
        if version >= 2:
            self._send(number, 3, struct.pack("=i", 1))
            self._send(number, 2, b"")

    def _make(self, number: int, kind: str) -> None:
        if len(self._kinds) >= SCREEN_OBJECTS:
            raise ScreenError(f"more than {SCREEN_OBJECTS} objects")
        self._kinds[number] = kind

    def _done(self, callback: int) -> None:
        self._serial += 1
        self._send(callback, 0, struct.pack("=I", self._serial))
        self._send(WL_DISPLAY, 1, struct.pack("=I", callback))

    def _send(self, number: int, code: int, body: bytes) -> None:
        self._outgoing += struct.pack("=II", number, (8 + len(body)) << 16 | code)
        self._outgoing += body


def wire_text(text: str) -> bytes:
    """Return a string as Wayland's messages have it."""
    data = text.encode() + b"\0"
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)
