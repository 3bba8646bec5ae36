"""Blocks of waypipe's wire, and the two that an arena adds.

The numbers are those of ``broker/jail/wayland/waypipe/blocks.py``; a test compares them.
"""

from __future__ import annotations

import struct
from typing import Iterator, Tuple

PROTOCOL = 0
INJECT_RIDS = 1
OPEN_FILE = 2
EXTEND_FILE = 3
BUFFER_FILL = 5
OPEN_IR_PIPE = 7
PIPE_TRANSFER = 10
PIPE_SHUTDOWN_R = 11
PIPE_SHUTDOWN_W = 12
ACK_NBLOCKS = 16
CLOSE = 18
OPEN_ARENA = 30
ARENA_FILL = 31

HEADER = struct.pack("<I12x", 1 << 2 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 16 | 1 << 30)
"""Version 16, no GPU, no compression, no video; it knows the blocks of an arena."""
FILL_BYTES = 1 << 18
"""Bytes of one block with pixels in the stream."""
MESSAGES_BYTES = 1 << 16
"""Wayland messages in one block."""


def block(kind: int, *parts: "bytes | memoryview") -> bytes:
    """Return a whole block."""
    size = 4 + sum(len(part) for part in parts)
    head = struct.pack("<I", size << 5 | kind)
    return b"".join((head, *parts, b"\0" * (-size % 4)))


def take_blocks(data: bytearray) -> "Iterator[Tuple[int, bytes]]":
    """Yield kind and body of the whole blocks that data begins with; takes them away."""
    at = 0
    try:
        while at + 4 <= len(data):
            (word,) = struct.unpack_from("<I", data, at)
            size = word >> 5
            if size < 4 or at + (size + 3 & ~3) > len(data):
                if size < 4:
                    raise ValueError(f"invalid block size: {size} bytes")
                break
            body = bytes(data[at + 4 : at + size])
            at += size + 3 & ~3
            yield word & 31, body
    finally:
        del data[:at]


def split_messages(data: "bytes | bytearray") -> "Iterator[Tuple[int, int, int, int]]":
    """Yield object, opcode with its count of descriptors, begin and end of messages.

    Stops before an incomplete one.  Raises ValueError for a size that none has.
    """
    at = 0
    while at + 8 <= len(data):
        oid, word = struct.unpack_from("<II", data, at)
        size = word >> 16
        if size < 8 or size & 3:
            raise ValueError(f"invalid message size: {size} bytes")
        if at + size > len(data):
            return
        yield oid, word & 0xFFFF, at, at + size
        at += size
