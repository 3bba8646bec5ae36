"""Pages that a sandbox writes: accepted and rejected ones."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib

import pytest

from broker.cli.transfer.sanitize import NewDocumentFolder, sanitize
from broker.core.errors import VitrailError
from shims.files import page_writers, pages
from shims.files.page_writers import PdfWriter, write_png
from shims.files.pages import (
    PIXELS_MAGIC,
    NoPagesError,
    PagesError,
    read_pages,
)
from shims.files.protocol import TransferError

END = struct.pack(">cIII", b"E", 0, 0, 0)
RED = b"\xff\0\0" * 6


def page(kind=b"P", width=3, height=2, words=0, rgb=RED, more=b""):
    return struct.pack(">cIII", kind, width, height, words) + rgb + more


def test_pages_and_words_are_read():
    word = struct.pack(">HHHHB", 1, 2, 3, 4, 5) + "a\x1bb)\u202e"[:4].encode() + b"\xff"
    found = list(read_pages(io.BytesIO(PIXELS_MAGIC + page(words=1, more=word) + END)))
    assert found == [(3, 2, RED, ((1, 2, 3, 4, "a?b)\ufffd"),))]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.4 and more of it, which is no page",
        PIXELS_MAGIC,
        PIXELS_MAGIC + page()[:-1],
        PIXELS_MAGIC + page(kind=b"Y") + END,
        PIXELS_MAGIC + page(words=pages.WORDS_MOST + 1) + END,
        PIXELS_MAGIC + page(words=1, more=struct.pack(">HHHHB", 0, 0, 0, 0, 200)) + END,
        PIXELS_MAGIC + page() * (pages.PAGES_MOST + 1) + END,
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(PagesError):
        for _ in read_pages(io.BytesIO(data)):
            pass


WORD = struct.pack(">HHHHB", 0, 0, 1, 1, 1) + b"a"


@pytest.mark.parametrize(
    "data",
    [
        page(kind=b"Y", rgb=bytes(6)),
        page(kind=b"G", rgb=bytes(6)),
        page(words=pages.WORDS_MOST + 1, more=WORD * (pages.WORDS_MOST + 1)),
    ],
    ids=["unknown", "grey", "words"],
)
def test_whole_page_of_another_kind_or_with_too_many_words_is_refused(data):
    """All that was announced is there, and the end after it."""
    with pytest.raises(PagesError, match="wrote data that are not a page"):
        list(read_pages(io.BytesIO(PIXELS_MAGIC + data + END)))


def test_page_with_as_many_words_as_allowed_is_read():
    data = page(words=pages.WORDS_MOST, more=WORD * pages.WORDS_MOST)
    (found,) = read_pages(io.BytesIO(PIXELS_MAGIC + data + END))
    assert len(found[3]) == pages.WORDS_MOST


@pytest.mark.parametrize(
    ("width", "height"),
    [(0, 2), (pages.PAGE_SIDE + 1, 2), (10_000, 10_000), (1 << 31, 1 << 31)],
)
def test_pages_of_other_sizes_are_refused_before_they_are_read(width, height):
    with pytest.raises(
        PagesError, match=f"{width} x {height} pixels exceeds the limit"
    ):
        next(read_pages(io.BytesIO(PIXELS_MAGIC + page(b"P", width, height))))


def test_pages_are_compressed_in_pieces(monkeypatch):
    """Of many, as of one, come the same pixels."""
    monkeypatch.setattr(page_writers, "PACK_BYTES", 5)
    out = io.BytesIO()
    pdf = PdfWriter(out)
    pdf.add((3, 2, RED, ()))
    pdf.finish()
    made = out.getvalue()
    packed = made.split(b"stream\n")[1].removesuffix(b"\nend")
    assert zlib.decompress(packed) == RED
    assert b"/Length 5 0 R" in made
    assert b"5 0 obj\n%d\nendobj" % len(packed) in made


@pytest.mark.parametrize("dpi", [72, 144])
def test_a_word_lies_over_its_pixels_at_each_resolution(dpi):
    out = io.BytesIO()
    pdf = PdfWriter(out, dpi)
    pdf.add((288, 144, bytes(3 * 288 * 144), ((72, 36, 144, 72, "a"),)))
    content = zlib.decompress(out.getvalue().split(b"stream\n")[3].split(b"\nend")[0])
    points = 72 / dpi
    assert b"/F %.2f Tf" % (72 * points) in content
    assert b"1 0 0 1 %.2f %.2f Tm" % (72 * points, 36 * points) in content


def test_all_pages_together_are_bounded(monkeypatch):
    monkeypatch.setattr(pages, "ALL_PIXELS", 11)
    found = read_pages(io.BytesIO(PIXELS_MAGIC + page() + page() + END))
    next(found)
    with pytest.raises(PagesError, match="all pages together exceed the limit"):
        next(found)


def test_a_document_leaves_room(monkeypatch, tmp_path):
    """A document took its sandbox over, and wrote 192 GB beside it."""
    monkeypatch.setattr(page_writers, "KEEP_FREE_BYTES", 1 << 60)
    found = read_pages(io.BytesIO(PIXELS_MAGIC + page() + END))
    with pytest.raises(TransferError, match="no disk space for"):
        page_writers.write_document(found, "a.pdf", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_no_module_of_the_documents_directory_is_loaded(monkeypatch, tmp_path):
    """A sandbox sends a document, and rich_click.py beside it."""
    (tmp_path / "rich_click.py").write_text("open('ran', 'w')\n")
    (tmp_path / "a.pdf").write_text("%PDF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    document = tmp_path / "a.pdf"
    with (
        NewDocumentFolder(document, "sanitize", tmp_path, ()) as result,
        pytest.raises(VitrailError),
    ):
        sanitize(document, "sanitize", result)
    assert not (tmp_path / "ran").exists()


def test_a_reason_is_escaped_and_short():
    said = struct.pack(">cIII", b"X", 1 << 30, 0, 0) + b"\x1b[31m" + b"no " * 1000
    with pytest.raises(NoPagesError) as found:
        list(read_pages(io.BytesIO(PIXELS_MAGIC + said)))
    assert "\x1b" not in str(found.value)
    assert len(str(found.value)) < 500


def test_a_word_adds_nothing_to_the_language_of_the_page():
    out = io.BytesIO()
    pdf = PdfWriter(out)
    pdf.add((3, 2, RED, ((0, 0, 9, 9, ") Tj /Evil Do ("),)))
    pdf.finish()
    streams = out.getvalue().split(b"stream\n")
    content = zlib.decompress(streams[3].split(b"\nendstream")[0])
    assert b"Evil" not in content
    assert b"(" not in content
    assert b") Tj /Evil Do (".hex().encode() in content


def test_a_picture_is_the_same_pixels():
    gi = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    write_png(out, (3, 2, RED, ()))
    read = gi.open(io.BytesIO(out.getvalue()))
    assert (read.size, read.mode, read.tobytes()) == ((3, 2), "RGB", RED)


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs poppler-utils")
def test_words_of_the_new_document_are_found(tmp_path):
    path = tmp_path / "a.pdf"
    with path.open("wb") as out:
        pdf = PdfWriter(out)
        for text in ("Grüße", "second"):
            words = ((30, 30, 120, 24, text),)
            pdf.add((300, 200, b"\xff" * 180_000, words))
        pdf.finish()
    told = subprocess.run(
        ["pdftotext", str(path), "-"], stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert told.stdout.decode().split() == ["Grüße", "second"]
