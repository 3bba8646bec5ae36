"""The font of what the prompt agent and the banner draw."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TypeAlias

from PIL import ImageFont

_FONTS = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans{}.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans{}.ttf",
    "/usr/share/fonts/TTF/DejaVuSans{}.ttf",
    "/usr/share/fonts/truetype/DejaVuSans{}.ttf",
)
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def font(size: int, *, bold: bool = False) -> Font:
    """Return the font of the dialog; ``size`` in pixels."""
    for pattern in _FONTS:
        path = Path(pattern.format("-Bold" if bold else ""))
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def choose_ink(colour: str) -> tuple[int, int, int]:
    """Return black or white, the one with the higher contrast (ITU-R BT.601 luma)."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return (0, 0, 0) if light else (255, 255, 255)
