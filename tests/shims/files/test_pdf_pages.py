"""Pages of PDF files are drawn whole, at a resolution that the reader accepts.

If one fails, "done" is printed for a document whose pages are not in the new one.
"""

from __future__ import annotations

import io

import pytest

from shims.files import sanitizing
from shims.files.pages import (
    ALL_PIXELS,
    PAGE_DPI,
    PAGE_PIXELS,
    PAGE_SIDE,
    PAGES_MOST,
    PIXELS_MAGIC,
    PIXELS_PAGE,
    PRINT_DPI,
    PRINT_PIXELS,
    PagesError,
    read_pages,
)
from shims.files.printing import draw_pages
from shims.files.protocol import TransferError
from shims.files.sanitizing import fit_dpi, pages_of, pdf_pages
from tests.kit.needs import requires


def write_pdf(path, *boxes, more=""):
    """Write a PDF file with a page of each media box."""
    kids = " ".join(f"{n} 0 R" for n in range(3, 3 + len(boxes)))
    pages = [
        f"{n} 0 obj << /Type /Page /Parent 2 0 R /MediaBox [{box}] {more} >> endobj"
        for n, box in enumerate(boxes, 3)
    ]
    path.write_text(
        "%PDF-1.4\n1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj\n"
        f"2 0 obj << /Type /Pages /Kids [{kids}] /Count {len(boxes)} >> endobj\n"
        + "\n".join(pages)
        + "\ntrailer << /Root 1 0 R >>\n"
    )
    return str(path)


@requires("pdftoppm")
@pytest.mark.parametrize(
    ("box", "more", "size"),
    [
        ("0 0 72 144", "", (150, 300)),
        ("0 0 72 144", "/Rotate 90", (300, 150)),
        ("36 36 108 180", "/CropBox [40 40 60 60]", (150, 300)),
        ("0 0 1 1", "", (3, 3)),
    ],
)
def test_ordinary_page_is_drawn_as_before(tmp_path, box, more, size):
    path = write_pdf(tmp_path / "a.pdf", box, more=more)
    ((*drawn, pixels),) = pdf_pages(path, PAGE_DPI, PAGE_PIXELS)
    assert (tuple(drawn), len(pixels)) == (size, 3 * size[0] * size[1])


@pytest.mark.slow
@requires("pdftoppm")
def test_poster_and_receipt_are_drawn_smaller(tmp_path):
    """A side of 200 inches is the largest of PDF; pdftoppm made one pixel of it."""
    boxes = ("0 0 14400 14400", "0 0 72 72", "0 0 100 14000", "0 0 14400 3")
    path = write_pdf(tmp_path / "a.pdf", *boxes)
    sizes = [page[:2] for page in pdf_pages(path, PAGE_DPI, PAGE_PIXELS)]
    (poster, small, receipt, line) = sizes
    assert poster[0] == poster[1]
    assert 0.99 * PAGE_PIXELS < poster[0] * poster[1] <= PAGE_PIXELS
    assert small == (150, 150)
    assert 0.99 * PAGE_SIDE < receipt[1] <= PAGE_SIDE
    assert receipt[0] == pytest.approx(receipt[1] / 140, abs=2)
    assert 0.99 * PAGE_SIDE < line[0] <= PAGE_SIDE


@requires("pdftoppm")
def test_large_page_is_printed_smaller(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", "0 0 2384 3370")  # A0
    out = io.BytesIO()
    draw_pages(path, out)
    out.seek(0)
    (page,) = read_pages(out, grey=True, words_most=0, pixels_most=PRINT_PIXELS)
    assert page[0] * page[1] > 0.99 * PRINT_PIXELS


@requires("pdftoppm")
def test_picture_of_another_size_than_its_page_is_refused(tmp_path, monkeypatch):
    path = write_pdf(tmp_path / "a.pdf", "0 0 72 144")
    picture = (1, 1, b"abc")
    monkeypatch.setattr(sanitizing, "ppm_pages", lambda _: iter([picture]))
    with pytest.raises(
        TransferError, match=r"made 1 x 1 pixels of page 1, which has 72 x 144 points"
    ):
        list(pdf_pages(path, PAGE_DPI, PAGE_PIXELS))


@requires("pdftoppm")
def test_page_that_no_resolution_fits_is_refused(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", "0 0 72 72", "0 0 2000000 3")
    with pytest.raises(TransferError, match=r"page 2 has 2e\+06 x 3 points"):
        list(pdf_pages(path, PAGE_DPI, PAGE_PIXELS))


def test_empty_document_is_named_as_such(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(TransferError, match="the document is empty"):
        list(pages_of(str(tmp_path / "a.pdf"), str(tmp_path)))


@pytest.mark.parametrize("dpi", [PAGE_DPI, PRINT_DPI])
def test_resolution_is_lowered_only_if_needed(dpi):
    assert fit_dpi((595, 842), dpi, PAGE_PIXELS) == dpi


def test_limits_of_pages_are_in_the_messages(monkeypatch):
    page = PIXELS_PAGE.pack(b"P", 1, 1, 0) + b"abc"
    wide = PIXELS_PAGE.pack(b"P", PAGE_SIDE + 1, 1, 0)
    end = PIXELS_PAGE.pack(b"E", 0, 0, 0)
    with pytest.raises(PagesError, match=f"{PAGE_SIDE} of a side, {PAGE_PIXELS} of a"):
        list(read_pages(io.BytesIO(PIXELS_MAGIC + wide)))
    document = PIXELS_MAGIC + page * PAGES_MOST + end
    assert len(list(read_pages(io.BytesIO(document)))) == PAGES_MOST
    monkeypatch.setattr("shims.files.pages.ALL_PIXELS", 2)
    with pytest.raises(PagesError, match="exceed the limit of 2 pixels"):
        list(read_pages(io.BytesIO(document)))
    assert ALL_PIXELS > PAGE_PIXELS
