"""Letters for the name strip of frames, drawn with a font of the desktop's.

``python -m broker.helpers.prompt.name_strip HEIGHT FILE INDEX`` prints a JSON object: for each
character of a sandbox's name its width and its coverage, a byte for each pixel, in
base64.  A separate process: a font file is parsed by FreeType, a large parser, which
neither the broker nor a worker loads.
"""

from __future__ import annotations

import base64
import json
import string
import sys

from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.ascii_lowercase + string.digits + "-"
"""Characters of a sandbox's name (``core.names``)."""
_SMALLEST = 8
"""Pixels; smaller letters of an outline font cannot be read."""


def fitting(path: str, index: int, height: int) -> ImageFont.FreeTypeFont | None:
    """Return the font at the largest size whose lines have this height, or None."""
    for size in range(height, _SMALLEST - 1, -1):
        font = ImageFont.truetype(path, size, index)
        if sum(font.getmetrics()) <= height:
            return font
    return None


def letters(font: ImageFont.FreeTypeFont, height: int) -> dict[str, tuple[int, bytes]]:
    """Draw width and coverage of each character, all on one base line."""
    ascent, descent = font.getmetrics()
    base = (height - ascent - descent) // 2 + ascent
    found = {}
    for char in CHARACTERS:
        width = max(1, round(font.getlength(char)))
        image = Image.new("L", (width, height), 0)
        ImageDraw.Draw(image).text((0, base), char, fill=255, font=font, anchor="ls")
        found[char] = width, image.tobytes()
    return found


def main(height: str, path: str, index: str) -> None:
    """Print the letters; an empty object where the height has no room for any."""
    font = fitting(path, int(index), int(height))
    made = letters(font, int(height)) if font else {}
    encoded = {
        char: (width, base64.b64encode(pixels).decode())
        for char, (width, pixels) in made.items()
    }
    sys.stdout.write(json.dumps(encoded))


if __name__ == "__main__":
    main(*sys.argv[1:])
