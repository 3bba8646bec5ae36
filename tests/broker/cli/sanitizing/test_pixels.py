"""Pages that a sandbox writes: what is taken, and what is not."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib

import pytest

from broker.cli.sanitizing import pixels
from broker.cli.sanitizing.pixels import MAGIC, Page, Word, read_pages
from broker.cli.sanitizing.writing import PdfWriter, write_png
from broker.core.errors import PeerError, UpstreamError
from shims.files import sanitizing as shim

END = struct.pack(">cIII", b"E", 0, 0, 0)
RED = b"\xff\0\0" * 6


def page(kind=b"P", width=3, height=2, words=0, rgb=RED, more=b""):
    return struct.pack(">cIII", kind, width, height, words) + rgb + more


def test_both_sides_have_the_same_form():
    assert shim.PIXELS_MAGIC == MAGIC
    assert shim.WORDS_MOST == pixels.WORDS


def test_pages_and_words_are_read():
    word = struct.pack(">HHHHB", 1, 2, 3, 4, 5) + "a\x1bb)\u202e"[:4].encode() + b"\xff"
    found = list(read_pages(io.BytesIO(MAGIC + page(words=1, more=word) + END)))
    assert found == [Page(3, 2, RED, (Word(1, 2, 3, 4, "a?b)\ufffd"),))]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.4 and more of it, which is no page",
        MAGIC,
        MAGIC + page()[:-1],
        MAGIC + page(kind=b"Y") + END,
        MAGIC + page(width=0) + END,
        MAGIC + page(width=pixels.SIDE + 1) + END,
        MAGIC + page(width=10_000, height=10_000) + END,
        MAGIC + page(width=1 << 31, height=1 << 31) + END,
        MAGIC + page(words=pixels.WORDS + 1) + END,
        MAGIC + page(words=1, more=struct.pack(">HHHHB", 0, 0, 0, 0, 200)) + END,
        MAGIC + page() * (pixels.PAGES + 1) + END,
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(PeerError):
        for _ in read_pages(io.BytesIO(data)):
            pass


def test_a_reason_is_escaped_and_short():
    said = struct.pack(">cIII", b"X", 1 << 30, 0, 0) + b"\x1b[31m" + b"no " * 1000
    with pytest.raises(UpstreamError) as found:
        list(read_pages(io.BytesIO(MAGIC + said)))
    assert "\x1b" not in str(found.value)
    assert len(str(found.value)) < 500


def test_a_word_adds_nothing_to_the_language_of_the_page():
    out = io.BytesIO()
    pdf = PdfWriter(out)
    pdf.add(Page(3, 2, RED, (Word(0, 0, 9, 9, ") Tj /Evil Do ("),)))
    pdf.finish()
    streams = out.getvalue().split(b"stream\n")
    content = zlib.decompress(streams[3].split(b"\nendstream")[0])
    assert b"Evil" not in content
    assert b"(" not in content
    assert b") Tj /Evil Do (".hex().encode() in content


def test_a_picture_is_the_same_pixels():
    gi = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    write_png(out, Page(3, 2, RED, ()))
    read = gi.open(io.BytesIO(out.getvalue()))
    assert (read.size, read.mode, read.tobytes()) == ((3, 2), "RGB", RED)


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs poppler-utils")
def test_words_of_the_new_document_are_found(tmp_path):
    path = tmp_path / "a.pdf"
    with path.open("wb") as out:
        pdf = PdfWriter(out)
        for text in ("Grüße", "second"):
            words = (Word(30, 30, 120, 24, text),)
            pdf.add(Page(300, 200, b"\xff" * 180_000, words))
        pdf.finish()
    told = subprocess.run(
        ["pdftotext", str(path), "-"], stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert told.stdout.decode().split() == ["Grüße", "second"]
