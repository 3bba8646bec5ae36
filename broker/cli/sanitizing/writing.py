"""New documents of pixels: PDF (ISO 32000-1) of pages, PNG (RFC 2083) of a picture.

Only what is needed, so that a reader of the file meets nothing that a sandbox wrote but
pixels, and words that are in no use but search and copying.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO

from broker.cli.sanitizing.pixels import Page, Word

_DPI = 150
_POINTS = 72.0 / _DPI
_LEVEL = 6


def write_png(out: IO[bytes], page: Page) -> None:
    """Write a picture; its words are left out."""

    def chunk(kind: bytes, data: bytes) -> None:
        body = kind + data
        out.write(
            struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
        )

    row = page.width * 3
    rows = (b"\0" + page.rgb[at : at + row] for at in range(0, len(page.rgb), row))
    out.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", page.width, page.height, 8, 2, 0, 0, 0))
    chunk(b"IDAT", zlib.compress(b"".join(rows), _LEVEL))
    chunk(b"IEND", b"")


class PdfWriter:
    """A PDF file, written page by page."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._at = 0
        self._offsets: dict[int, int] = {}
        self._pages: list[int] = []
        self._next = 4  # 1 is the catalogue, 2 the pages, 3 the font
        self._write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")

    def add(self, page: Page) -> None:
        """Add a page."""
        image, content, number = self._next, self._next + 1, self._next + 2
        self._next += 3
        wide, high = page.width * _POINTS, page.height * _POINTS
        self._stream(
            image,
            f"/Type /XObject /Subtype /Image /Width {page.width} "
            f"/Height {page.height} /ColorSpace /DeviceRGB /BitsPerComponent 8",
            page.rgb,
        )
        drawn = f"q {wide:.2f} 0 0 {high:.2f} 0 0 cm /I Do Q\n".encode()
        words = b"".join(_shown(word, page.height) for word in page.words)
        self._stream(content, "", drawn + b"BT 3 Tr\n" + words + b"ET\n")
        self._object(
            number,
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {wide:.2f} {high:.2f}] "
            f"/Contents {content} 0 R /Resources << /XObject << /I {image} 0 R >> "
            f"/Font << /F 3 0 R >> >> >>".encode(),
        )
        self._pages.append(number)

    def finish(self) -> None:
        """Write what is behind the pages."""
        kids = " ".join(f"{number} 0 R" for number in self._pages)
        self._object(1, b"<< /Type /Catalog /Pages 2 0 R >>")
        self._object(
            2, f"<< /Type /Pages /Kids [{kids}] /Count {len(self._pages)} >>".encode()
        )
        self._object(
            3,
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica "
            b"/Encoding /WinAnsiEncoding >>",
        )
        start = self._at
        lines = [f"xref\n0 {self._next}\n0000000000 65535 f \n"]
        lines += [f"{self._offsets[n]:010d} 00000 n \n" for n in range(1, self._next)]
        lines.append(f"trailer\n<< /Size {self._next} /Root 1 0 R >>\n")
        lines.append(f"startxref\n{start}\n%%EOF\n")
        self._write("".join(lines).encode())

    def _stream(self, number: int, words: str, data: bytes) -> None:
        packed = zlib.compress(data, _LEVEL)
        head = f"<< {words} /Filter /FlateDecode /Length {len(packed)} >>\nstream\n"
        self._object(number, head.encode() + packed + b"\nendstream")

    def _object(self, number: int, body: bytes) -> None:
        self._offsets[number] = self._at
        self._write(f"{number} 0 obj\n".encode() + body + b"\nendobj\n")

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._at += len(data)


def _shown(word: Word, page_height: int) -> bytes:
    """Return the operators of an invisible word, as wide and high as its pixels."""
    text = word.text.encode("cp1252", "replace")
    # In hexadecimal digits: no character of a word is one of the language's.
    digits = text.hex().encode()
    size = max(word.height * _POINTS, 1.0)
    x, y = word.left * _POINTS, (page_height - word.top - word.height) * _POINTS
    # Helvetica's characters are half as wide as high, on average.
    scale = 100 * word.width * _POINTS / max(len(text) * size * 0.5, 1)
    place = f"/F {size:.2f} Tf {scale:.0f} Tz 1 0 0 1 {x:.2f} {y:.2f} Tm <"
    return place.encode() + digits + b"> Tj\n"
