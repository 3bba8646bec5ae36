"""Both far ends of the X11 bridge without processes: a compositor, and Xwayland.

``Ends`` plays them as far as the bridge needs: it answers requests, checks that ids at the
compositor have no gaps and that objects exist, and keeps the requests in ``asked``.
"""

from __future__ import annotations

import os
import struct
from collections import Counter

from shims.x11.bridge import Bridge
from shims.x11.core import Core
from shims.x11.message_table import BY_NAME
from shims.x11.wire import WireEnd
from shims.x11.x11 import Property

GLOBALS = {
    "wl_compositor": 4, "wl_shm": 1, "wl_seat": 7, "wl_output": 2, "xdg_wm_base": 5,
    "wp_viewporter": 1, "zxdg_output_manager_v1": 2, "zxdg_decoration_manager_v1": 1,
    "wl_data_device_manager": 3, "zwp_primary_selection_device_manager_v1": 1,
    "xdg_activation_v1": 1, "xdg_wm_dialog_v1": 1,
}  # fmt: skip
ROOT, BASE, MASK = 0x100, 0x200000, 0x1FFFFF
EXTENSIONS = {b"Composite": (140, 0), b"XFIXES": (141, 90), b"SYNC": (142, 100)}


class Ends:
    """A bridge that has begun; Xwayland has bound its globals."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.core = Core(lambda: self.now, self.said.append, b"c" * 16)
        self.bridge = Bridge(self.core)
        self.asked: list[tuple[str, str, list]] = []
        self.x_asked: Counter[int] = Counter()
        self.above = {1: "wl_display"}
        self.free: set[int] = set()
        self.next = 2
        self.serial = 10
        self.roles: dict[int, tuple[int, str]] = {}
        self.surfaces: dict[int, int] = {}
        self.configured: set[int] = set()
        self.atoms: dict[bytes, int] = {}
        self.properties: dict[tuple[int, str], tuple[int, bytes]] = {}
        self.x_sequence, self.x_setup = 0, False
        self.xwayland = WireEnd("Xwayland")
        self.x_sent: list[tuple[int, list[int]]] = []
        self.told: list[tuple[int, int, bytes]] = []
        self.last = 1
        self.pasted = b""
        """What the compositor's programs write for whoever receives an offer."""
        self.bound: dict[str, int] = {}
        self.run()
        registry = self.new()
        self.request(1, "wl_display", "get_registry", registry)
        self.run()
        names = [offer[0] for offer in self.bridge.screens._offered]
        for number, name in enumerate(names):
            made = self.bound[name] = self.new()
            version = min(4, GLOBALS.get(name, 1))
            values = (number + 1, name, version, made)
            self.request(registry, "wl_registry", "bind", *values)
        self.pointer = self.new()
        self.request(self.bound["wl_seat"], "wl_seat", "get_pointer", self.pointer)
        self.keyboard = self.new()
        self.request(self.bound["wl_seat"], "wl_seat", "get_keyboard", self.keyboard)
        self.run()

    # -- Xwayland

    def new(self) -> int:
        self.last += 1
        return self.last

    def request(self, oid: int, interface: str, name: str, *values: object) -> None:
        self.xwayland.put(oid, BY_NAME[">", interface, name], values)

    def surface(self) -> int:
        made = self.new()
        compositor = self.bound["wl_compositor"]
        self.request(compositor, "wl_compositor", "create_surface", made)
        return made

    def draw(self, surface: int, size: tuple[int, int], rectangles: int = 1) -> None:
        """A buffer of a separate pool, and a commit."""
        pool, buffer = self.new(), self.new()
        fd = os.open("/dev/zero", os.O_RDONLY)
        bytes_of = size[0] * size[1] * 4
        self.request(self.bound["wl_shm"], "wl_shm", "create_pool", pool, fd, bytes_of)
        words = (buffer, 0, *size, size[0] * 4, 0)
        self.request(pool, "wl_shm_pool", "create_buffer", *words)
        self.request(pool, "wl_shm_pool", "destroy")
        self.request(surface, "wl_surface", "attach", buffer, 0, 0)
        for row in range(rectangles):
            self.request(surface, "wl_surface", "damage_buffer", 0, row, 5, 1)
        self.request(surface, "wl_surface", "frame", self.new())
        self.request(surface, "wl_surface", "commit")

    # -- X11

    def event(self, kind: int, fmt: str, *values: int) -> None:
        body = struct.pack("<BBH" + fmt, kind, 0, self.x_sequence & 0xFFFF, *values)
        self.core.x.feed(body.ljust(32, b"\0"))

    def message(self, window: int, name: str, *values: int) -> None:
        words = (*values, 0, 0, 0, 0, 0)[:5]
        self.event(33, "II5I", window, self.atom(name.encode()), *words)

    def atom(self, name: bytes) -> int:
        return self.atoms.setdefault(name, len(self.atoms) + 1)

    def create(self, xid: int, place=(0, 0, 300, 200), *, own: bool = False) -> None:
        self.event(16, "IIhhHHHB", ROOT, xid, *place, 0, int(own))
        if not own:
            self.event(20, "II", ROOT, xid)
        self.run()
        self.event(19, "IIB", ROOT, xid, int(own))
        self.run()

    def show(self, xid: int, place=(0, 0, 300, 200), *, own: bool = False) -> int:
        """A mapped window with a picture; returns its surface."""
        self.create(xid, place, own=own)
        surface = self.surface()
        self.message(xid, "WL_SURFACE_ID", surface)
        self.draw(surface, place[2:])
        self.run()
        return surface

    # -- turns

    def run(self) -> None:
        """Let all three work until nothing is on its way."""
        for _ in range(200):
            relay, x = self.core.relay, self.core.x
            data, fds = self.xwayland.piece()
            relay.down.feed(data, [os.dup(fd) for fd in fds])
            self.xwayland.sent(len(data), fds)
            self.bridge.work()
            if not (relay.up.out or x.out or self.xwayland.out):
                break
            self._compositor()
            self._server()
        down = relay.down
        self.told.append((0, 0, bytes(down.out)))
        down.sent(len(down.out), [])

    def tell(self, oid: int, name: str, *values: object) -> None:
        """An event of the compositor's."""
        end = WireEnd("")
        end.put(oid, BY_NAME["<", self.above[oid], name], values)
        self.core.relay.up.feed(*end.piece())

    def heard(self, oid: int, interface: str) -> list[tuple[str, list]]:
        """Events that Xwayland got for an object since the last time."""
        end = WireEnd("")
        end.feed(b"".join(data for _, _, data in self.told))
        self.told.clear()
        heard = [m[1:] for m in end.messages() if m[0] == oid]
        found = [end.decode("<", interface, opcode, body) for opcode, body in heard]
        return [(message.name, values) for message, values in found]

    def up(self, down: int) -> int:
        """The compositor's id of an object of Xwayland's."""
        return self.core.relay.by_down[down].up

    def x_messages(self, window: int) -> list[tuple[str, list[int]]]:
        """Client messages that the bridge sent to an X11 window, since the last time."""
        names = {number: name.decode() for name, number in self.atoms.items()}
        found = [v for to, v in self.x_sent if to == window]
        self.x_sent = [(to, v) for to, v in self.x_sent if to != window]
        return [(names[kind], values) for kind, *values in found]

    def count(self, interface: str, name: str) -> int:
        return sum((i, n) == (interface, name) for i, n, _ in self.asked)

    def _compositor(self) -> None:
        up = self.core.relay.up
        end = WireEnd("the bridge")
        data, fds = up.piece()
        end.feed(data, [os.dup(fd) for fd in fds])
        up.sent(len(data), fds)
        for oid, opcode, body in end.messages():
            interface = self.above[oid]
            message, values = end.decode(">", interface, opcode, body)
            for kind, of, value in zip(
                message.kinds, message.types, values, strict=True
            ):
                if kind == "n":
                    self._made(value, of or values[1])
                elif kind in "oO":
                    assert not value or value in self.above, (interface, message.name)
                elif kind == "h":
                    if message.name == "receive":
                        os.write(value, self.pasted)
                    os.close(value)
            self.asked.append((interface, message.name, values))
            self._answer(oid, interface, message.name, values)

    def _made(self, oid: int, interface: str) -> None:
        assert oid == self.next or oid in self.free, f"id {oid} leaves a gap"
        self.free.discard(oid)
        self.next = max(self.next, oid + 1)
        self.above[oid] = interface

    def _gone(self, oid: int) -> None:
        del self.above[oid]
        self.free.add(oid)
        self.tell(1, "delete_id", oid)

    def _answer(self, oid: int, interface: str, name: str, values: list) -> None:
        self.serial += 1
        if name == "get_registry":
            for number, (found, version) in enumerate(GLOBALS.items()):
                self.tell(values[0], "global", number + 1, found, version)
        elif name == "sync":
            self.tell(values[0], "done", 1)
            self._gone(values[0])
        elif name == "bind" and values[1] == "wl_output":
            self.tell(values[3], "mode", 3, 1280, 800, 60000)
        elif name == "get_xdg_surface":
            self.surfaces[values[1]] = values[0]
        elif name in ("get_toplevel", "get_popup"):
            self.roles[oid] = (values[0], name)
        elif name == "commit":
            xdg = self.surfaces.get(oid, 0)
            if xdg in self.roles and xdg not in self.configured:
                self.configured.add(xdg)
                role, kind = self.roles[xdg]
                if kind == "get_toplevel":
                    self.tell(role, "configure", 0, 0, b"")
                else:
                    self.tell(role, "configure", 10, 10, 50, 50)
                self.tell(xdg, "configure", self.serial)
        elif name in ("destroy", "release"):
            if interface == "xdg_surface":
                assert oid not in self.roles or self.roles[oid][0] not in self.above
                self.surfaces = {s: x for s, x in self.surfaces.items() if x != oid}
                self.roles.pop(oid, None)
                self.configured.discard(oid)
            if oid < 0xFF000000:
                self._gone(oid)

    def _server(self) -> None:
        out = self.core.x.out
        if not self.x_setup:
            self.x_setup = True
            out.clear()
            greeting = struct.pack("<IIIIHHBB", 1, BASE, MASK, 0, 0, 65535, 1, 0)
            greeting += b"\0" * 10
            greeting += (
                struct.pack("<IIIIIHH", ROOT, 0, 0, 0, 0, 3840, 2400) + b"\0" * 12
            )
            head = struct.pack("<BBHHH", 1, 0, 11, 0, len(greeting) // 4)
            self.core.x.feed(head + greeting)
            return
        while len(out) >= 4:
            opcode, minor, units = struct.unpack_from("<BBH", out)
            body = bytes(out[4 : units * 4])
            del out[: units * 4]
            self.x_sequence += 1
            self.x_asked[opcode] += 1
            if opcode == 25 and body[8] == 33:
                (window,) = struct.unpack_from("<I", body)
                self.x_sent.append((window, [*struct.unpack_from("<6I", body, 16)]))
            reply = self._reply(opcode, minor, body)
            if reply is not None:
                detail, words, more = reply
                head = struct.pack(
                    "<BBHI", 1, detail, self.x_sequence & 0xFFFF, len(more) // 4
                )
                self.core.x.feed((head + words).ljust(32, b"\0") + more)

    def _reply(self, opcode: int, minor: int, body: bytes):
        if opcode == 16:
            (size,) = struct.unpack_from("<H", body)
            return 0, struct.pack("<I", self.atom(body[4 : 4 + size])), b""
        if opcode == 17:
            names = {number: name for name, number in self.atoms.items()}
            name = names.get(struct.unpack_from("<I", body)[0])
            if name is None:
                self.core.x.feed(struct.pack("<BBH28x", 0, 5, self.x_sequence & 0xFFFF))
                return None  # BadAtom
            more = name + b"\0" * (-len(name) % 4)
            return 0, struct.pack("<H", len(name)), more
        if opcode == 98:
            (size,) = struct.unpack_from("<H", body)
            major, event = EXTENSIONS.get(body[4 : 4 + size], (0, 0))
            return 0, struct.pack("<BBBB", bool(major), major, event, 0), b""
        if opcode == 20:
            window, atom = struct.unpack_from("<II", body)
            names = {number: name for name, number in self.atoms.items()}
            found = self.properties.get((window, names.get(atom, b"").decode()))
            if found is None:
                return 0, b"\0" * 12, b""
            form, data = found
            head = struct.pack("<III", 1, 0, len(data) // (form // 8))
            return form, head, data + b"\0" * (-len(data) % 4)
        if opcode == 43 or (opcode in (140, 141, 142) and minor == 0):
            return 0, b"", b""
        if opcode == 14:
            return 0, struct.pack("<IhhHH", ROOT, 0, 0, 300, 200), b""
        return None


def words(*values: int) -> Property:
    """A property of 32-bit values."""
    return Property(1, 32, struct.pack(f"<{len(values)}I", *values), 0)
