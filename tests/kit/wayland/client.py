"""A Wayland client that says exactly what a test wants, right or wrong.

Not built on libwayland, which would refuse to send what a hostile client
sends.  Blocking sockets with a deadline; use it in a thread or a process of
its own when the other end runs in the same trio loop.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from broker.jail.wayland.protocol import emit, signatures, wire

HEADER = struct.Struct("=IHH")


class ServerError(Exception):
    """wl_display.error: object id, code, text."""

    def __init__(self, object_id: int, code: int, text: str) -> None:
        super().__init__(f"object {object_id}, code {code}: {text}")
        self.object_id, self.code, self.text = object_id, code, text


_UNHEARD = 1000
"""Messages that a client may send after its end without hearing of it."""


class GoneError(Exception):
    """The connection was closed without an error message."""


class Client:
    """One connection.  ``events`` are (object id, interface, name, arguments)."""

    def __init__(
        self, path: Path | str | socket.socket, *, deadline: float = 60.0
    ) -> None:
        if isinstance(path, socket.socket):
            self.sock = path
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(deadline)
        if not isinstance(path, socket.socket):
            self.sock.connect(str(path))
        self.deadline = deadline
        self.next_id = 2
        self.free: list[int] = []
        self.kinds: dict[int, str] = {1: "wl_display"}
        self.events: list[tuple[int, str, str, list[Any]]] = []
        self.globals: dict[str, tuple[int, int]] = {}
        self.rest = b""
        self.fds: list[int] = []
        self.registry = 0
        self.error: ServerError | None = None
        self._unheard = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    # -- sending -------------------------------------------------------------------

    def new(self, interface: str) -> int:
        """The next object id, remembered as an object of this interface."""
        if self.free:
            oid = self.free.pop()
        else:
            oid, self.next_id = self.next_id, self.next_id + 1
        self.kinds[oid] = interface
        return oid

    def raw(self, data: bytes, fds: list[int] | None = None) -> None:
        """Any bytes at all.

        The reason for a connection's end is found by reading: bytes sent after
        the end are lost, as they would be a moment earlier.  A client that never
        reads gets BrokenPipeError after a while.
        """
        control = []
        if fds:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        while data:
            try:
                sent = self.sock.sendmsg([data], control)
            except BrokenPipeError:
                self._unheard += 1
                if self._unheard > _UNHEARD:
                    raise
                return
            data, control = data[sent:], []

    def send(
        self, oid: int, name: str, *args: Any, fds: list[int] | None = None
    ) -> None:
        """A request by its name, with arguments as they are on the wire."""
        message = signatures.request(self.kinds[oid], name)
        self.raw(emit.packer(message)(oid, *args), fds)

    def make(
        self,
        oid: int,
        name: str,
        interface: str,
        *args: Any,
        fds: list[int] | None = None,
    ) -> int:
        """A request that makes an object; ``None`` in ``args`` is its new id."""
        made = self.new(interface)
        values = (
            [made if a is None else a for a in args] if None in args else [made, *args]
        )
        self.send(oid, name, *values, fds=fds)
        return made

    # -- receiving -------------------------------------------------------------------

    def read(self) -> None:
        """Read once and dispatch.  Raises ServerError, GoneError, TimeoutError."""
        try:
            data, control, _, _ = self.sock.recvmsg(
                65536, socket.CMSG_SPACE(4 * 64), socket.MSG_CMSG_CLOEXEC
            )
        except (ConnectionResetError, BrokenPipeError) as error:
            raise GoneError from error
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload)
                self.fds += fds
        if not data:
            raise GoneError
        self._dispatch(self.rest + data)
        if self.error is not None:
            raise self.error

    def _dispatch(self, data: bytes) -> None:
        pos = 0
        while len(data) - pos >= 8:
            oid, opcode, size = HEADER.unpack_from(data, pos)
            if len(data) - pos < size:
                break
            interface = self.kinds.get(oid)
            if interface is not None and interface in _KNOWN:
                message = signatures.events_of(interface)[opcode]
                args = wire.decode(message, data, pos + 8, pos + size)
                self._note(oid, interface, message, args)
            pos += size
        self.rest = data[pos:]

    def _note(
        self,
        oid: int,
        interface: str,
        message: signatures.MessageSignature,
        args: list[Any],
    ) -> None:
        self.events.append((oid, interface, message.name, args))
        for argument, value in zip(message.args, args, strict=True):
            if argument.kind == "n":
                self.kinds[value] = argument.interface
        if interface == "wl_registry" and message.name == "global":
            self.globals[args[1].decode()] = (args[0], args[2])
        elif interface == "wl_display" and message.name == "delete_id":
            self.free.append(args[0])
        elif interface == "wl_display":
            self.error = ServerError(args[0], args[1], args[2].decode())

    def roundtrip(self) -> None:
        """Wait until the other side has seen everything sent so far."""
        # Its number may be that of an earlier one, which was answered then.
        before = len(self.events)
        callback = self.make(1, "sync", "wl_callback")
        self.wait(lambda e: e[0] == callback and e[2] == "done", since=before)

    def wait(
        self, match: Any, deadline: float | None = None, *, since: int = 0
    ) -> tuple[int, str, str, list[Any]]:
        """Read until an event matches; return it.

        Earlier ones count too, from the one of number ``since`` on.
        """
        end = time.monotonic() + (deadline or self.deadline)
        seen = since
        while True:
            for event in self.events[seen:]:
                if match(event):
                    return event
            seen = len(self.events)
            self.sock.settimeout(max(0.01, end - time.monotonic()))
            self.read()

    def until_error(self) -> ServerError | None:
        """Read until the connection ends; the error it ended with, if any."""
        try:
            self.roundtrip()
            while True:
                self.read()
        except ServerError as error:
            return error
        except (GoneError, BrokenPipeError, ConnectionResetError):
            # A reset is reported before the bytes still in the socket (unix(7)),
            # which may hold the error.
            try:
                while self.error is None:
                    self.read()
            except (ServerError, GoneError, TimeoutError):
                return self.error
            return self.error

    # -- usual beginnings ----------------------------------------------------------------

    def start(self) -> Client:
        """Get the registry and its globals."""
        self.registry = self.make(1, "get_registry", "wl_registry")
        self.roundtrip()
        return self

    def bind(self, interface: str, version: int | None = None) -> int:
        """Bind a global by its interface, at its highest version or a given one."""
        name, offered = self.globals[interface]
        return self.bind_raw(name, interface, version or offered)

    def bind_raw(self, name: int, interface: str, version: int) -> int:
        oid = self.new(interface)
        self.send(self.registry, "bind", name, interface.encode(), version, oid)
        return oid


_KNOWN = frozenset(signatures.INTERFACES)


def memfd(size: int, *, seal: bool = True, name: str = "pool") -> int:
    """A shared-memory file as toolkits make it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if seal else 0))
    os.ftruncate(fd, size)
    return fd


class Window(Client):
    """A client with the usual globals bound, that can show a window."""

    def flood(self, surface: int, ended: Callable[[], bool]) -> None:
        """Send requests as fast as they are taken, until the end or a refusal."""
        data = emit.damage(surface, 0, 0, 1, 1) * 2000
        self.sock.settimeout(0.5)
        while not ended():
            try:
                self.raw(data)
            except TimeoutError:
                continue
            except OSError:
                return

    def flood_descriptors(self) -> None:
        """Send twenty thousand descriptors, or as many as are taken."""
        with Path("/dev/null").open("rb") as null, contextlib.suppress(OSError):
            for _ in range(100):
                socket.send_fds(self.sock, [b"\0"], [null.fileno()] * 200)

    def start(
        self, *, compositor: int | None = None, shell: int | None = None
    ) -> Window:
        super().start()
        self.compositor = self.bind("wl_compositor", compositor)
        self.subcompositor = self.bind("wl_subcompositor")
        self.shm = self.bind("wl_shm")
        self.shell = self.bind("xdg_wm_base", shell)
        self.viewporter = self.bind("wp_viewporter")
        return self

    def surface(self) -> int:
        return self.make(self.compositor, "create_surface", "wl_surface")

    def buffer(self, w: int, h: int, color: int, *, form: int = 0) -> int:
        """A buffer of one colour (0xAARRGGBB), in a separate pool."""
        fd = memfd(w * h * 4)
        with mmap.mmap(fd, w * h * 4) as pixels:
            pixels[:] = color.to_bytes(4, "little") * (w * h)
        pool = self.make(
            self.shm, "create_pool", "wl_shm_pool", None, w * h * 4, fds=[fd]
        )
        os.close(fd)
        buffer = self.make(
            pool, "create_buffer", "wl_buffer", None, 0, w, h, w * 4, form
        )
        self.send(pool, "destroy")
        return buffer

    def paint(self, surface: int, w: int, h: int, color: int) -> int:
        """Attach a one-coloured buffer with full damage; no commit."""
        buffer = self.buffer(w, h, color)
        self.send(surface, "attach", buffer, 0, 0)
        self.send(surface, "damage", 0, 0, 0x7FFFFFFF, 0x7FFFFFFF)
        return buffer

    def toplevel(self, surface: int) -> tuple[int, int]:
        """Give a surface its window role; returns xdg_surface and xdg_toplevel."""
        xdg = self.make(self.shell, "get_xdg_surface", "xdg_surface", None, surface)
        top = self.make(xdg, "get_toplevel", "xdg_toplevel")
        return xdg, top

    def configured(self, xdg: int) -> int:
        """Wait for the next configure of an xdg_surface, acknowledge it."""
        before = len(self.events)
        del before
        serial = self.wait(lambda e: e[0] == xdg and e[2] == "configure")[3][0]
        self.events = [
            e for e in self.events if not (e[0] == xdg and e[2] == "configure")
        ]
        self.send(xdg, "ack_configure", serial)
        return serial

    def show(self, w: int, h: int, color: int) -> tuple[int, int, int]:
        """A mapped window of one colour: surface, xdg_surface, xdg_toplevel."""
        surface = self.surface()
        xdg, top = self.toplevel(surface)
        self.send(surface, "commit")
        self.configured(xdg)
        self.paint(surface, w, h, color)
        self.send(surface, "commit")
        self.roundtrip()
        return surface, xdg, top

    def shown(self, surface: int) -> None:
        """Commit and wait until the compositor has drawn that."""
        callback = self.make(surface, "frame", "wl_callback")
        self.send(surface, "commit")
        self.wait(lambda e: e[0] == callback and e[2] == "done")

    def child(self, surface: int, parent: int, x: int, y: int) -> int:
        """Make a surface a subsurface at a position."""
        sub = self.make(
            self.subcompositor, "get_subsurface", "wl_subsurface", None, surface, parent
        )
        self.send(sub, "set_position", x, y)
        return sub
