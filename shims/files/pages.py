"""The pages that a sandbox makes of a document: sizes, pixels, words.

Written by ``sanitizing.py``, in a sandbox that the document may have taken over, and read
where the new document is made: at the user's desktop, or in a sandbox that called.
Numbers of fixed size, raw pixels and short words: nothing here is decoded by more than
this page of code.

The program in the sandbox writes them; brokerctl, the sandbox that called, or the
jailed program of a session child reads them.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from shims.files.protocol import TransferError

if TYPE_CHECKING:
    from typing import IO, Iterator, Tuple

    # A word that was found in a page's pixels, the sandbox's claim: left, top, width,
    # height, text.
    Word = Tuple[int, int, int, int, str]
    # Width, height, pixels as bytes of red, green and blue, row by row, and words; one
    # byte for each pixel of a grey page.
    Page = Tuple[int, int, bytes, Tuple[Word, ...]]

PRINT_DPI = 300  # A4 in shades of grey has 9 MB
# Maximum pixels of a printed page: SRA3 (320 x 450 mm), in which an A3 has its margins.
PRINT_PIXELS = 21_000_000
PIXELS_MAGIC = b"vitrail pixels 1\n"
# b"P", width, height, number of words; b"G": the same in shades of grey, of which a
# pixel is one byte; b"E" at the end; b"X", bytes of the reason.
PIXELS_PAGE = struct.Struct(">cIII")
PIXELS_WORD = struct.Struct(">HHHHB")  # left, top, width, height, bytes of the word
REASON_BYTES = 1000
REASON_SHOWN = 400
PAGE_DPI = 150
PAGES_MOST = 1000  # of one document
# Pixels of a page's longer side: A0 at 150 dots an inch has half of it.
PAGE_SIDE = 16_384
PAGE_PIXELS = 64_000_000  # 192 MB in memory: a photograph, or A0 at 150 dots an inch
ALL_PIXELS = 4_000_000_000  # of all pages: 1000 of A4 have 2,200 million
WORDS_MOST = 5000  # of one page
# Pixels of a preview, which a question shows, and of its longer side.
PREVIEW_PIXELS = 40_000
PREVIEW_SIDE = 240


class PagesError(TransferError):
    """The data is not a valid stream of pages."""


class BrokeOffError(PagesError):
    """The stream of pages ended early."""


class NoPagesError(TransferError):
    """The sandbox reports why it made no pages."""


def read_pages(
    untrusted: IO[bytes],
    *,
    grey: bool = False,
    words_most: int = WORDS_MOST,
    pixels_most: int = PAGE_PIXELS,
) -> Iterator[Page]:
    """Yield the pages up to their end; ``grey``: some may have shades of grey only.

    No page is kept here, so that two are in memory only where the caller keeps one.

    Raises NoPagesError with the sandbox's reason, PagesError for anything else.
    """
    if _exactly(untrusted, len(PIXELS_MAGIC)) != PIXELS_MAGIC:
        raise PagesError("the sandbox did not write pages")
    total = 0
    for _ in range(PAGES_MOST + 1):  # and the end
        kind, width, height, word_count = PIXELS_PAGE.unpack(
            _exactly(untrusted, PIXELS_PAGE.size)
        )
        if kind == b"E":
            return
        if kind == b"X":
            text = _exactly(untrusted, min(width, REASON_BYTES)).decode(
                "utf-8", "replace"
            )
            raise NoPagesError(f"the sandbox reported: {_shown(text)[:REASON_SHOWN]}")
        # guard: the size of a sandbox's page
        if not (
            0 < width <= PAGE_SIDE
            and 0 < height <= PAGE_SIDE
            and width * height <= pixels_most
        ):
            raise PagesError(
                f"a page of {width} x {height} pixels exceeds the limit: {PAGE_SIDE} of a "
                f"side, {pixels_most} of a page"
            )
        # guard: the kind and words of a sandbox's page
        known = kind == b"P" or (grey and kind == b"G")
        if not known or word_count > words_most:
            raise PagesError("the sandbox wrote data that are not a page")
        total += width * height
        # guard: the pixels of all of a sandbox's pages
        if total > ALL_PIXELS:
            raise PagesError(
                f"all pages together exceed the limit of {ALL_PIXELS} pixels"
            )
        size = width * height * (3 if kind == b"P" else 1)
        # In this order: the pixels, then the words.
        yield (
            *(width, height, _exactly(untrusted, size)),
            tuple(_word(untrusted) for _ in range(word_count)),
        )
    # guard: the number of a sandbox's pages
    raise PagesError(f"the document has more than {PAGES_MOST} pages, the limit")


def describe_preview(page: Page) -> str:
    """Return a small picture of a page: its width and its shades of grey in base64.

    A pixel is the mean of all those of the page that it stands for, in their colours.
    """
    from binascii import b2a_base64

    width, height, pixels, _ = page
    depth = len(pixels) // (width * height)
    step = max(
        1,
        math.ceil(max(width / PREVIEW_SIDE, height / PREVIEW_SIDE)),
        math.ceil(math.sqrt(width * height / PREVIEW_PIXELS)),
    )
    columns, row_bytes = max(1, width // step), width * depth
    # guard: a preview leaves out no ink of the page
    offsets = [
        y * row_bytes + x
        for y in range(min(step, height))
        for x in range(min(step, width) * depth)
    ]
    small = bytearray()
    for top in range(0, max(1, height // step) * step, step):
        samples = [
            pixels[start : start + row_bytes : step * depth][:columns]
            for start in (top * row_bytes + offset for offset in offsets)
        ]
        small += bytes(sum(column) // len(samples) for column in zip(*samples))
    return f"{columns} {b2a_base64(bytes(small), newline=False).decode()}"


def _word(untrusted: IO[bytes]) -> Word:
    head = _exactly(untrusted, PIXELS_WORD.size)
    left, top, width, height, size = PIXELS_WORD.unpack(head)
    text = _exactly(untrusted, size).decode("utf-8", "replace")
    return left, top, width, height, _shown(text)


def _shown(untrusted_text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in untrusted_text)


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    # guard: a sandbox's page that breaks off
    if len(data) != size:
        raise BrokeOffError("the sandbox sent a truncated page")
    return data
