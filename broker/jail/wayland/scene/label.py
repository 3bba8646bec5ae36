"""The sandbox's name as pixels, for the frame's upper strip.

The broker draws it in the desktop's font and hands over the coverage of each pixel
(``WindowRules.strip``).  If none exists, our letters are used: a sandbox's name
has only a-z, 0-9 and '-' (``core.names``), so 38 with the space of our words are enough,
and there is no text renderer that a guest could reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

WIDE, HIGH = 5, 7
_SPOT, _SPOT_GAP = 32, 4
"""Pixels of the sign of a use, and on each side of it."""

# Seven rows of five pixels each, a digit (base 32) for a row, from the top.
_ROWS = (
    ("a", "00e1fhf"), ("b", "gguhhhu"), ("c", "00ehghe"), ("d", "11fhhhf"),
    ("e", "00ehvge"), ("f", "69su888"), ("g", "0fhhf1e"), ("h", "gguhhhh"),
    ("i", "40c444e"), ("j", "20622ic"), ("k", "gghisih"), ("l", "c44444e"),
    ("m", "00qllhh"), ("n", "00mphhh"), ("o", "00ehhhe"), ("p", "0uhhugg"),
    ("q", "0fhhf11"), ("r", "00mpggg"), ("s", "00fge1u"), ("t", "88s8896"),
    ("u", "00hhhjd"), ("v", "00hhha4"), ("w", "00hhlla"), ("x", "00ha4ah"),
    ("y", "0hhhf1e"), ("z", "00v248v"), ("0", "ehjlphe"), ("1", "4c4444e"),
    ("2", "eh1248v"), ("3", "v2421he"), ("4", "26aiv22"), ("5", "vgu11he"),
    ("6", "68guhhe"), ("7", "v124888"), ("8", "ehhehhe"), ("9", "ehhf12c"),
    ("-", "000v000"), (" ", "0000000"),
)  # fmt: skip
GLYPHS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {letter: tuple(int(row, 32) for row in rows) for letter, rows in _ROWS}
)


def ink(color: int) -> int:
    """Return black or white (0xRRGGBB), whichever reads better on a colour."""
    red, green, blue = color >> 16, color >> 8 & 255, color & 255
    # Relative luminance by the weights of ITU-R BT.709, without gamma: only
    # the choice between two extremes depends on it.
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 0x000000 if light > 127 else 0xFFFFFF


def scale_for(height: int) -> int:
    """How large a letter's pixel is in a strip of this height; 0: none fits."""
    return max(0, (height - 2) // HIGH)


def draw_spot(height: int, color: int) -> tuple[int, bytes]:
    """Return width and XRGB8888 pixels of the sign that the sandbox uses a device.

    It is red inside a white line, with the frame's colour on both sides.
    """
    back, red, white = (
        (0xFF000000 | c).to_bytes(4, "little") for c in (color, 0xE01B24, 0xFFFFFF)
    )
    gap, line = back * _SPOT_GAP, white * 2
    inner = gap + line + red * _SPOT + line + gap
    width = len(inner) // 4
    if height < 2 * HIGH:  # there is no room for a line above and below
        return width, inner * height
    outer = gap + white * (width - 2 * _SPOT_GAP) + gap
    return width, outer * 2 + inner * (height - 4) + outer * 2


def join(pictures: Sequence[tuple[int, bytes]], height: int) -> tuple[int, bytes]:
    """Return width and pixels of pictures of one height, from left to right."""
    rows = (
        pixels[4 * width * y : 4 * width * (y + 1)]
        for y in range(height)
        for width, pixels in pictures
    )
    return sum(width for width, _ in pictures), b"".join(rows)


def draw_strip(strip: bytes, height: int, color: int) -> tuple[int, bytes]:
    """Return width and XRGB8888 pixels of a name whose coverage is given."""
    front = ink(color)
    shades = [_mixed(color, front, share) for share in range(256)]
    return len(strip) // height, b"".join([shades[share] for share in strip])


def _mixed(back: int, front: int, share: int) -> bytes:
    """Return a pixel of which ``share`` of 255 parts is covered."""
    channels = (
        ((back >> bits & 255) * (255 - share) + (front >> bits & 255) * share) // 255
        for bits in (0, 8, 16)
    )
    return bytes((*channels, 255))


def draw(name: str, height: int, color: int) -> tuple[int, bytes]:
    """Return width and XRGB8888 pixels of a label, ``height`` pixels high.

    Letters that the font has not are left out.  Raises ValueError when the
    height has no room for letters.
    """
    scale = scale_for(height)
    if not scale:
        raise ValueError(f"{height} pixels are too few for a letter")
    letters = [GLYPHS[char] for char in name if char in GLYPHS]
    width = (len(letters) * (WIDE + 1) + 1) * scale
    back, front = (
        c.to_bytes(4, "little") for c in (0xFF000000 | color, 0xFF000000 | ink(color))
    )
    above = (height - HIGH * scale) // 2
    rows = [back * width] * above
    for y in range(HIGH):
        row = back * scale
        for glyph in letters:
            bits = glyph[y]
            row += b"".join(
                (front if bits >> (WIDE - 1 - x) & 1 else back) * scale
                for x in range(WIDE)
            )
            row += back * scale
        rows += [row] * scale
    rows += [back * width] * (height - len(rows))
    return width, b"".join(rows)
