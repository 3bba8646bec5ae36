"""A machine without files: descriptors are values that are counted.

Every descriptor that a test feeds or the core makes must end in exactly one
place: sent on, or closed.  ``leaked`` tells what did not.
"""

from __future__ import annotations

from typing import Any


class Token:
    """A stand-in for a file descriptor."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.size = 0
        """Of a dma-buf; 0: it is none."""
        self.number = id(self)
        self.closed = False

    def __repr__(self) -> str:
        return f"<{self.what}{' closed' if self.closed else ''}>"


class FakePool:
    """A pool file.  ``real`` is how large the client's file really is."""

    def __init__(self, machine: FakeMachine, fd: Token, size: int) -> None:
        self.machine, self.fd, self.size = machine, fd, size
        self.refreshed: list[tuple[int, int]] = []
        self.bytes = b""
        """The beginning of the client's file; the rest is zero."""
        self.given_back = 0
        self.closed = False

    def export(self) -> Token:
        return self.machine.fd("pool copy")

    def grow(self, size: int) -> None:
        if size > self.machine.largest:
            raise ValueError("the file has not grown")
        self.size = size

    def keep(self, offset: int, length: int, shown=()) -> int:
        assert offset + length <= self.size
        return self.given_back

    def read(self, offset: int, length: int) -> bytes:
        assert offset + length <= self.size
        return self.bytes[offset : offset + length].ljust(length, b"\0")

    def refresh(self, offset: int, length: int) -> None:
        assert offset + length <= self.size
        self.refreshed.append((offset, length))

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.machine.close(self.fd)


class FakeGpuMemory:
    """A dma-buf.  ``busy`` while somebody draws into it."""

    def __init__(self, machine: FakeMachine, fd: Token) -> None:
        self.machine, self.fd = machine, fd
        self.size, self.number, self.busy = fd.size, fd.number, False

    def fileno(self) -> Token:
        return self.fd

    def drawn(self) -> bool:
        return not self.busy

    def export(self) -> Token:
        return self.machine.fd("dma-buf copy")

    def close(self) -> None:
        self.machine.close(self.fd)


class FakePaint:
    """Our picture file."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.sealed = False
        self.pixels = bytearray()

    def export(self) -> Token:
        return self.machine.fd("paint copy")

    def grow(self, size: int) -> None:
        self.pixels += bytes(size - len(self.pixels))

    def seal(self) -> None:
        self.sealed = True

    def write(self, offset: int, data: bytes) -> None:
        assert not self.sealed
        assert offset + len(data) <= len(self.pixels)
        self.pixels[offset : offset + len(data)] = data

    def close(self) -> None:
        self.machine.paints.remove(self)


class FakeMachine:
    """``largest`` is the size of every client's file."""

    def __init__(self, *, largest: int = 1 << 30, pipes: bool = True) -> None:
        self.largest, self.pipes = largest, pipes
        self.fds: list[Token] = []
        self.pools: list[FakePool] = []
        self.paints: list[FakePaint] = []
        self.dmabufs: list[FakeGpuMemory] = []
        self.table = b""
        """The content of the compositor's tables of formats."""
        self.keymap: bytes | None = None
        self.seconds = self.look_seconds = 0.0

    def fd(self, what: str = "fd") -> Token:
        token = Token(what)
        self.fds.append(token)
        return token

    def admit_pool(self, untrusted_fd: Token, size: int) -> FakePool:
        if size > self.largest:
            self.close(untrusted_fd)
            raise ValueError("too small")
        pool = FakePool(self, untrusted_fd, size)
        self.pools.append(pool)
        return pool

    def dmabuf(self, size: int, number: int | None = None) -> Token:
        """A client's descriptor of GPU memory; ``number`` names the same one again."""
        token = self.fd("dma-buf")
        token.size = size
        token.number = token.number if number is None else number
        return token

    def admit_dmabuf(self, untrusted_fd: Token) -> FakeGpuMemory:
        if not untrusted_fd.size:
            self.close(untrusted_fd)
            raise ValueError("not a dma-buf")
        self.dmabufs.append(FakeGpuMemory(self, untrusted_fd))
        return self.dmabufs[-1]

    def read_table(self, fd: Token, size: int) -> bytes:
        self.close(fd)
        return self.table[:size]

    def admit_pipe(self, untrusted_fd: Any) -> bool:
        return self.pipes

    def stopwatch(self) -> float:
        self.seconds += self.look_seconds
        return self.seconds

    def paint(self) -> FakePaint:
        paint = FakePaint(self)
        self.paints.append(paint)
        return paint

    def read_keymap(self, fd: Token, size: int) -> bytes | None:
        self.close(fd)
        return self.keymap

    def copy_keymap(self, fd: Token, size: int) -> tuple[Token, int]:
        self.close(fd)
        return self.fd("keymap copy"), size

    def close(self, fd: Token) -> None:
        assert not fd.closed, f"{fd} closed twice"
        fd.closed = True

    def leaked(self) -> list[Token]:
        """Descriptors still open."""
        return [fd for fd in self.fds if not fd.closed]
