"""A sender of waypipe's wire, honest or not, and memory without a system."""

from __future__ import annotations

import struct

from broker.jail.wayland.waypipe.blocks import BlockKind

HEADER = 1 << 2 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 16
"""Version 16, no GPU, no compression, no video."""
ARENA_HEADER = HEADER | 1 << 30
"""Of our own guest end, which knows the blocks of an arena."""


def header(word: int = HEADER) -> bytes:
    return struct.pack("<I12x", word)


def block(kind: int, body: bytes = b"", *, size: int | None = None) -> bytes:
    size = 4 + len(body) if size is None else size
    return struct.pack("<I", size << 5 | kind) + body + b"\0" * (-len(body) % 4)


def open_file(rid: int, size: int) -> bytes:
    return block(BlockKind.OPEN_FILE, struct.pack("<iI", rid, size))


def extend(rid: int, size: int) -> bytes:
    return block(BlockKind.EXTEND_FILE, struct.pack("<iI", rid, size))


def fill(rid: int, start: int, end: int, data: bytes) -> bytes:
    return block(BlockKind.BUFFER_FILL, struct.pack("<iII", rid, start, end) + data)


def arena_fill(
    rid: int, start: int, base: int, width: int, rows: int = 1, stride: int = 0
) -> bytes:
    shape = (start, stride or width, width, rows, base)
    return block(BlockKind.ARENA_FILL, struct.pack("<iIIIII", rid, *shape))


def span(start: int, end: int, words: bytes) -> bytes:
    return struct.pack("<II", start, end) + words


def diff(
    rid: int, spans: bytes, trailing: bytes = b"", sizes: tuple[int, int] | None = None
) -> bytes:
    sizes = sizes or (len(spans), len(trailing))
    return block(
        BlockKind.BUFFER_DIFF, struct.pack("<iII", rid, *sizes) + spans + trailing
    )


def inject(*rids: int) -> bytes:
    return block(BlockKind.INJECT_RIDS, struct.pack(f"<{len(rids)}i", *rids))


def message(obj: int, opcode: int, body: bytes = b"", *, fds: int = 0) -> bytes:
    return struct.pack("<IHH", obj, opcode | fds << 11, 8 + len(body)) + body


def protocol(*messages: bytes) -> bytes:
    return block(BlockKind.PROTOCOL, b"".join(messages))


def pipe(kind: BlockKind, rid: int, data: bytes = b"") -> bytes:
    return block(kind, struct.pack("<i", rid) + data)


def blocks(data: bytes) -> list[tuple[BlockKind, bytes]]:
    """Take our stream apart."""
    out = []
    while data:
        (word,) = struct.unpack_from("<I", data)
        size = word >> 5
        assert size >= 4
        assert data[size : (size + 3) & ~3] == b"\0" * (-size % 4)
        out.append((BlockKind(word & 31), data[4:size]))
        data = data[(size + 3) & ~3 :]
    return out


class MemoryFile:
    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.gone = False
        self.cost = 0

    @property
    def view(self) -> memoryview:
        return memoryview(self.data)

    @property
    def closed(self) -> bool:
        return self.gone

    def grow(self, size: int) -> None:
        self.data += bytes(size - len(self.data))

    def account(self) -> None:
        self.cost += 1
        if self.data.startswith(b"expensive"):
            raise ValueError("too dear")

    def close(self) -> None:
        pass


class MemoryArena:
    """An arena whose byte at each place tells the place."""

    def __init__(self, size: int) -> None:
        self.data = bytes(number * 7 & 255 for number in range(size))
        self.size = size
        self.closed = False

    def read(self, into: list[memoryview], base: int) -> None:
        for part in into:
            if base + len(part) > self.size:
                raise ValueError("it is cut short")
            part[:] = self.data[base : base + len(part)]
            base += len(part)

    def close(self) -> None:
        self.closed = True


class Memory:
    """Memory files of a test; ``discarded`` has the descriptors given back."""

    def __init__(self) -> None:
        self.files: list[MemoryFile] = []
        self.discarded: list[object] = []
        self.pipes = 0

    def file(self, size: int) -> MemoryFile:
        if size > 1 << 26:
            # The real one is sparse; these bytes would be there.
            self.files.append(MemoryFile(0))
            return self.files[-1]
        self.files.append(MemoryFile(size))
        return self.files[-1]

    def pipe(self) -> tuple[int, int]:
        self.pipes += 1
        return 1000 + self.pipes, 2000 + self.pipes

    def discard(self, fd: object) -> None:
        self.discarded.append(fd)
