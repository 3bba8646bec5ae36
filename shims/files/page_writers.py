"""New documents of pixels: PDF (ISO 32000-1) of pages, PNG (RFC 2083) of a picture.

Only the needed parts, so that a reader of the file meets nothing that a sandbox wrote but
pixels, and words that are in no use but search and copying.

``brokerctl sanitize`` writes with this, ``vitrail-harmless`` in the sandbox that asked,
and the jailed program of a session child that keeps pages to be printed.
"""

from __future__ import annotations

import itertools
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from shims.files.incoming_files import KEEP_FREE_BYTES, require_room
from shims.files.pages import PAGE_DPI, PagesError

if TYPE_CHECKING:
    from typing import IO, Dict, Iterable, Iterator, List, Tuple

    from shims.files.pages import Page, Word

PAGE_LEVEL = 6  # of compression
PACK_BYTES = 1 << 20  # compressed at once: a page is in memory once, and no more
PICTURE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"),
)


def write_document(pages: Iterator[Page], name: str, folder: str) -> str:
    """Write the pages into a new file in a folder, named after ``name``; return its path.

    No file is left if that fails.  Raises PagesError, what ``pages`` raises, OSError.
    """
    page = next(pages, None)
    if page is None:
        raise PagesError("the sandbox found no pages in the document")
    stem, ending = os.path.splitext(os.path.basename(name))
    picture = ending.lower() in PICTURE_ENDINGS
    path, out = fresh_file(folder, stem, ".safe.png" if picture else ".safe.pdf")
    try:
        with out:
            if picture:
                write_png(out, page)
                del page
                for _ in pages:
                    pass
            else:
                pdf = PdfWriter(out)
                while page is not None:
                    # guard: room for a sandbox's page
                    require_room(out.fileno(), len(page[2]), KEEP_FREE_BYTES)
                    pdf.add(page)
                    del page  # before there is another one in memory
                    page = next(pages, None)
                pdf.finish()
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return path


def fresh_file(folder: str, stem: str, ending: str) -> Tuple[str, IO[bytes]]:
    """Make a file of a name that is free; never another file's.  Raises OSError."""
    for number in itertools.count(1):
        name = f"{stem}{'' if number == 1 else f'-{number}'}{ending}"
        path = os.path.join(folder, name)
        with suppress(FileExistsError):
            return path, open(path, "xb")
    raise AssertionError


def write_png(out: IO[bytes], page: Page) -> None:
    """Write a picture; its words are left out."""
    # Late, as everywhere in this program.
    import zlib

    def chunk(kind: bytes, data: bytes) -> None:
        body = kind + data
        out.write(
            struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
        )

    width, height, rgb, _ = page
    row = width * 3
    rows = (b"\0" + rgb[at : at + row] for at in range(0, len(rgb), row))
    out.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    for packed in compressed(rows):
        chunk(b"IDAT", packed)
    chunk(b"IEND", b"")


def compressed(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield one zlib stream of all pieces, in pieces."""
    import zlib

    packer = zlib.compressobj(PAGE_LEVEL)
    for piece in pieces:
        packed = packer.compress(piece)
        if packed:
            yield packed
    yield packer.flush()


class PdfWriter:
    """A PDF file, written page by page."""

    def __init__(self, out: IO[bytes], dpi: int = PAGE_DPI) -> None:
        self._out = out
        self._points = 72.0 / dpi
        """Of a pixel."""
        self._at = 0
        self._offsets: Dict[int, int] = {}
        self._pages: List[int] = []
        self._next = 4  # 1 is the catalogue, 2 the pages, 3 the font
        self._write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")

    def add(self, page: Page) -> None:
        """Write a page to the PDF: its picture, and its words as invisible text."""
        image, content, number = self._next, self._next + 2, self._next + 4
        self._next += 5
        width, height, pixels, words = page
        wide, high = width * self._points, height * self._points
        grey = len(pixels) == width * height
        self._stream(
            image,
            f"/Type /XObject /Subtype /Image /Width {width} "
            f"/Height {height} /ColorSpace /Device{'Gray' if grey else 'RGB'} /BitsPerComponent 8",
            pixels,
        )
        drawn = f"q {wide:.2f} 0 0 {high:.2f} 0 0 cm /I Do Q\n".encode()
        found = b"".join(_drawn_word(word, height, self._points) for word in words)
        self._stream(content, "", drawn + b"BT 3 Tr\n" + found + b"ET\n")
        self._object(
            number,
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {wide:.2f} {high:.2f}] "
            f"/Contents {content} 0 R /Resources << /XObject << /I {image} 0 R >> "
            f"/Font << /F 3 0 R >> >> >>".encode(),
        )
        self._pages.append(number)

    def finish(self) -> None:
        """Write the part of the file after the pages."""
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
        """Write a stream, and after it its length, an object of the next number."""
        head = f"{words} /Filter /FlateDecode /Length {number + 1} 0 R"
        self._offsets[number] = self._at
        self._write(f"{number} 0 obj\n<< {head} >>\nstream\n".encode())
        start, view = self._at, memoryview(data)
        pieces = (view[at : at + PACK_BYTES] for at in range(0, len(view), PACK_BYTES))
        for packed in compressed(pieces):
            self._write(packed)
        size = self._at - start
        self._write(b"\nendstream\nendobj\n")
        self._object(number + 1, b"%d" % size)

    def _object(self, number: int, body: bytes) -> None:
        self._offsets[number] = self._at
        self._write(f"{number} 0 obj\n".encode() + body + b"\nendobj\n")

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._at += len(data)


def _drawn_word(word: Word, page_height: int, points: float) -> bytes:
    """Return the operators of an invisible word, as wide and high as its pixels.

    ``points``: of a pixel.
    """
    left, top, width, height, told = word
    text = told.encode("cp1252", "replace")
    # In hexadecimal digits: no character of a word is one of the language's.
    digits = text.hex().encode()
    size = max(height * points, 1.0)
    x, y = left * points, (page_height - top - height) * points
    # Helvetica's characters are half as wide as high, on average.
    scale = 100 * width * points / max(len(text) * size * 0.5, 1)
    place = f"/F {size:.2f} Tf {scale:.0f} Tz 1 0 0 1 {x:.2f} {y:.2f} Tm <"
    return place.encode() + digits + b"> Tj\n"
