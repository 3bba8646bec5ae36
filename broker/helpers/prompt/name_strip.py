"""Letters for the name strip of frames, drawn with a font of the desktop's.

``drawings letters HEIGHT FILE INDEX`` prints a JSON object: for each character of a
sandbox's name its width and its coverage, a byte for each pixel, in base64.  A separate
process: a font file is parsed by FreeType, a large parser, which neither the broker nor
a worker loads, and which has this font's bytes and standard output alone.
"""

from __future__ import annotations

import base64
import io
import json
import os
import string
import sys
from pathlib import Path
from typing import NoReturn

from PIL import Image, ImageDraw, ImageFont

from broker.helpers.filters.descriptor_filter import keep_descriptors_only

CHARACTERS = string.ascii_lowercase + string.digits + "- "
"""Characters of a sandbox's name (``core.names``) and of our words beside it."""
_SMALLEST = 8
"""Pixels; smaller letters of an outline font cannot be read."""


def fitting(content: bytes, index: int, height: int) -> ImageFont.FreeTypeFont | None:
    """Return the font at the largest size whose lines have this height, or None."""
    for size in range(height, _SMALLEST - 1, -1):
        font = ImageFont.truetype(io.BytesIO(content), size, index)
        if sum(font.getmetrics()) <= height:
            return font
    return None


# The name strip is drawn in the desktop's font by a separate program. The frame's upper
# strip had our letters, five by seven pixels, because no text renderer may be within a
# guest's reach. The name is ours, not the guest's, so its picture can be made before a
# guest runs: a process with your rights asks `fc-match`, a program that ends afterwards
# draws the 38 characters of a strip with FreeType, and the worker gets the coverage of
# each pixel with its first order and mixes two colours by it. Drawing in the worker was
# rejected (FreeType and a font file in every jail), and drawing in the broker too (a
# parser of fonts in the process that holds all descriptors). Our letters remain for
# strips without room for an outline and for desktops without fontconfig. The picture
# has the logical height of the strip, so at scale 2 it is magnified.
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


def main(height: str, path: str, index: str) -> NoReturn:
    """Print the letters, an empty object if the height has no room for any; exit."""
    content = Path(path).read_bytes()
    # Pillow imports some of its modules when it first draws, here with its own font.
    picture = Image.new("L", (9, 9), 0)
    ImageDraw.Draw(picture).text((0, 0), "a", fill=255, font=ImageFont.load_default())
    picture.tobytes()
    # Pillow 11 tries to import "packaging", which would look at directories. A failed
    # import is what it expects.
    sys.meta_path.clear()
    # guard: what parses a font has the font alone
    keep_descriptors_only()
    try:
        font = fitting(content, int(index), int(height))
        made = letters(font, int(height)) if font else {}
    except OSError as error:  # FreeType's; a traceback would open files
        os.write(2, f"{error}\n".encode())
        os._exit(1)
    encoded = {
        char: (width, base64.b64encode(pixels).decode())
        for char, (width, pixels) in made.items()
    }
    unwritten = memoryview(json.dumps(encoded).encode())
    while unwritten:
        unwritten = unwritten[os.write(1, unwritten) :]
    os._exit(0)  # the interpreter's own end needs system calls that it gave up
