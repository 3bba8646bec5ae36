"""Frames of the native protocol: cut a stream of bytes, make frames.

A frame is a descriptor of five words (length, channel, offset high and low,
flags; network order) and ``length`` bytes.  Channel 0xFFFFFFFF carries
commands, any other number the samples of a stream.  Flags 0 to 3 say how the
offset seeks; all other bits belong to shared memory, which we never agree to.
A command is kept until it is whole; samples are passed on as they come, so a
frame of a megabyte needs no megabyte here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

from broker.core.errors import PeerError
from broker.core.limits import sound as limits
from broker.jail.sound.commands import INVALID, Command

HEADER = struct.Struct(">IIIII")
_HEADER_BYTES = HEADER.size
_HEAD = struct.Struct(">BIBI")
_LETTER_U32 = ord("L")
Bytes: TypeAlias = bytes | memoryview
_SEEKS = 3


@dataclass(frozen=True)
class ControlFrame:
    """A whole command: its body, without the descriptor."""

    body: bytes


@dataclass(frozen=True)
class Samples:
    """Part of a frame of samples.

    ``first`` is True for the part that begins a frame; ``seek`` and ``offset``
    are that frame's, ``size`` its whole length.
    """

    channel: int
    data: bytes
    first: bool
    size: int
    seek: int = 0
    offset: int = 0


class Cutter:
    """Cuts the bytes of one side into frames.

    ``push`` keeps bytes, ``next`` takes one frame from them: a caller that
    cannot continue just stops asking.
    """

    def __init__(self, command_bytes: int) -> None:
        self._command_bytes = command_bytes
        self._buffer = bytearray()
        self._frame = (0, 0, 0, 0)
        self._left = 0

    def push(self, untrusted_data: bytes) -> None:
        """Take bytes that were read."""
        self._buffer += untrusted_data

    @property
    def waiting(self) -> int:
        """Bytes that no frame was made of yet."""
        return len(self._buffer)

    @property
    def between(self) -> bool:
        """Return whether the next byte begins a frame, and nothing waits before it."""
        return not self._buffer and not self._left

    def next(self) -> ControlFrame | Samples | None:
        """Return the next frame or part of one; None until there is more.

        Raises PeerError for an invalid frame; nothing can be read after that.
        """
        if self._left:
            return self._samples(first=False) if self._buffer else None
        if len(self._buffer) < HEADER.size:
            return None
        length, channel, high, low, flags = HEADER.unpack_from(self._buffer)
        self._check(length, channel, high, low, flags)
        if channel == INVALID:
            end = HEADER.size + length
            if len(self._buffer) < end:
                return None
            with memoryview(self._buffer) as view:
                body = bytes(view[HEADER.size : end])
            del self._buffer[:end]
            return ControlFrame(body)
        del self._buffer[: HEADER.size]
        offset = (high << 32) | low
        if offset >= 1 << 63:
            offset -= 1 << 64
        self._frame = (channel, length, flags, offset)
        self._left = length
        return self._samples(first=True)

    def _samples(self, *, first: bool) -> Samples:
        """Take the next samples of a frame."""
        channel, length, seek, offset = self._frame
        count = min(self._left, len(self._buffer))
        with memoryview(self._buffer) as view:
            data = bytes(view[:count])
        del self._buffer[:count]
        self._left -= count
        return Samples(channel, data, first, length, seek, offset)

    def _check(
        self, length: int, channel: int, high: int, low: int, flags: int
    ) -> None:
        """Check a frame's head.  Raises PeerError."""
        if channel == INVALID:
            if flags or high or low:
                raise PeerError("a command has the flags or offset of samples")
            if not 0 < length <= self._command_bytes:
                raise PeerError(f"invalid command length: {length} bytes")
        # guard: shared memory frames
        elif flags > _SEEKS:
            raise PeerError(f"samples have unsupported flags: {flags:#x}")
        elif not 0 < length <= limits.PULSE_SAMPLES_BYTES:
            raise PeerError(f"invalid length of samples: {length} bytes")


def plain_samples(untrusted_data: Bytes) -> tuple[int, tuple[int, ...]] | None:
    """Return channel and sizes if some bytes are whole consecutive frames of samples.

    So all of one stream, no seek, no offset, no flag, and nothing before or
    after them.
    """
    at, end, stream = 0, len(untrusted_data), INVALID
    sizes: list[int] = []
    while end - at > _HEADER_BYTES:
        length, channel, high, low, flags = HEADER.unpack_from(untrusted_data, at)
        # guard: plain samples only
        if not 0 < length <= limits.PULSE_SAMPLES_BYTES or high or low or flags:
            return None
        # guard: no command as samples
        if channel == INVALID or (sizes and channel != stream):
            return None
        if length == end - _HEADER_BYTES:
            return channel, (length,)  # as it mostly is
        stream = channel
        sizes.append(length)
        at += _HEADER_BYTES + length
    return (stream, tuple(sizes)) if sizes and at == end else None


def plain_requests(data: bytes) -> list[tuple[int, int]] | None:
    """Return channels and counts if some bytes are whole REQUESTs and nothing else."""
    if not data or len(data) % _REQUEST_BYTES:
        return None
    found: list[tuple[int, int]] = []
    for at in range(0, len(data), _REQUEST_BYTES):
        if not data.startswith(_REQUEST_HEAD, at):
            return None
        one, channel, two, count = _TWO_U32.unpack_from(data, at + len(_REQUEST_HEAD))
        if one != _LETTER_U32 or two != _LETTER_U32:
            return None
        found.append((channel, count))
    return found


def command(number: Command, tag: int, fields: bytes = b"") -> bytes:
    """Return the frame of a command; ``fields`` are encoded already."""
    return (
        HEADER.pack(10 + len(fields), INVALID, 0, 0, 0)
        + _HEAD.pack(_LETTER_U32, number, _LETTER_U32, tag)
        + fields
    )


def head(body: bytes) -> tuple[int, int]:
    """Return a command's number and tag.  Raises PeerError if it has none."""
    if len(body) < _HEAD.size:
        raise PeerError(f"a command of {len(body)} bytes has no number and tag")
    one, number, two, tag = _HEAD.unpack_from(body)
    if one != _LETTER_U32 or two != _LETTER_U32:
        raise PeerError("a command does not begin with a number and a tag")
    return number, tag


HEAD_BYTES = _HEAD.size
"""Where a command's fields begin."""


# Samples are put into new frames. Passing a frame of samples on while it arrives would
# let a client that stops in its middle block all our commands after it: the mute, the
# revoke. Buffering frames would cost a megabyte for each. So the bytes that have
# arrived are sent as a separate frame, in whole sample frames, and the server's side is
# always at a frame's boundary.
def samples(channel: int, data: bytes, seek: int = 0, offset: int = 0) -> bytes:
    """Return a frame of samples."""
    wide = offset & 0xFFFFFFFFFFFFFFFF
    return HEADER.pack(len(data), channel, wide >> 32, wide & 0xFFFFFFFF, seek) + data


_TWO_U32 = _HEAD
_REQUEST_HEAD = command(Command.REQUEST, INVALID, bytes(_TWO_U32.size))[
    : -_TWO_U32.size
]
_REQUEST_BYTES = len(_REQUEST_HEAD) + _TWO_U32.size
