"""Where the planes of a picture lie in the graphics driver's memory: pure checks.

The compositor's driver does other checks, which differ from driver to driver and
are code of the kernel and of Mesa.  These come before them and are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol.formats import PIXEL_BYTES

if TYPE_CHECKING:
    from broker.jail.wayland.ports import GpuMemory

LINEAR = 0
"""DRM_FORMAT_MOD_LINEAR (drm_fourcc.h): rows one after the other."""
_DEEPEST_PIXEL = 8
_WHOLE = (1, 1)
_Part = tuple[int, int, int]
"""Bytes of a sample, and how many pixels it covers, across and down."""


class Plane(NamedTuple):
    """One plane as a client describes it; ``offset`` and ``stride`` are bytes."""

    memory: GpuMemory
    offset: int
    stride: int
    modifier: int


class LayoutError(ValueError):
    """A picture that is refused; ``code`` is zwp_linux_buffer_params_v1's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


INCOMPLETE, INVALID_FORMAT, INVALID_DIMENSIONS, OUT_OF_BOUNDS = 3, 4, 5, 6


def _known() -> Iterator[tuple[int, tuple[_Part, ...]]]:
    """Yield the known pixel formats (drm_fourcc.h) with the layout of their planes."""
    for code, size in PIXEL_BYTES.items():
        if code > 1:  # wl_shm's own two numbers are AR24 and XR24 here
            yield code, ((size, *_WHOLE),)
    for letters, parts in (
        ("AR24 XR24 AYUV XYUV Y210 Y410", ((4, *_WHOLE),)),
        ("YUYV YVYU UYVY VYUY GR88", ((2, *_WHOLE),)),
        ("NV12 NV21", ((1, *_WHOLE), (2, 2, 2))),
        ("NV16 NV61", ((1, *_WHOLE), (2, 2, 1))),
        ("NV24 NV42", ((1, *_WHOLE), (2, *_WHOLE))),
        ("P010 P012 P016", ((2, *_WHOLE), (4, 2, 2))),
        ("YU12 YV12", ((1, *_WHOLE), (1, 2, 2), (1, 2, 2))),
        ("YU16 YV16", ((1, *_WHOLE), (1, 2, 1), (1, 2, 1))),
        ("YU24 YV24", ((1, *_WHOLE),) * 3),
    ):
        for word in letters.split():
            yield int.from_bytes(word.encode(), "little"), parts


PARTS: Mapping[int, tuple[_Part, ...]] = MappingProxyType(dict(_known()))
"""Format (DRM's) to its planes."""


def check(planes: Mapping[int, Plane], width: int, height: int, form: int) -> None:
    """Raise LayoutError unless the picture lies inside of its memory."""
    parts = PARTS[form]
    side = limits.WAYLAND_BUFFER_SIDE
    if not (0 < width <= side and 0 < height <= side):
        raise LayoutError(INVALID_DIMENSIONS, f"invalid buffer size {width}x{height}")
    linear = planes[0].modifier == LINEAR if 0 in planes else False
    # A modifier may add planes: Intel's and AMD's of compressed blocks.
    # guard: as many planes as the format has
    if sorted(planes) != list(range(max(len(planes), len(parts)))) or (
        linear and len(planes) != len(parts)
    ):
        raise LayoutError(INCOMPLETE, f"planes {sorted(planes)}, expected {len(parts)}")
    # guard: planes have one modifier
    if len({plane.modifier for plane in planes.values()}) != 1:
        raise LayoutError(INVALID_FORMAT, "the planes have different modifiers")
    for index, plane in planes.items():
        part = parts[index] if index < len(parts) else None
        _check_plane(plane, width, height, part, linear=linear)
    if linear:
        _check_apart(planes, height, parts)


def _check_plane(
    plane: Plane, width: int, height: int, part: _Part | None, *, linear: bool
) -> None:
    """Raise LayoutError for a plane beyond its memory."""
    size, stride = plane.memory.size, plane.stride
    # guard: strides bounded
    if not 0 < stride <= limits.WAYLAND_BUFFER_SIDE * _DEEPEST_PIXEL:
        raise LayoutError(OUT_OF_BOUNDS, f"invalid stride {stride}")
    if part is not None:
        sample, across, _ = part
        # guard: a plane's row is as long as its pixels
        if linear and stride < -(-width // across) * sample:
            raise LayoutError(OUT_OF_BOUNDS, f"stride {stride} for {width} pixels")
    # guard: a plane ends inside of its memory
    if _end(plane, height, part) > size:
        raise LayoutError(
            OUT_OF_BOUNDS,
            f"a plane at {plane.offset} with the stride {stride} ends after {size} bytes",
        )


def _end(plane: Plane, height: int, part: _Part | None) -> int:
    """Where it ends, in bytes; of a plane of the modifier's own a row is counted."""
    rows = -(-height // part[2]) if part is not None else 1
    return plane.offset + plane.stride * rows


def _check_apart(
    planes: Mapping[int, Plane], height: int, parts: tuple[_Part, ...]
) -> None:
    """Raise LayoutError for planes that overlap."""
    spans = sorted(
        (plane.memory.number, plane.offset, _end(plane, height, parts[index]))
        for index, plane in planes.items()
    )
    for one, two in pairwise(spans):
        # guard: planes lie apart
        if one[0] == two[0] and one[2] > two[1]:
            raise LayoutError(OUT_OF_BOUNDS, "the planes overlap")
