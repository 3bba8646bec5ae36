"""Framing of our own guest services: a length, then that many bytes.

``u32`` little-endian length (1 .. limit), then the message.  The length is
the explicit end marker that hybrid vsock needs, where half-close is a full
close.  Sans-IO: feed bytes, take frames; chunking never changes the result.

Workers cut a guest's streams by this; authority, viewer, host and packet guard the
streams between our own processes.
"""

from __future__ import annotations

import struct

from broker.core.errors import PeerError

HEADER = struct.Struct("<I")


def encode_frame(body: bytes, limit: int) -> bytes:
    """Return the frame of ``body``.  Raises ValueError beyond ``limit`` bytes."""
    if not 0 < len(body) <= limit:
        raise ValueError(f"the frame has {len(body)} bytes (1 to {limit} allowed)")
    return HEADER.pack(len(body)) + body


class FrameReader:
    """Splits a byte stream into frames of at most ``limit`` bytes each.

    Never holds more than one frame beyond the last input.  ``header``: the length's
    form, where the protocol is not ours.
    """

    def __init__(self, limit: int, header: struct.Struct = HEADER) -> None:
        self._limit = limit
        self._header = header
        self._buffer = bytearray()

    @property
    def in_frame(self) -> bool:
        """Return whether a frame has begun and not ended (its deadline runs)."""
        return bool(self._buffer)

    def feed(self, untrusted_data: bytes) -> list[bytes]:
        """Return the frames completed by this data, oldest first.

        Raises PeerError for a length of 0 or beyond the limit; the stream
        cannot be read on after that.
        """
        self._buffer += untrusted_data
        frames: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= self._header.size:
            (untrusted_size,) = self._header.unpack_from(self._buffer, start)
            if not 0 < untrusted_size <= self._limit:
                raise PeerError(
                    f"a frame announces {untrusted_size} bytes "
                    f"(1 to {self._limit} allowed)"
                )
            begin = start + self._header.size
            end = begin + untrusted_size
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[begin:end]))
            start = end
        del self._buffer[:start]
        return frames
