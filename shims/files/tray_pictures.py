"""Pictures of icons as the broker takes them: 48 by 48 pixels, drawn here.

From pixels that a program gives, or from the PNG file that it names; an SVG file needs
``rsvg-convert`` in the image.  What cannot be drawn has no pixels.
Sources: StatusNotifierItem, icons; the PNG specification, third edition.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from typing import TYPE_CHECKING

from shims.files.desktop_entries import which

if TYPE_CHECKING:
    from typing import Iterator, List, Tuple

    Pixmap = Tuple[int, int, List[int]]  # width, height, bytes

SIDE = 48  # as broker/core/limits/tray.py
MOST_SIDE = 512
FILE_BYTES = 1 << 20
DRAW_SECONDS = 5.0
THEMES = ("/usr/share/icons/hicolor", "/usr/share/icons/Adwaita", "/usr/share/pixmaps")
SIZES = ("48x48", "64x64", "32x32", "256x256", "24x24", "22x22", "16x16", "scalable")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a colour type
PNG = b"\x89PNG\r\n\x1a\n"


def drawn(pixmaps: List[Pixmap], name: str, theme: str) -> bytes:
    """Return the pixels of an item: of its pixmaps, or else of the file of its name."""
    fitting = sorted(filter(is_pixmap, pixmaps), key=lambda one: one[0])
    if fitting:
        larger = [one for one in fitting if one[0] >= SIDE]
        width, height, data = larger[0] if larger else fitting[-1]
        return scaled(width, height, bytes(data))
    for path in files_of(name, theme):
        with contextlib.suppress(
            OSError, ValueError, LookupError, struct.error, zlib.error
        ):
            return scaled(*png_pixels(contents(path)))
    return b""


def is_pixmap(one: Pixmap) -> bool:
    """Return whether a pixmap has the size that it says."""
    width, height, data = one
    sides = 0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE
    return sides and len(data) == 4 * width * height


def files_of(name: str, theme: str) -> Iterator[str]:
    """Yield the files that an icon's name may mean, by themes."""
    if name.startswith("/"):
        yield name
        return
    if not name or "/" in name:
        return
    for base in filter(None, (theme, *THEMES)):
        for ending in (".png", ".svg"):
            yield os.path.join(base, name + ending)
            for size in SIZES:
                for kind in ("apps", "status", "devices", "panel", "actions"):
                    yield os.path.join(base, size, kind, name + ending)


def contents(path: str) -> bytes:
    """Read a PNG file, or an SVG file as one.  Raises OSError."""
    if path.endswith(".svg"):
        with open(path, "rb"):
            pass
        if not which("rsvg-convert"):
            raise OSError("rsvg-convert is not installed")
        import subprocess

        words = ["rsvg-convert", "-w", str(SIDE), "-h", str(SIDE), path]
        try:
            done = subprocess.run(
                words, capture_output=True, timeout=DRAW_SECONDS, check=True
            )
        except subprocess.SubprocessError:
            raise OSError("the icon could not be drawn") from None
        return done.stdout
    with open(path, "rb") as file:
        return file.read(FILE_BYTES)


def png_pixels(data: bytes) -> Tuple[int, int, bytes]:
    """Return width, height and ARGB32 of a PNG file of 8 bits that is not interlaced.

    Raises ValueError, LookupError, struct.error or zlib.error for any other.
    """
    if not data.startswith(PNG):
        raise ValueError("the file is not a PNG file")
    at, chunks = len(PNG), {b"IDAT": b"", b"PLTE": b"", b"tRNS": b""}
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        chunks[kind] = chunks.get(kind, b"") + data[at + 8 : at + 8 + size]
        at += 12 + size
    width, height, bits, colour, _, _, laced = struct.unpack(
        ">IIBBBBB", chunks[b"IHDR"]
    )
    if bits != 8 or laced or not (0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE):
        raise ValueError("unsupported kind of PNG file")
    step = CHANNELS[colour]
    size = (1 + width * step) * height
    lines = zlib.decompressobj().decompress(chunks[b"IDAT"], size)
    if len(lines) != size:
        raise ValueError("the PNG file is truncated")
    palette, clear, out = chunks[b"PLTE"], chunks[b"tRNS"], bytearray()
    before = bytearray(width * step)
    for row in range(height):
        start = row * (1 + width * step)
        line = bytearray(lines[start + 1 : start + 1 + width * step])
        unfilter(lines[start], line, before, step)
        before = line
        for x in range(0, width * step, step):
            part = bytes(line[x : x + step])
            if colour == 3:
                alpha = clear[part[0]] if part[0] < len(clear) else 255
                out += bytes((alpha, *palette[3 * part[0] : 3 * part[0] + 3]))
            elif colour in (0, 4):
                out += bytes((part[1] if colour == 4 else 255, *(part[:1] * 3)))
            else:
                out += bytes((part[3] if colour == 6 else 255, *part[:3]))
    return width, height, bytes(out)


def unfilter(kind: int, line: bytearray, before: bytearray, step: int) -> None:
    """Undo the filter of a line in place (PNG, 9.2).  Raises ValueError."""
    if kind > 4:
        raise ValueError("unknown PNG filter type")
    for x in range(len(line)):
        left = line[x - step] if x >= step else 0
        above = before[x]
        corner = before[x - step] if x >= step else 0
        guess = (0, left, above, (left + above) // 2, nearest(left, above, corner))
        line[x] = (line[x] + guess[kind]) & 255


def nearest(left: int, above: int, corner: int) -> int:
    """Return Paeth's guess (PNG, 9.4)."""
    guess = left + above - corner
    return min((left, above, corner), key=lambda one: abs(guess - one))


def scaled(width: int, height: int, data: bytes) -> bytes:
    """Return the picture in our size: the mean of the pixels that become one."""
    out = bytearray()
    for row in range(SIDE):
        rows = span(row, height)
        for column in range(SIDE):
            spots: List[int] = [
                4 * (y * width + x) for y in rows for x in span(column, width)
            ]
            out += bytes(
                sum(data[spot + part] for spot in spots) // len(spots)
                for part in range(4)
            )
    return bytes(out)


def span(place: int, size: int) -> range:
    """Return the pixels of a picture's line that become this one."""
    first = place * size // SIDE
    return range(first, max(first + 1, (place + 1) * size // SIDE))
