"""The guest's end of a port, played by a test: see ``broker.host.vmm.port_mux``."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HEADER = struct.Struct("<BBHI")
HELLO, OPEN, ACCEPT, DATA, SHUTDOWN, CREDIT, CLOSE = range(1, 8)
VERSION = 1
STREAMS = 300
WINDOW = 262144
LARGE_WINDOW = 1048576
LARGE_STREAMS = 16
MOST = 65536 - HEADER.size
PATIENCE = 60.0
"""Seconds for an answer that comes at once: only a hang needs them."""


@dataclass(frozen=True)
class Frame:
    """A frame; ``value`` is the length of DATA."""

    type: int
    stream: int
    value: int
    data: bytes = b""


def frame(kind: int, stream: int = 0, value: int = 0, *, zero: int = 0) -> bytes:
    """Return the header of a frame."""
    return HEADER.pack(kind, zero, stream, value)


def data(stream: int, content: bytes) -> bytes:
    """Return frames of DATA, each of the greatest length."""
    pieces = (content[at : at + MOST] for at in range(0, len(content), MOST))
    return b"".join(frame(DATA, stream, len(p)) + p for p in pieces)


def fill(sock: socket.socket) -> int:
    """Write until the socket takes no more; returns how much it took."""
    sock.settimeout(0)
    written = 0
    try:
        while True:
            written += sock.send(bytes(65536))
    except BlockingIOError:
        return written
    finally:
        sock.settimeout(PATIENCE)


class Wire:
    """One end of the port: bytes out, frames in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)

    def send(self, *parts: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(b"".join(parts))

    def receive(self) -> Frame:
        """Return the next frame.  Raises EOFError when the other end has closed."""
        kind, zero, stream, value = HEADER.unpack(self._exactly(HEADER.size))
        assert zero == 0
        content = self._exactly(value) if kind == DATA else b""
        return Frame(kind, stream, value, content)

    def expect(self, kind: int, stream: int) -> Frame:
        """Return the next frame, which is of this type and stream."""
        found = self.receive()
        assert (found.type, found.stream) == (kind, stream), found
        return found

    def read(self, stream: int, size: int) -> bytes:
        """Return so many bytes of a stream; other streams' are an error."""
        content = b""
        while len(content) < size:
            content += self.expect(DATA, stream).data
        return content

    def greet(self) -> None:
        """Answer the HELLO of the host's end."""
        hello = self.receive()
        assert (hello.type, hello.stream) == (HELLO, VERSION)
        self.send(frame(HELLO, VERSION, hello.value))

    def _exactly(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            piece = self.sock.recv(size - len(content))
            if not piece:
                raise EOFError
            content += piece
        return content


class Mux:
    """A running program, the guest's end of its port, and the broker's sockets."""

    def __init__(
        self, program: Path, directory: Path, stack: ExitStack, *, greet: bool = True
    ) -> None:
        self.directory = directory
        self._stack = stack
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        self.wire = Wire(ours)
        with theirs:
            self.process = subprocess.Popen(
                [program, str(theirs.fileno()), str(directory / "vm.vsock")],
                pass_fds=(theirs.fileno(),),
                stderr=subprocess.PIPE,
                text=True,
            )
        stack.callback(self._end)
        if greet:
            self.wire.greet()

    def _end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def listen(self, port: int, backlog: int = 400) -> socket.socket:
        """Listen as the broker does for the guest's connections to a port."""
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.settimeout(PATIENCE)
        listener.bind(str(self.directory / f"vm.vsock_{port}"))
        listener.listen(backlog)
        return listener

    def accept(self, listener: socket.socket) -> socket.socket:
        """Accept a connection of the program's."""
        conn, _ = listener.accept()
        self._stack.enter_context(conn)
        conn.settimeout(PATIENCE)
        return conn

    def ended(self) -> tuple[int, str]:
        """Wait for the program's end; returns its code and its message."""
        _, words = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, words.strip()


@contextmanager
def running(program: Path, directory: Path, *, greet: bool = True) -> Iterator[Mux]:
    """Run the program with its sockets in a directory."""
    with ExitStack() as stack:
        yield Mux(program, directory, stack, greet=greet)
