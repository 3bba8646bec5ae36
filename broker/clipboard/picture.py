"""Writing a PNG anew, so that of the old one only its pixels go on.

A decoder of pictures is a large thing in C, and a picture that was made for it
is a way into the program that shows it.  What comes out here was written by us,
byte for byte: its chunks, its compression, its filters.  What went in is read
strictly (PNG, third edition): known critical chunks in their order, good sums,
exactly as many pixels as it says.  Text, profiles, times, what stands behind
the end and what nobody knows stay behind; interlaced pictures, which no
clipboard makes, are refused.

Only zlib is not ours, and it sees the compressed bytes alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from itertools import accumulate

from broker.core import limits
from broker.core.errors import PeerError

Steps = Generator[None, None, bytes]
"""Yields now and then, so that others get their turn; returns the bytes."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_GREY, _COLOUR, _PALETTE = 0, 2, 3
_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
_SLICE = 1 << 18
"""Bytes of pixels between two turns of others: some tens of milliseconds."""


def _bad(what: str) -> PeerError:
    return PeerError(f"the picture is no PNG that can be written anew: {what}")


@dataclass(frozen=True)
class _Head:
    """IHDR."""

    width: int
    height: int
    depth: int
    colour: int

    @property
    def row(self) -> int:
        """Bytes of a row of pixels, without its filter's."""
        return (self.width * _CHANNELS[self.colour] * self.depth + 7) // 8

    @property
    def step(self) -> int:
        """Bytes from a pixel to the one on its left, at least one."""
        return max(1, _CHANNELS[self.colour] * self.depth // 8)


@dataclass
class _Parts:
    """What is taken of a file: head, palette, transparency, compressed pixels."""

    head: _Head
    palette: bytes = b""
    clear: bytes = b""
    pixels: bytes = b""


def rewrite_png(untrusted_data: bytes) -> Steps:
    """Write it anew.  Raises PeerError for what is no good PNG."""
    parts = _read(untrusted_data)
    del untrusted_data
    head = parts.head
    if head.height * (head.row + 1) > limits.CLIPBOARD_PIXEL_BYTES:
        raise _bad("it has more pixels than may cross")
    squeeze = zlib.compressobj(6)
    out: list[bytes] = []
    above = bytes(head.row)
    since = 0
    for kind, filtered in _rows(parts):
        row = _unfilter(kind, filtered, above, head.step)
        out.append(squeeze.compress(bytes((_UP,)) + _minus(row, above)))
        above = row
        since += len(row) + 1
        if since >= _SLICE:
            since = 0
            yield
    out.append(squeeze.flush())
    return _written(parts, b"".join(out))


# -- reading ------------------------------------------------------------------------


def _chunks(data: bytes) -> Generator[tuple[bytes, bytes], None, None]:
    """Type and content of each chunk, up to IEND."""
    if data[: len(_SIGNATURE)] != _SIGNATURE:
        raise _bad("it does not begin as one")
    at = len(_SIGNATURE)
    while True:
        if len(data) < at + 12:
            raise _bad("it ends in the middle")
        (size,) = struct.unpack_from(">I", data, at)
        if size > len(data) - at - 12:
            raise _bad("a chunk is longer than the file")
        kind = data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + size]
        (told,) = struct.unpack_from(">I", data, at + 8 + size)
        if zlib.crc32(content, zlib.crc32(kind)) != told:
            raise _bad("a chunk's sum is wrong")
        yield kind, content
        if kind == b"IEND":
            return
        at += 12 + size


def _read(data: bytes) -> _Parts:
    chunks = _chunks(data)
    kind, content = next(chunks)
    if kind != b"IHDR" or len(content) != 13:
        raise _bad("its head is missing")
    parts = _Parts(_head(content))
    pixels: list[bytes] = []
    ended = False
    for kind, content in chunks:
        if kind == b"IDAT":
            if ended:
                raise _bad("its pixels are not in one piece")
            pixels.append(content)
            continue
        ended = ended or bool(pixels)
        if kind in {b"PLTE", b"tRNS"} and pixels:
            raise _bad("its colours come after its pixels")
        if kind == b"PLTE":
            _take_palette(parts, content)
        elif kind == b"tRNS":
            _take_clear(parts, content)
        elif kind != b"IEND" and not kind[0] & 0x20:
            raise _bad("it has a critical part that nobody knows")
    if parts.head.colour == _PALETTE and not parts.palette:
        raise _bad("its palette is missing")
    parts.pixels = b"".join(pixels)
    return parts


def _head(content: bytes) -> _Head:
    width, height, depth, colour, packing, filtering, lacing = struct.unpack(
        ">IIBBBBB", content
    )
    most = limits.CLIPBOARD_PICTURE_SIDE
    if not (1 <= width <= most and 1 <= height <= most):
        raise _bad("it is too large")
    if depth not in _DEPTHS.get(colour, set()) or packing or filtering:
        raise _bad("its head makes no sense")
    if lacing:
        raise _bad("it is interlaced")
    return _Head(width, height, depth, colour)


def _take_palette(parts: _Parts, content: bytes) -> None:
    entries, rest = divmod(len(content), 3)
    if parts.palette or parts.clear or rest or not 1 <= entries <= 256:
        raise _bad("its palette makes no sense")
    if parts.head.colour == _PALETTE:
        # Whole, so that no pixel can point beyond it.
        parts.palette = content[: 3 << parts.head.depth].ljust(
            3 << parts.head.depth, b"\0"
        )
    elif parts.head.colour not in {_COLOUR, 6}:
        raise _bad("a grey picture has a palette")


def _take_clear(parts: _Parts, content: bytes) -> None:
    sizes = {_GREY: {2}, _COLOUR: {6}, _PALETTE: set(range(1, 257))}
    colour = parts.head.colour
    if parts.clear or len(content) not in sizes.get(colour, set()):
        raise _bad("its transparency makes no sense")
    if colour == _PALETTE and len(content) > len(parts.palette) // 3:
        raise _bad("its transparency is longer than its palette")
    parts.clear = content


def _rows(parts: _Parts) -> Generator[tuple[int, bytes], None, None]:
    """Filter and filtered bytes of each row; exactly as many as there must be."""
    head = parts.head
    size = head.row + 1
    pull = zlib.decompressobj()
    left, rest = head.height, b""
    fed = parts.pixels
    try:
        while left:
            rest += pull.decompress(fed, max(_SLICE, size) - len(rest))
            fed = pull.unconsumed_tail
            whole = min(len(rest) // size, left)
            if not whole:
                raise _bad("it has fewer pixels than it says")
            for at in range(0, whole * size, size):
                if rest[at] > _PAETH:
                    raise _bad("a row has a filter that nobody knows")
                yield rest[at], rest[at + 1 : at + size]
            left -= whole
            rest = rest[whole * size :]
        more = rest or pull.decompress(fed, 1)
    except zlib.error as error:
        raise _bad("its pixels cannot be unpacked") from error
    if more or not pull.eof or pull.unused_data:
        raise _bad("it has more pixels than it says")


# -- filters ----------------------------------------------------------------------------


def _unfilter(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """The pixels of a row (PNG section 9)."""
    if kind == _NONE:
        return row
    if kind == _UP:
        return _plus(row, above)
    if kind == _SUB:
        out = bytearray(len(row))
        for channel in range(step):
            sums = accumulate(row[channel::step])
            out[channel::step] = bytes([value & 255 for value in sums])
        return bytes(out)
    return _average(row, above, step) if kind == _AVERAGE else _paeth(row, above, step)


def _average(row: bytes, above: bytes, step: int) -> bytes:
    out = bytearray(step) + row
    for at, up in enumerate(above, step):
        out[at] = (out[at] + (out[at - step] + up) // 2) & 255
    return bytes(out[step:])


def _paeth(row: bytes, above: bytes, step: int) -> bytes:
    out = bytearray(step) + row
    corners = bytes(step) + above
    for at, (up, corner) in enumerate(zip(above, corners, strict=False), step):
        left = out[at - step]
        from_left, from_up = abs(up - corner), abs(left - corner)
        from_corner = abs(left + up - 2 * corner)
        if from_left <= from_up and from_left <= from_corner:
            near = left
        else:
            near = up if from_up <= from_corner else corner
        out[at] = (out[at] + near) & 255
    return bytes(out[step:])


def _plus(one: bytes, other: bytes) -> bytes:
    """The sums of bytes modulo 256, all at once in a large number."""
    size = len(one)
    a, b = int.from_bytes(one), int.from_bytes(other)
    high = int.from_bytes(b"\x80" * size)
    low = int.from_bytes(b"\x7f" * size)
    return (((a & low) + (b & low)) ^ ((a ^ b) & high)).to_bytes(size)


def _minus(one: bytes, other: bytes) -> bytes:
    """The differences of bytes modulo 256."""
    size = len(one)
    a, b = int.from_bytes(one), int.from_bytes(other)
    high = int.from_bytes(b"\x80" * size)
    low = int.from_bytes(b"\x7f" * size)
    return (((a | high) - (b & low)) ^ ((a ^ ~b) & high)).to_bytes(size)


# -- writing ----------------------------------------------------------------------------


def _written(parts: _Parts, pixels: bytes) -> bytes:
    head = parts.head
    told = struct.pack(
        ">IIBBBBB", head.width, head.height, head.depth, head.colour, 0, 0, 0
    )
    chunks = [(b"IHDR", told), (b"PLTE", parts.palette), (b"tRNS", parts.clear)]
    chunks += [(b"IDAT", pixels), (b"IEND", b"")]
    out = [_SIGNATURE]
    for kind, content in chunks:
        if content or kind == b"IEND":
            sum_ = zlib.crc32(content, zlib.crc32(kind))
            out += [struct.pack(">I", len(content)), kind, content]
            out.append(struct.pack(">I", sum_))
    return b"".join(out)
