"""PNG's filters: a row is derived from its neighbours (third edition, section 9)."""

from __future__ import annotations

from itertools import accumulate

NONE, SUB, UP, AVERAGE, PAETH = range(5)


def unfilter(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """Undo a row's filter; ``step``: bytes from a pixel to the one on its left."""
    if kind == NONE:
        return row
    if kind == UP:
        return _plus(row, above)
    if kind == SUB:
        out = bytearray(len(row))
        for channel in range(step):
            sums = accumulate(row[channel::step])
            out[channel::step] = bytes([value & 255 for value in sums])
        return bytes(out)
    return _average(row, above, step) if kind == AVERAGE else _paeth(row, above, step)


def _average(row: bytes, above: bytes, step: int) -> bytes:
    out = bytearray(step) + row
    for at, up in enumerate(above, step):
        out[at] = (out[at] + (out[at - step] + up) // 2) & 255
    return bytes(out[step:])


def _paeth(row: bytes, above: bytes, step: int) -> bytes:
    """Undo the filter Paeth of a line (PNG, 9.4)."""
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
    """Add two rows bytewise, modulo 256."""
    size = len(one)
    a, b = int.from_bytes(one), int.from_bytes(other)
    high = int.from_bytes(b"\x80" * size)
    low = int.from_bytes(b"\x7f" * size)
    return (((a & low) + (b & low)) ^ ((a ^ b) & high)).to_bytes(size)


def minus(one: bytes, other: bytes) -> bytes:
    """Subtract two rows bytewise, modulo 256."""
    size = len(one)
    a, b = int.from_bytes(one), int.from_bytes(other)
    high = int.from_bytes(b"\x80" * size)
    low = int.from_bytes(b"\x7f" * size)
    return (((a | high) - (b & low)) ^ ((a ^ ~b) & high)).to_bytes(size)
