"""``brokerctl sanitize`` with real documents, programs and a real box."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from contextlib import asynccontextmanager

import pytest

from shims.files.page_writers import write_png
from tests.kit.brokerctl import brokerctl
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.plain_guests import plain
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, requires("pdftoppm")]
RECORD = """\
class = "disposable"
display = "none"
[launch]
kind = "bwrap"
"""
# A page with a word, and a program that a reader would start.
PDF = b"""%PDF-1.4
1 0 obj << /Type /Catalog /Pages 2 0 R /OpenAction 5 0 R >> endobj
2 0 obj << /Type /Pages /Kids [3 0 R] /Count 1 >> endobj
3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 300 100] /Contents 4 0 R
/Resources << /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>
>> endobj
4 0 obj << /Length 43 >> stream
BT /F 40 Tf 20 30 Td (Harmless) Tj ET
endstream endobj
5 0 obj << /S /JavaScript /JS (app.launchURL("http://evil.example")) >> endobj
trailer << /Root 1 0 R >>
"""


@asynccontextmanager
async def documents():
    async with world(image=False) as w:
        w.write_record("sanitize", RECORD)
        folder = w.base / "documents"
        folder.mkdir()
        yield w, folder


async def test_a_pdf_becomes_pixels_and_words():
    async with documents() as (w, folder):
        (folder / "a.pdf").write_bytes(PDF)
        for name in ("a.safe.pdf", "a-2.safe.pdf"):
            told = await brokerctl("sanitize", str(folder / "a.pdf"), env=w.environ)
            assert (told.code, told.err) == (0, ""), told
            assert told.lines == [str(folder / name)]
        made = (folder / "a.safe.pdf").read_bytes()
        assert b"JavaScript" not in made
        assert b"OpenAction" not in made
        assert (folder / "a.pdf").read_bytes() == PDF
        shown = subprocess.run(
            ["pdftoppm", "-r", "72", str(folder / "a.safe.pdf")],
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        ).stdout
        assert shown.split()[1] == b"300"
        assert 500 < sum(value < 100 for value in shown[15:]) < 30_000, "black letters"
        if shutil.which("tesseract"):
            text = subprocess.run(
                ["pdftotext", str(folder / "a.safe.pdf"), "-"],
                stdout=subprocess.PIPE,
                check=True,
                timeout=60,
            ).stdout
            assert text.split() == [b"Harmless"]


@pytest.mark.skipif(
    shutil.which("convert") is None and shutil.which("ffmpeg") is None,
    reason="cannot convert the image with imagemagick or ffmpeg",
)
async def test_a_picture_becomes_a_picture():
    async with documents() as (w, folder):
        with (folder / "red.png").open("wb") as out:
            write_png(out, (40, 30, b"\xff\0\0" * 1200, ()))
            out.write(b"what a reader of pictures does not show")
        told = await brokerctl("sanitize", str(folder / "red.png"), env=w.environ)
        assert told.code == 0, told
        made = (folder / "red.safe.png").read_bytes()
        assert b"what a reader" not in made
        with io.BytesIO() as plain:
            write_png(plain, (40, 30, b"\xff\0\0" * 1200, ()))
            assert made == plain.getvalue()


async def test_a_file_manager_hands_over_an_address():
    """Nautilus: a line break of a name does not begin another file."""
    async with documents() as (w, folder):
        (folder / "a\nb.pdf").write_bytes(PDF)
        address = f"file://{folder}/a%0Ab.pdf"
        told = await brokerctl("sanitize", "--", address, env=w.environ)
        assert told.code == 0, told
        assert (folder / "a\nb.safe.pdf").exists()


async def test_poster_becomes_a_page_of_its_shape():
    """It became a single pixel, and 'done'."""
    async with documents() as (w, folder):
        poster = PDF.replace(b"[0 0 300 100]", b"[0 0 14400 4800]")
        (folder / "a.pdf").write_bytes(poster)
        answer = await brokerctl("sanitize", str(folder / "a.pdf"), env=w.environ)
        assert (answer.code, answer.err) == (0, ""), answer
        command = ["pdfinfo", str(folder / "a.safe.pdf")]
        sizes = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        (line,) = (row for row in sizes.decode().splitlines() if "Page size" in row)
        wide, high = float(line.split()[2]), float(line.split()[4])
        assert wide > 6000
        assert wide == pytest.approx(3 * high, rel=0.01)
        (folder / "empty.pdf").write_bytes(b"")
        answer = await brokerctl("sanitize", str(folder / "empty.pdf"), env=w.environ)
        assert answer.code == 1
        assert "the document is empty" in answer.err


async def test_what_is_not_a_document_makes_nothing():
    async with documents() as (w, folder):
        (folder / "bad.pdf").write_bytes(b"%PDF-1.4\nnothing of it")
        told = await brokerctl("sanitize", str(folder / "bad.pdf"), env=w.environ)
        assert told.code == 1, told
        assert "the sandbox reported: pdfinfo failed" in told.err
        assert [one.name for one in folder.iterdir()] == ["bad.pdf"]


async def test_a_sandbox_that_keeps_or_sends_anything_is_refused():
    async with documents() as (w, folder):
        (folder / "a.pdf").write_bytes(PDF)
        for text, why in (
            (RECORD.replace("disposable", "persistent"), "has the class"),
            (f'{RECORD}network = "user"\n', "has a network"),
        ):
            w.write_record("other", text)
            told = await brokerctl(
                *("sanitize", "--in", "other", str(folder / "a.pdf")), env=w.environ
            )
            assert (told.code, why in told.err) == (1, True), told
        assert not w.events("lease.begin")


SHARED = """\
class = "persistent"
display = "none"
[launch]
kind = "bwrap"
bind_read_write = ["{folder}"]
"""


@asynccontextmanager
async def shared_documents():
    """The documents, their folder being one that a sandbox may write to."""
    async with documents() as (w, folder):
        w.write_record("writer", SHARED.format(folder=folder))
        yield w, folder


async def test_a_sandboxs_link_to_the_users_document_is_not_followed():
    """The careful user makes a harmless copy of what a sandbox has left: of their own."""
    async with shared_documents() as (w, folder):
        private = w.base / "private"
        private.mkdir()
        (private / "salary.pdf").write_bytes(PDF)
        (folder / "invoice.pdf").symlink_to(private / "salary.pdf")
        (folder / "sub").symlink_to(private)
        os.mkfifo(folder / "pipe.pdf")
        (folder / "real.pdf").write_bytes(PDF)
        for words, why in (
            ([folder / "invoice.pdf"], "is a link that a sandbox may have created"),
            ([folder / "sub/salary.pdf"], "is a link that a sandbox may have created"),
            (
                ["--to", folder / "sub", folder / "real.pdf"],
                "is a link that a sandbox may have created",
            ),
            ([folder / "pipe.pdf"], "is not a regular file"),
            ([folder / "none.pdf"], "No such file"),
        ):
            told = await brokerctl("sanitize", *map(str, words), env=w.environ)
            assert (told.code, why in told.err) == (1, True), told
            assert (told.out, "Traceback" in told.err) == ("", False)
        assert not w.events("lease.begin")
        assert [one.name for one in private.iterdir()] == ["salary.pdf"]


async def test_a_copy_of_a_shared_document_lies_where_no_sandbox_writes():
    """The sandbox would replace it before the user opens it."""
    async with shared_documents() as (w, folder):
        (folder / "a.pdf").write_bytes(PDF)
        environ = {**w.environ, "HOME": str(w.base / "home")}
        incoming = w.base / "home/Incoming/sanitize"
        told = await brokerctl("sanitize", str(folder / "a.pdf"), env=environ)
        assert (told.code, told.err) == (0, ""), told
        assert told.lines == [str(incoming / "a.safe.pdf")]
        assert (incoming / "a.safe.pdf").read_bytes().startswith(b"%PDF-")
        told = await brokerctl(
            *("sanitize", "--to", str(folder), str(folder / "a.pdf")), env=environ
        )
        assert (told.code, told.lines) == (0, [str(folder / "a.safe.pdf")]), told
        assert "replace the new document before you open it" in told.err
        text = SHARED.format(folder=incoming.parent)
        w.write_record("incoming", text)
        told = await brokerctl("sanitize", str(folder / "a.pdf"), env=environ)
        assert (told.code, "specify a directory" in told.err) == (1, True), told


CALLED = """\
vitrail.Call  +sanitize  work  reader  allow
"""
SERVICE = """\
[services.sanitize]
command = ["vitrail-sanitize"]
"""


@requires("waypipe")
async def test_a_sandbox_has_its_document_made_harmless_by_a_call():
    """What the other one gives back is pixels; the caller writes the new document."""
    async with documents() as (w, _):
        w.write_rules(CALLED)
        async with plain(w, "work", "reader", tops={"reader": SERVICE}) as guests:
            work = guests["work"]
            (work.home / "a.pdf").write_bytes(PDF)
            (work.home / "bad.pdf").write_bytes(b"%PDF-1.4\nnothing of it")
            made = "vitrail-harmless -t reader"
            code, said = await work.script(f"cd {work.home}; {made} a.pdf bad.pdf")
            assert (code, "a.safe.pdf\n" in said) == (1, True), said
            assert "bad.pdf: the sandbox reported: pdfinfo failed" in said
            written = (work.home / "a.safe.pdf").read_bytes()
            assert (written[:5], b"JavaScript" in written) == (b"%PDF-", False)
            code, said = await work.script(f"{made} {work.home}/none.pdf")
            assert (code, "No such file" in said) == (1, True), said
            code, said = await work.script(f"{made[:-6]}vault {work.home}/a.pdf")
            assert (code, "refused" in said or "no rule" in said) == (1, True), said
            left = {one.name for one in work.home.glob("*.pdf")}
            assert left == {"a.pdf", "bad.pdf", "a.safe.pdf"}
