"""Rewriting a PNG, so that only its pixels are kept.

A decoder of pictures is a large C library, and a malicious picture
is a way into the program that shows it.  The output here was written by us,
byte for byte: its chunks, its compression, its filters.  The input is read
strictly (PNG, third edition): known critical chunks in their order, good sums,
exactly as many pixels as it says.  Text, profiles, times, bytes after
the end and unknown chunks are dropped; an interlaced picture comes out as
a plain one.

Only zlib is not ours, and it sees the compressed bytes alone.

The worker of the sandbox that receives a paste runs this, before it offers the picture
to its programs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass

from broker.core.errors import PeerError
from broker.core.limits import clipboard as limits
from broker.jail.clipboard.picture_filters import PAETH, UP, minus, unfilter
from broker.jail.clipboard.picture_lacing import Canvas, passes

Steps = Generator[None, None, bytes]
"""Yields now and then, so that others get their turn; returns the bytes."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_GREY, _COLOUR, _PALETTE = 0, 2, 3
_SLICE = 1 << 18
"""Bytes of pixels between two turns of others: some tens of milliseconds."""
_ROW = 64
"""Overhead of a row beside its bytes, in the same unit."""


def _bad(what: str) -> PeerError:
    return PeerError(f"cannot rewrite the image as PNG: {what}")


@dataclass(frozen=True)
class _Head:
    """IHDR."""

    width: int
    height: int
    depth: int
    colour: int
    laced: bool = False

    @property
    def bits(self) -> int:
        """Bits of a pixel."""
        return _CHANNELS[self.colour] * self.depth

    @property
    def row(self) -> int:
        """Bytes of a row of pixels, without its filter's."""
        return self.row_of(self.width)

    def row_of(self, width: int) -> int:
        """The same of a row of so many pixels."""
        return (width * self.bits + 7) // 8

    @property
    def step(self) -> int:
        """Bytes from a pixel to the one on its left, at least one."""
        return max(1, self.bits // 8)


@dataclass
class _Parts:
    """The used parts of a file: head, palette, transparency, compressed pixels."""

    head: _Head
    palette: bytes = b""
    clear: bytes = b""
    pixels: bytes = b""


def rewrite_png(untrusted_data: bytes) -> Steps:
    """Rewrite a PNG so that only its pixels are kept.

    Raises PeerError if it is invalid.
    """
    parts = _read(untrusted_data)
    del untrusted_data
    head = parts.head
    # guard: a picture's pixels
    if head.height * (head.row + 1) > limits.CLIPBOARD_PIXEL_BYTES:
        raise _bad("it has more pixels than the limit")
    squeeze = zlib.compressobj(6)
    out: list[bytes] = []
    above = bytes(head.row)
    since = 0
    rows = _unlaced(parts) if head.laced else _rows(parts)
    for row in rows:
        if row is not None:
            out.append(squeeze.compress(bytes((UP,)) + minus(row, above)))
            above = row
        since += head.row + _ROW
        if since >= _SLICE:
            since = 0
            yield
    out.append(squeeze.flush())
    return _written(parts, b"".join(out))


# -- reading ------------------------------------------------------------------------


def _chunks(data: bytes) -> Generator[tuple[bytes, bytes], None, None]:
    """Yield type and content of each PNG chunk, up to IEND."""
    if data[: len(_SIGNATURE)] != _SIGNATURE:
        raise _bad("the PNG signature is missing")
    at = len(_SIGNATURE)
    while True:
        if len(data) < at + 12:
            raise _bad("the file is truncated")
        (size,) = struct.unpack_from(">I", data, at)
        if size > len(data) - at - 12:
            raise _bad("a chunk is longer than the file")
        kind = data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + size]
        (told,) = struct.unpack_from(">I", data, at + 8 + size)
        # guard: a picture's sums
        if zlib.crc32(content, zlib.crc32(kind)) != told:
            raise _bad("the CRC of a chunk is wrong")
        yield kind, content
        if kind == b"IEND":
            return
        at += 12 + size


def _read(data: bytes) -> _Parts:
    """Parse a PNG picture and check every part."""
    chunks = _chunks(data)
    kind, content = next(chunks)
    if kind != b"IHDR" or len(content) != 13:
        raise _bad("the IHDR chunk is missing")
    parts = _Parts(_head(content))
    pixels: list[bytes] = []
    ended = False
    for kind, content in chunks:
        if kind == b"IDAT":
            if ended:
                raise _bad("the IDAT chunks are not consecutive")
            pixels.append(content)
            continue
        ended = ended or bool(pixels)
        if kind in {b"PLTE", b"tRNS"} and pixels:
            raise _bad("the palette follows the image data")
        if kind == b"PLTE":
            _take_palette(parts, content)
        elif kind == b"tRNS":
            _take_clear(parts, content)
        # guard: critical parts of a picture
        elif kind != b"IEND" and not kind[0] & 0x20:
            raise _bad("it has an unknown critical chunk")
    if parts.head.colour == _PALETTE and not parts.palette:
        raise _bad("the palette is missing")
    parts.pixels = b"".join(pixels)
    return parts


def _head(content: bytes) -> _Head:
    """Parse a PNG's head and check its sides."""
    width, height, depth, colour, packing, filtering, lacing = struct.unpack(
        ">IIBBBBB", content
    )
    most = limits.CLIPBOARD_PICTURE_SIDE
    # guard: a picture's sides
    if not (1 <= width <= most and 1 <= height <= most):
        raise _bad("it is wider or higher than the limit")
    if depth not in _DEPTHS.get(colour, set()) or packing or filtering:
        raise _bad("the IHDR chunk is invalid")
    if lacing not in {0, 1}:
        raise _bad("the interlace method is unknown")
    return _Head(width, height, depth, colour, laced=bool(lacing))


def _take_palette(parts: _Parts, content: bytes) -> None:
    """Check and keep the palette."""
    entries, rest = divmod(len(content), 3)
    if parts.palette or parts.clear or rest or not 1 <= entries <= 256:
        raise _bad("the palette is invalid")
    if parts.head.colour == _PALETTE:
        # Whole, so that no pixel can point beyond it.
        # guard: pixels beyond the palette
        parts.palette = content[: 3 << parts.head.depth].ljust(
            3 << parts.head.depth, b"\0"
        )
    elif parts.head.colour not in {_COLOUR, 6}:
        raise _bad("a greyscale image has a palette")


def _take_clear(parts: _Parts, content: bytes) -> None:
    """Check and keep the transparency."""
    sizes = {_GREY: {2}, _COLOUR: {6}, _PALETTE: set(range(1, 257))}
    colour = parts.head.colour
    if parts.clear or len(content) not in sizes.get(colour, set()):
        raise _bad("the tRNS chunk is invalid")
    if colour == _PALETTE and len(content) > len(parts.palette) // 3:
        raise _bad("the tRNS chunk is longer than the palette")
    parts.clear = content


def _rows(parts: _Parts) -> Generator[bytes, None, None]:
    """The pixels of each row, where they are in their order."""
    pull = _Pull(parts.pixels)
    yield from pull.rows(parts.head.row, parts.head.height, parts.head.step)
    pull.end()


def _unlaced(parts: _Parts) -> Generator[bytes | None, None, None]:
    """Yield the rows of an interlaced picture; None while they are not known yet."""
    head = parts.head
    pull = _Pull(parts.pixels)
    canvas = Canvas(head.width, head.height, head.bits)
    for one in passes(head.width, head.height):
        size = head.row_of(one.width)
        for line, row in enumerate(pull.rows(size, one.height, head.step)):
            canvas.put(one, line, row)
            yield None
    pull.end()
    yield from canvas.rows()


class _Pull:
    """Unpacks; no further than requested."""

    def __init__(self, packed: bytes) -> None:
        self._pull = zlib.decompressobj()
        self._packed, self._fed, self._rest = memoryview(packed), 0, b""

    def rows(self, size: int, count: int, step: int) -> Generator[bytes, None, None]:
        """Yield ``count`` unfiltered rows of ``size`` bytes each."""
        above = bytes(size)
        while count:
            whole = min(self._more(size + 1), count)
            rows, used = self._rest, whole * (size + 1)
            for at in range(0, used, size + 1):
                if rows[at] > PAETH:
                    raise _bad("a row has an unknown filter type")
                above = unfilter(rows[at], rows[at + 1 : at + 1 + size], above, step)
                yield above
            count -= whole
            self._rest = rows[used:]

    def _more(self, size: int) -> int:
        """Unpack more pixels; return the number of whole rows, at least one."""
        if len(self._rest) < size:
            self._rest += self._unpack(max(_SLICE, size) - len(self._rest))
        if len(self._rest) < size:
            raise _bad("it has fewer pixels than the header declares")
        return len(self._rest) // size

    def _unpack(self, most: int) -> bytes:
        """Unpack at most so many bytes of pixels."""
        found = bytearray()
        while len(found) < most and not self._pull.eof and (piece := self._piece()):
            try:
                found += self._pull.decompress(piece, most - len(found))
            except zlib.error as error:
                raise _bad("the image data cannot be decompressed") from error
        return bytes(found)

    def _piece(self) -> bytes | memoryview:
        """Return the next piece of packed data for zlib.

        zlib copies all that it did not use of what it was given: of a whole picture, at
        each call.
        """
        # guard: a picture is not copied for each of its slices
        piece = self._pull.unconsumed_tail
        if piece:
            return piece
        self._fed += _SLICE
        return self._packed[self._fed - _SLICE : self._fed]

    def end(self) -> None:
        """There must be nothing more."""
        pull, more = self._pull, self._rest or self._unpack(1)
        # guard: pixels beyond the end
        if more or not pull.eof or pull.unused_data or self._packed[self._fed :]:
            raise _bad("it has more pixels than the header declares")


# -- writing ----------------------------------------------------------------------------


def _written(parts: _Parts, pixels: bytes) -> bytes:
    """Return the checked parts as a new PNG file."""
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
