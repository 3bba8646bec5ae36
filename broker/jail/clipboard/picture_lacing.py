"""Adam7, PNG's interlacing: seven small pictures, from which one is put together.

PNG, third edition, section 8.  A pass that would have no column or no row is
not there at all.  The canvas has the pixels as a row of the file has them, so
it takes no more memory than those; pixels of less than a byte are spread out a
row at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_GRID = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""For each pass: its first pixel's column and row, and the steps to the next."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One of the seven small pictures: its size, and where its pixels belong."""

    x: int
    y: int
    across: int
    down: int
    width: int
    height: int


def passes(width: int, height: int) -> Iterator[Pass]:
    """Those that a picture of this size has, in their order."""
    for x, y, across, down in _GRID:
        wide, high = -(-(width - x) // across), -(-(height - y) // down)
        if wide > 0 and high > 0:
            yield Pass(x, y, across, down, wide, high)


class Canvas:
    """Where the passes are put together; ``bits`` are those of a pixel."""

    def __init__(self, width: int, height: int, bits: int) -> None:
        self._width, self._height, self._bits = width, height, bits
        self._row = (width * bits + 7) // 8
        self._pixels = bytearray(self._row * height)

    def put(self, one: Pass, line: int, row: bytes) -> None:
        """A row of a pass, to where it belongs."""
        start = (one.y + line * one.down) * self._row
        end = start + self._row
        if self._bits < 8:
            spread = _spread(self._pixels[start:end], self._bits)
            mine = _spread(row, self._bits)
            spread[one.x : self._width : one.across] = mine[: one.width]
            self._pixels[start:end] = _gathered(spread, self._bits)
            return
        step = self._bits // 8
        first = start + one.x * step
        for part in range(step):
            place = slice(first + part, end, one.across * step)
            self._pixels[place] = row[part::step]

    def rows(self) -> Iterator[bytes]:
        """All of it, from the top."""
        for start in range(0, self._row * self._height, self._row):
            yield bytes(self._pixels[start : start + self._row])


def _spread(row: bytes | bytearray, bits: int) -> bytearray:
    """A byte for each pixel, including the padding of the last byte."""
    each = 8 // bits
    mask = int.from_bytes(bytes((255 >> (8 - bits),)) * len(row))
    value = int.from_bytes(row)
    out = bytearray(len(row) * each)
    for at in range(each):
        part = (value >> bits * (each - 1 - at)) & mask
        out[at::each] = part.to_bytes(len(row))
    return out


def _gathered(pixels: bytearray, bits: int) -> bytes:
    """The other way round."""
    each = 8 // bits
    value = 0
    for at in range(each):
        value |= int.from_bytes(pixels[at::each]) << bits * (each - 1 - at)
    return value.to_bytes(len(pixels) // each)
