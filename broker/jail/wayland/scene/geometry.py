"""Rectangles, and how a surface's pixels become its size. Pure arithmetic.

Coordinates are surface-local logical pixels, as in wl_surface's description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Rect(NamedTuple):
    """``x, y`` top left; ``w, h`` at least 0."""

    x: int
    y: int
    w: int
    h: int

    def meet(self, other: Rect) -> Rect | None:
        """Return the common part, or None when none exists."""
        x = max(self.x, other.x)
        y = max(self.y, other.y)
        w = min(self.x + self.w, other.x + other.w) - x
        h = min(self.y + self.h, other.y + other.h) - y
        # guard: crop
        return Rect(x, y, w, h) if w > 0 and h > 0 else None

    def moved(self, dx: int, dy: int) -> Rect:
        """The same rectangle elsewhere."""
        return Rect(self.x + dx, self.y + dy, self.w, self.h)


class SourceRect(NamedTuple):
    """A viewport's source rectangle, in wl_fixed_t (1/256 px)."""

    x: int
    y: int
    w: int
    h: int


class SmallBufferError(ValueError):
    """A buffer that is less than a pixel wide or high at its scale."""


@dataclass(frozen=True, slots=True)
class View:
    """Source and destination of our viewport of a surface."""

    source: SourceRect
    size: tuple[int, int]


@dataclass(slots=True)
class SurfaceContent:
    """The applied state of a surface that decides its size.

    ``buffer`` is the buffer's size in pixels (None: no buffer, not mapped),
    ``source`` and ``size`` what the client's own viewport says.
    """

    buffer: tuple[int, int] | None = None
    scale: int = 1
    transform: int = 0
    source: SourceRect | None = None
    size: tuple[int, int] | None = None

    def whole(self) -> SourceRect:
        """Return the whole buffer, after transform and scale, as a source rectangle.

        Part of a pixel at the edge does not count: compositors differ there,
        and a source that reaches into it is an error on some.
        """
        w, h = self.buffer or (0, 0)
        if self.transform & 1:
            w, h = h, w
        return SourceRect(0, 0, w // self.scale * 256, h // self.scale * 256)

    def extent(self) -> tuple[int, int] | None:
        """Return the surface's size, or None when it has no buffer.

        Raises ValueError when the client's viewport does not fit the buffer,
        or has a fractional source and no size (wp_viewport: bad_size,
        out_of_buffer), SmallBufferError when there is no part of the buffer that
        a viewport could show (wl_surface: invalid_size).  The one picture of
        less than a pixel that toolkits do show, alone, is let through.
        """
        if self.buffer is None:
            return None
        whole = self.whole()
        one_pixel = max(whole.w, whole.h) <= 256 and not (self.size or self.source)
        if not ((whole.w and whole.h) or one_pixel):
            # guard: buffer no smaller than its scale
            raise SmallBufferError("the buffer is smaller than its scale")
        if self.source is not None:
            if (
                self.source.x + self.source.w > whole.w
                or self.source.y + self.source.h > whole.h
            ):
                # guard: viewport inside buffer
                raise ValueError("the viewport's source extends beyond the buffer")
            if self.size is None and (self.source.w % 256 or self.source.h % 256):
                raise ValueError("a fractional viewport source requires a size")
        if self.size is not None:
            return self.size
        used = self.source or whole
        return max(1, used.w // 256), max(1, used.h // 256)

    def view(self, crop: Rect) -> View | None:
        """Return the viewport that shows just ``crop`` (inside the extent).

        None means that no viewport is needed at all.
        """
        extent = self.extent()
        if extent is None:
            return None
        w, h = extent
        if crop == (0, 0, w, h):
            if self.source is None and self.size is None:
                return None
            return View(self.source or self.whole(), (w, h))
        used = self.source or self.whole()
        left, right = _part(crop.x, crop.w, used.x, used.w, w)
        top, bottom = _part(crop.y, crop.h, used.y, used.h, h)
        return View(SourceRect(left, top, right - left, bottom - top), (crop.w, crop.h))


def _part(at: int, length: int, first: int, used: int, extent: int) -> tuple[int, int]:
    """Return begin and end, in 1/256 px, of the buffer's part shown in some pixels.

    ``used`` of the buffer, from ``first``, is shown as ``extent`` logical pixels, and
    ``length`` of those from ``at`` are wanted.
    """
    # Drawn for a fractional scale: more than one pixel of the buffer for each logical
    # one, and not a whole number.  Whole pixels of the buffer are then pixels of the
    # screen; from half of one on, the compositor would blend each with its neighbour.
    if used > 256 * extent and used % (256 * extent) and not (first | used) % 256:
        low = first + _whole(at * used, extent)
        high = low + _whole(length * used, extent)
    else:
        # A pixel more never shows: the edges are rounded inwards.
        low = first + -(-at * used // extent)
        high = first + (at + length) * used // extent
    # Never empty, never beyond what may be shown.
    # guard: whole pixels stay inside the buffer
    return _at_least_one(low, min(high, first + used), first, first + used)


def _whole(numerator: int, denominator: int) -> int:
    """The quotient of a length in 1/256 px, rounded half up to whole pixels."""
    return (2 * numerator + 256 * denominator) // (512 * denominator) * 256


def _at_least_one(low: int, high: int, first: int, last: int) -> tuple[int, int]:
    if high > low:
        return low, high
    low = max(first, min(low, last - 1))
    return low, low + 1


def clamp(value: int, low: int, high: int) -> int:
    """``value``, or the nearer end of the range."""
    return low if value < low else min(value, high)
