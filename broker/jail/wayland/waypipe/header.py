"""The sixteen bytes that begin a display stream.

A u32 of flags, then twelve bytes that only reconnection needs.  waypipe's two
ends negotiate nothing: the server says how it was started, and an end that
does not like that can only leave.  We speak version 16 whatever is offered,
and say nothing first: a newer server takes silence for 16.  Bit 30, which waypipe
leaves at zero, is our own guest end's: it knows the blocks of an arena.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from broker.core.errors import PeerError

HEADER_BYTES = 16

_RECONNECTS = 1 << 0
_RECONNECTION = 1 << 1
_NO_GPU = 1 << 2
_ALWAYS = 1 << 7
_ARENA = 1 << 30
_NEVER = 1 << 31
_LEAST_VERSION = 16
_COMPRESSIONS = {0: "unknown", 1: "none", 2: "lz4", 3: "zstd"}
_VIDEOS = {0: "unknown", 1: "none", 2: "VP9", 3: "H.264", 4: "AV1"}
_NONE = 1
_OPTIONS = "waypipe --no-gpu --compress none server -- …"


@dataclass(frozen=True)
class Header:
    """``version`` is the server's offer (16 or more).

    ``arena``: it can put pixels into an arena, if it is told of one.
    """

    version: int
    arena: bool = False


def read_header(untrusted_bytes: bytes) -> Header:
    """Parse the 16 bytes of a display stream's header.

    Raises PeerError, with the option that the guest lacks, when it is not a
    stream that we speak.
    """
    (word,) = struct.unpack_from("<I", untrusted_bytes)
    version = (word >> 16 & 0xFF) << 4 | word >> 3 & 0xF
    # guard: a stream of waypipe's
    if not word & _ALWAYS or word & _NEVER or version < _LEAST_VERSION:
        raise PeerError(
            f"the stream is not a waypipe stream: it begins with {word:#010x}",
            hint=f"start the program with '{_OPTIONS}' of version 0.8 or later",
        )
    # guard: no reconnection
    if word & (_RECONNECTS | _RECONNECTION):
        raise PeerError(
            "waypipe in the guest requested reconnection, which is not supported",
            hint=f"start waypipe without --control: {_OPTIONS}",
        )
    # guard: no GPU buffers
    if not word & _NO_GPU:
        raise PeerError(
            "waypipe in the guest requested GPU buffers, which are not supported",
            hint=f"start waypipe with --no-gpu: {_OPTIONS}",
        )
    compression = word >> 8 & 7
    # guard: no compression
    if compression != _NONE:
        raise PeerError(
            f"waypipe in the guest compresses ({_COMPRESSIONS.get(compression, compression)})",
            hint=f"start waypipe with --compress none: {_OPTIONS}",
        )
    video = word >> 11 & 7
    # guard: no video
    if video != _NONE:
        raise PeerError(
            f"waypipe in the guest requested video ({_VIDEOS.get(video, video)})",
            hint=f"start waypipe without --video: {_OPTIONS}",
        )
    return Header(version, arena=bool(word & _ARENA))
