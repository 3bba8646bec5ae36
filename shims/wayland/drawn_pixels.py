"""What of a program's buffers has changed since the host has got it.

A program promises that what lies outside of its damage is as the surface showed it
before (wl_surface.damage).  So for each of a surface's last buffers the boxes are
kept that were damaged since it was sent, and that alone is sent with its next commit.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, List, Optional, Tuple

if TYPE_CHECKING:
    from shims.wayland.gpu_memory import GpuPicture

Box = Tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels of a buffer."""
Region = List[Box]
"""Boxes that do not overlap; never changed in place."""
NOTHING: Box = (0, 0, 0, 0)
BOXES = 8
"""Of a region; with more it becomes one around them."""
REMEMBERED = 4
"""Buffers of a surface that are remembered; one more is sent as a whole."""
_WORDS = (0, 1, 0x34324258, 0x34324241, 0x30335241, 0x30335258)
"""Formats with four bytes in a pixel: of others whole rows are sent."""
_FAR = 1 << 16


class ProgramPool:
    """A program's shared memory, and the file that it is in the stream."""

    def __init__(self, fd: int, size: int, rid: int) -> None:
        self.fd, self.size, self.rid = fd, size, rid
        self.buffers = 0
        self.dead = False
        self.drawn: "Optional[GpuPicture]" = None
        """Memory of the GPU, in place of the file."""
        self.pictures: "List[ProgramBuffer]" = []
        """Buffers that were sent last."""

    def read(self, into: memoryview, start: int) -> int:
        """Read bytes from ``start`` on; returns how many there are.

        By preadv(2), not mapped: a program that shrinks its file would end this one, and
        all windows of the guest.
        """
        if self.drawn is not None:
            return self.drawn.copy(into, start)
        try:
            return os.preadv(self.fd, [into], start)
        except OSError:
            return 0

    def release(self) -> None:
        """Close the pool's file once the pool and all of its buffers are destroyed."""
        if self.dead and not self.buffers and self.fd >= 0:
            if self.drawn is not None:
                self.drawn.drop()
            else:
                os.close(self.fd)
            self.fd = -1


class ProgramBuffer:
    """A picture in a pool."""

    def __init__(
        self,
        pool: ProgramPool,
        offset: int,
        width: int,
        height: int,
        stride: int,
        form: int,
    ) -> None:
        self.pool, self.offset = pool, offset
        self.width, self.height, self.stride = width, height, stride
        self.words = form in _WORDS
        self.shown_by: Optional["ProgramSurface"] = None
        """The surface whose damage tells what the host lacks; None: all of it."""
        self.stale: Region = []

    @property
    def whole(self) -> Box:
        """All of it."""
        return (0, 0, self.width, self.height)


class ProgramSurface:
    """The pending and shown state of a surface."""

    def __init__(self) -> None:
        self.shown: Optional[ProgramBuffer] = None
        self.pending: Optional[ProgramBuffer] = None
        self.attached = False
        """Whether a commit changes the shown buffer to ``pending``."""
        self.damage: Region = []
        """In pixels of the buffer."""
        self.surface_damage: Region = []
        self.scale = 1
        self.shaped = False
        """Whether its coordinates are not those of its buffers: turned, or by a
        viewport."""
        self.reshaped = False
        """Whether that changes with the next commit."""
        self.pictures: List[ProgramBuffer] = []

    def commit(self) -> "Optional[Tuple[ProgramBuffer, Region]]":
        """Return the part of each buffer that must be sent, before the commit is."""
        if self.attached:
            self.shown, self.pending, self.attached = self.pending, None, False
        drawn = self._drawn()
        self.damage, self.surface_damage = [], []
        self.reshaped = False
        buffer = self.shown
        if buffer is None or buffer.pool.fd < 0:
            return None
        lacks = [buffer.whole]
        if buffer.shown_by is self:
            lacks = add_all(buffer.stale, drawn)
            if not lacks:
                return None
        self._note(buffer, drawn)
        boxes = [clip(box, buffer) for box in lacks]
        return buffer, [box for box in boxes if box != NOTHING]

    def _drawn(self) -> Region:
        """Return what was drawn, in the buffer's pixels."""
        region = self.damage
        if not self.surface_damage:
            return region
        if self.shaped or self.reshaped:
            return [(0, 0, _FAR, _FAR)]
        times = self.scale
        for left, top, right, bottom in self.surface_damage:
            scaled = (left * times, top * times, right * times, bottom * times)
            region = add(region, scaled)
        return region

    def _note(self, buffer: ProgramBuffer, drawn: Region) -> None:
        """Note what each buffer of a surface lacks after a commit."""
        buffer.shown_by, buffer.stale = self, []
        for other in self.pictures:
            if other is buffer:
                continue
            if (other.width, other.height) != (buffer.width, buffer.height):
                other.shown_by = None
            else:
                other.stale = add_all(other.stale, drawn)
        for other in buffer.pool.pictures:
            # Pixels that are sent of one are another's, too, where they overlap.
            if other is not buffer and _overlap(other, buffer):
                other.shown_by = None
        _remember(self.pictures, buffer, REMEMBERED)
        _remember(buffer.pool.pictures, buffer, 2 * REMEMBERED)


def _overlap(one: ProgramBuffer, two: ProgramBuffer) -> bool:
    first, second = (one, two) if one.offset <= two.offset else (two, one)
    return first.offset + first.stride * first.height > second.offset


def _remember(kept: List[ProgramBuffer], buffer: ProgramBuffer, most: int) -> None:
    if buffer not in kept:
        kept.append(buffer)
        if len(kept) > most:
            kept.pop(0).shown_by = None


def add(region: Region, box: Box) -> Region:
    """Return a region and a box as boxes that do not overlap, few of them."""
    if box[0] >= box[2] or box[1] >= box[3]:
        return region
    rest: List[Box] = []
    for other in region:
        if (
            other[0] > box[2]
            or box[0] > other[2]
            or other[1] > box[3]
            or box[1] > other[3]
        ):
            rest.append(other)
        else:
            box = _around(box, other)
    if len(rest) == len(region):
        rest.append(box)
    else:
        rest = add(rest, box)
    if len(rest) > BOXES:
        first = rest[0]
        for other in rest:
            first = _around(first, other)
        return [first]
    return rest


def add_all(region: Region, more: Region) -> Region:
    """Return both together."""
    for box in more:
        region = add(region, box)
    return region


def _around(one: Box, two: Box) -> Box:
    """Return the box around two boxes."""
    return (
        min(one[0], two[0]),
        min(one[1], two[1]),
        max(one[2], two[2]),
        max(one[3], two[3]),
    )


def clip(box: Box, buffer: ProgramBuffer) -> Box:
    """Cut a box to a buffer."""
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(box[2], buffer.width), min(box[3], buffer.height)
    if left >= right or top >= bottom:
        return NOTHING
    return (left, top, right, bottom)


def rows_of(buffer: ProgramBuffer, box: Box) -> Tuple[int, int, int]:
    """Return offset in the pool, bytes of a row, and number of rows of a box.

    Whole rows unless it is narrow: these are without gaps, and one call copies them.
    """
    left, top, right, bottom = box
    start = buffer.offset + top * buffer.stride
    width = (right - left) * 4
    if not buffer.words or width * 4 > buffer.stride:
        return start, buffer.stride, bottom - top
    return start + left * 4, width, bottom - top
