"""Blocks, of which the stream consists after its header.

A block is a u32 ``size << 5 | kind`` and a body, padded with zeros to four
bytes; the size counts the u32 and not the padding.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable

from broker.core.errors import PeerError
from broker.core.limits import waypipe as waypipe_limits


class BlockKind(enum.IntEnum):
    """Kinds of blocks, by their numbers on the wire."""

    PROTOCOL = 0
    INJECT_RIDS = 1
    OPEN_FILE = 2
    EXTEND_FILE = 3
    OPEN_DMABUF = 4
    BUFFER_FILL = 5
    BUFFER_DIFF = 6
    OPEN_IR_PIPE = 7
    OPEN_IW_PIPE = 8
    OPEN_RW_PIPE = 9
    PIPE_TRANSFER = 10
    PIPE_SHUTDOWN_R = 11
    PIPE_SHUTDOWN_W = 12
    OPEN_DMAVID_SRC = 13
    OPEN_DMAVID_DST = 14
    SEND_DMAVID_PACKET = 15
    ACK_NBLOCKS = 16
    RESTART = 17
    CLOSE = 18
    OPEN_DMAVID_SRC_V2 = 19
    OPEN_DMAVID_DST_V2 = 20
    OPEN_TIMELINE = 21
    SIGNAL_TIMELINE = 22
    VERSION = 23
    # Ours alone (docs/pixels.md): a sender says in its header that it knows them.
    OPEN_ARENA = 30
    ARENA_FILL = 31


# Shortest and longest body.  Other types are refused.
_BODIES = {
    BlockKind.PROTOCOL: (8, waypipe_limits.WAYPIPE_MESSAGES_BYTES),
    BlockKind.INJECT_RIDS: (4, 4 * waypipe_limits.WAYPIPE_FDS_PER_BLOCK),
    BlockKind.OPEN_FILE: (8, 8),
    BlockKind.EXTEND_FILE: (8, 8),
    BlockKind.BUFFER_FILL: (12, waypipe_limits.WAYPIPE_BLOCK_BYTES - 4),
    BlockKind.BUFFER_DIFF: (12, waypipe_limits.WAYPIPE_BLOCK_BYTES - 4),
    BlockKind.ARENA_FILL: (24, 24),
    BlockKind.OPEN_IR_PIPE: (4, 4),
    BlockKind.OPEN_RW_PIPE: (4, 4),
    BlockKind.PIPE_TRANSFER: (4, 4 + waypipe_limits.WAYPIPE_PIPE_BLOCK_BYTES),
    BlockKind.PIPE_SHUTDOWN_R: (4, 4),
    BlockKind.PIPE_SHUTDOWN_W: (4, 4),
    BlockKind.ACK_NBLOCKS: (4, 4),
    BlockKind.CLOSE: (4, 4),
}
_WHY_NOT = {
    BlockKind.OPEN_DMABUF: "a GPU buffer",
    BlockKind.OPEN_DMAVID_SRC: "a video stream",
    BlockKind.OPEN_DMAVID_DST: "a video stream",
    BlockKind.SEND_DMAVID_PACKET: "a video packet",
    BlockKind.OPEN_DMAVID_SRC_V2: "a video stream",
    BlockKind.OPEN_DMAVID_DST_V2: "a video stream",
    BlockKind.OPEN_TIMELINE: "a synchronisation timeline",
    BlockKind.SIGNAL_TIMELINE: "a synchronisation timeline",
    BlockKind.RESTART: "a reconnection",
    BlockKind.VERSION: "a version, which only this end chooses",
    BlockKind.OPEN_ARENA: "an arena, which only our end has",
    BlockKind.OPEN_IW_PIPE: "a pipe for an application to read, which this end never requests",
}
_NAMES = {
    kind: "".join(part.capitalize() for part in kind.name.split("_"))
    for kind in BlockKind
}
# By its number on the wire: the kind, the shortest and the longest block of it.
_KNOWN = {
    int(kind): (kind, least + 4, most + 4) for kind, (least, most) in _BODIES.items()
}
_COUNTED = frozenset(BlockKind) - {
    BlockKind.ACK_NBLOCKS,
    BlockKind.RESTART,
    BlockKind.CLOSE,
}

_WORD = struct.Struct("<I")
_ID = struct.Struct("<i")


def padded(size: int) -> int:
    """A block's bytes on the wire."""
    return (size + 3) & ~3


def read_head(untrusted_word: int) -> tuple[BlockKind, int]:
    """Return kind and size of a block.  Raises PeerError for an invalid block."""
    number, size = untrusted_word & 31, untrusted_word >> 5
    known = _KNOWN.get(number)
    if known is None:
        # guard: kinds that are known
        raise _refusal(number)
    kind, least, most = known
    # guard: blocks have their size
    if not least <= size <= most:
        raise PeerError(
            f"a block {_NAMES[kind]} has {size} bytes; allowed are {least} to {most}"
        )
    return kind, size


def _refusal(number: int) -> PeerError:
    """Return the error for a block that is not allowed."""
    try:
        kind = BlockKind(number)
    except ValueError:
        return PeerError(f"unknown block type {number}")
    return PeerError(
        f"unsupported block {_NAMES[kind]}, which announces {_WHY_NOT[kind]}",
        hint="use only shared memory and pipes",
    )


def is_counted(kind: BlockKind) -> bool:
    """Return whether a block counts for acknowledgements."""
    return kind in _COUNTED


def block(kind: BlockKind, *parts: bytes | memoryview | bytearray) -> bytes:
    """Return a whole block."""
    size = 4 + sum(len(part) for part in parts)
    return b"".join((_WORD.pack(size << 5 | kind), *parts, b"\0" * (-size % 4)))


def acknowledge(count: int) -> bytes:
    """So many blocks have been received since the beginning."""
    return block(BlockKind.ACK_NBLOCKS, _WORD.pack(count & 0xFFFFFFFF))


def inject(rids: Iterable[int]) -> bytes:
    """The descriptors of the next messages, in order."""
    return block(BlockKind.INJECT_RIDS, b"".join(map(_ID.pack, rids)))


def open_file(rid: int, size: int) -> bytes:
    """Our file, which the application will see."""
    return block(BlockKind.OPEN_FILE, struct.pack("<iI", rid, size))


def fill(rid: int, start: int, data: bytes) -> bytes:
    """Bytes of our file."""
    head = struct.pack("<iII", rid, start, start + len(data))
    return block(BlockKind.BUFFER_FILL, head, data)


def open_arena(size: int) -> bytes:
    """The sender may put pixels into its arena, of so many bytes."""
    return block(BlockKind.OPEN_ARENA, struct.pack("<Q", size))


def of_pipe(kind: BlockKind, rid: int, data: bytes = b"") -> bytes:
    """Open, feed or shut a pipe."""
    return block(kind, _ID.pack(rid), data)


def close(code: int) -> bytes:
    """The end of the stream; 0, or a negative errno."""
    return block(BlockKind.CLOSE, _ID.pack(code))
