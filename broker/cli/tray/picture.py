"""Draw the panel's icon: squares in the colours of running sandboxes, and marks."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

from PIL import Image, ImageDraw

from broker.cli.tray.menu_rows import TrayState

_SIZES = (24, 48)
_SQUARE = 16
_GREY = (136, 136, 136, 255)
_RED = (224, 27, 36, 255)
_YELLOW = (246, 211, 45, 255)
_WHITE = (250, 250, 250, 255)
_SHOWN = 4
"""Squares in the picture: two rows of two."""

Pixmap = tuple[int, int, bytes]
"""Width, height, ARGB32 in network byte order (StatusNotifierItem, icons)."""


def pixmaps(now: TrayState) -> list[Pixmap]:
    """Return the picture in the sizes that panels have."""
    colours = tuple(dict.fromkeys(one.color or "#888888" for one in now.sandboxes))
    marks = (
        bool(now.listening or now.seeing),
        bool(now.questions),
        now.lockdown.locked,
    )
    return [_pixmap(size, colours[:_SHOWN], marks) for size in _SIZES]


@lru_cache(64)
def _pixmap(
    size: int, colours: tuple[str, ...], marks: tuple[bool, bool, bool]
) -> Pixmap:
    """Draw the picture in one size: colours of sandboxes, marks beside them."""
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    listening, asked, locked = marks
    edge = size // 12
    half = (size - 2 * edge) / 2
    width = 2 if len(colours) > 1 else 1
    side = half if width == 2 else 2 * half
    for number, colour in enumerate(colours):
        left = edge + (number % width) * half
        top = edge + (number // width) * half
        box = (left, top, left + side - 2, top + side - 2)
        draw.rectangle(box, fill=colour, outline=_WHITE)
    if not colours:
        far = size - edge - 1
        draw.rectangle((edge, edge, far, far), outline=_GREY, width=max(1, edge))
    spot = size // 2 - edge
    if listening:
        draw.ellipse((size - spot, 0, size - 1, spot - 1), fill=_RED, outline=_WHITE)
    if asked:
        draw.ellipse((0, 0, spot - 1, spot - 1), fill=_YELLOW, outline=(0, 0, 0, 255))
    if locked:
        bar = size // 3
        draw.rectangle((0, size - bar, size - 1, size - 1), fill=_RED, outline=_WHITE)
    red, green, blue, alpha = image.split()
    return size, size, Image.merge("RGBA", (alpha, red, green, blue)).tobytes()


@lru_cache(64)
def square(colour: str) -> bytes:
    """Return a square in a sandbox's colour (PNG; dbusmenu, ``icon-data``)."""
    image = Image.new("RGB", (_SQUARE, _SQUARE), colour)
    ImageDraw.Draw(image).rectangle((0, 0, _SQUARE - 1, _SQUARE - 1), outline=_WHITE)
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
