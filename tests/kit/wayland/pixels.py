"""Judging frames by the pixels of a screenshot."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image


class Found(NamedTuple):
    """A frame: outer position and size, and how thick its thinnest side is."""

    x: int
    y: int
    w: int
    h: int
    border: int


def mask(image: Image.Image, color: int) -> np.ndarray:
    """Where the picture has exactly this colour (0xRRGGBB)."""
    # Channel by channel: all(axis=2) takes seven times as long.
    rgb = np.asarray(image.convert("RGB"))
    red, green, blue = (rgb[..., n] == color >> 16 - 8 * n & 255 for n in range(3))
    return red & green & blue


def near(image: Image.Image, color: int, slack: int) -> np.ndarray:
    """Where the picture has this colour within ``slack`` for each channel."""
    rgb = np.asarray(image.convert("RGB")).astype(np.int16)
    red, green, blue = (
        np.abs(rgb[..., n] - (color >> 16 - 8 * n & 255)) <= slack for n in range(3)
    )
    return red & green & blue


def _run(line: np.ndarray) -> int:
    gaps = np.flatnonzero(~line)
    return int(gaps[0]) if len(gaps) else len(line)


def _side(perhaps: np.ndarray, seen: np.ndarray) -> int:
    """How long a side is that begins here: it ends where it is seen to."""
    return int(np.flatnonzero(seen[: _run(perhaps)])[-1]) + 1


def frames(
    image: Image.Image,
    color: int,
    *,
    least: int = 8,
    pointer: tuple[int, int] | None = None,
) -> list[Found]:
    """All rectangles that have this colour on all four sides, uncovered.

    Where the pointer is, its image may cover a side: 32 pixels around it count
    as whatever is needed, but no side ends there.
    """
    seen = mask(image, color)
    here = seen.copy()
    if pointer is not None:
        x, y = pointer
        here[max(0, y - 32) : y + 32, max(0, x - 32) : x + 32] = True
    left = np.zeros_like(seen)
    left[:, 1:] = seen[:, :-1]
    above = np.zeros_like(seen)
    above[1:, :] = seen[:-1, :]
    found = []
    for y, x in zip(*np.nonzero(seen & ~left & ~above), strict=True):
        w = _side(here[y, x:], seen[y, x:])
        h = _side(here[y:, x], seen[y:, x])
        if w < least or h < least:
            continue
        if here[y + h - 1, x : x + w].all() and here[y : y + h, x + w - 1].all():
            middle_y, middle_x = y + h // 2, x + w // 2
            sides = (
                _run(here[middle_y, x : x + w]),
                _run(here[middle_y, x : x + w][::-1]),
                _run(here[y : y + h, middle_x]),
                _run(here[y : y + h, middle_x][::-1]),
            )
            found.append(Found(int(x), int(y), w, h, min(sides)))
    return found


def outside(spots: np.ndarray, rects: list[tuple[int, int, int, int]]) -> int:
    """How many marked pixels lie in none of the rectangles."""
    left = spots.copy()
    for x, y, w, h in rects:
        left[max(0, y) : y + h, max(0, x) : x + w] = False
    return int(left.sum())
