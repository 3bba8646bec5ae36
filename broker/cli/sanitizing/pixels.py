"""The pages that a sandbox makes of a document: sizes, pixels, words.

Written by ``shims/files/sanitizing.py``, by a program that the document may have taken
over.  Numbers of fixed size, raw pixels and short words: nothing here is decoded by more
than this page of code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from broker.core.errors import PeerError, UpstreamError
from broker.core.escape import printable

MAGIC = b"vitrail pixels 1\n"
_PAGE = struct.Struct(">cIII")
_WORD = struct.Struct(">HHHHB")
_REASON_BYTES = 1000
PAGES = 1000
"""Of one document."""
SIDE = 16_384
"""Pixels of a page's longer side: A0 at 150 dots an inch has half of it."""
PIXELS = 64_000_000
"""Of one page: 192 MB in memory."""
WORDS = 5000
"""Of one page."""


class BrokeOffError(PeerError):
    """The pages ended before their end."""


class Word(NamedTuple):
    """A word that was found in a page's pixels: the sandbox's claim."""

    left: int
    top: int
    width: int
    height: int
    text: str


class Page(NamedTuple):
    """One page: its pixels as bytes of red, green and blue, row by row."""

    width: int
    height: int
    rgb: bytes
    words: tuple[Word, ...]


def read_pages(untrusted: IO[bytes]) -> Iterator[Page]:
    """Yield the pages up to their end.

    Raises UpstreamError with the sandbox's reason, PeerError for anything else.
    """
    if _exactly(untrusted, len(MAGIC)) != MAGIC:
        raise PeerError("the sandbox wrote no pages")
    for _ in range(PAGES):
        kind, width, height, words = _PAGE.unpack(_exactly(untrusted, _PAGE.size))
        if kind == b"E":
            return
        if kind == b"X":
            text = _exactly(untrusted, min(width, _REASON_BYTES)).decode(
                "utf-8", "replace"
            )
            raise UpstreamError(f"the sandbox says: {printable(text, 400)}")
        # guard: the size of a sandbox's page
        if not (0 < width <= SIDE and 0 < height <= SIDE and width * height <= PIXELS):
            raise PeerError(f"a page of {width} x {height} pixels is not taken")
        # guard: the kind and words of a sandbox's page
        if kind != b"P" or words > WORDS:
            raise PeerError("the sandbox wrote something else than a page")
        rgb = _exactly(untrusted, width * height * 3)
        yield Page(width, height, rgb, tuple(_word(untrusted) for _ in range(words)))
    # guard: the number of a sandbox's pages
    raise PeerError(f"more than {PAGES} pages are not taken")


def _word(untrusted: IO[bytes]) -> Word:
    head = _exactly(untrusted, _WORD.size)
    left, top, width, height, size = _WORD.unpack(head)
    text = _exactly(untrusted, size).decode("utf-8", "replace")
    return Word(
        left, top, width, height, "".join(c if c.isprintable() else "?" for c in text)
    )


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    # guard: a sandbox's page that breaks off
    if len(data) != size:
        raise BrokeOffError("the sandbox broke off inside of a page")
    return data
