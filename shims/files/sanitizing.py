"""``vitrail-sanitize``: a document becomes the pixels of its pages, and their words.

It runs where the document can do no harm: in a sandbox that ends afterwards.  It reads
the document from standard input, and writes for each page its size, its pixels as bytes
of red, green and blue, and the words that tesseract(1) finds in them, if it is there.
A new document is made of them elsewhere (``pages.py``, ``page_writers.py``): by the
user's command, or in another sandbox, which calls it as a service (``harmless``).
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from shims.files.asking import take_option
from shims.files.calling import call_service
from shims.files.page_writers import write_document
from shims.files.pages import (
    PAGE_DPI,
    PAGE_PIXELS,
    PAGE_SIDE,
    PAGES_MOST,
    PIXELS_MAGIC,
    PIXELS_PAGE,
    PIXELS_WORD,
    REASON_BYTES,
    WORDS_MOST,
    BrokeOffError,
    read_pages,
)
from shims.files.protocol import EXIT_FAILED, TransferError, tell

if TYPE_CHECKING:
    from typing import IO, Iterator, List, Tuple

WORD_MOST_BYTES = 200
POINTS_MOST = 1e6  # of a page's side
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
PDF_PAGE_LINE = re.compile(rb"^Page +(\d+) (rot|MediaBox): +(.*)$", re.MULTILINE)
PPM_HEAD = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")
SANITIZE_USAGE = "usage: vitrail-sanitize [NAME] <DOCUMENT"
SANITIZE_SERVICE = "sanitize"
HARMLESS_USAGE = "usage: vitrail-harmless [--target SANDBOX] FILE…"


def harmless(words: List[str]) -> int:
    """Have files made harmless: ``vitrail-harmless [--target SANDBOX] FILE…``.

    The service ``sanitize`` of another sandbox reads each; what it gives back is pixels.
    """
    target, rest = take_option(words, "--target", "-t", usage=HARMLESS_USAGE)
    if not rest:
        raise TransferError(HARMLESS_USAGE)
    made = [made_harmless(path, target) for path in rest]
    return 0 if all(made) else EXIT_FAILED


def made_harmless(path: str, target: str) -> bool:
    """Print the new document's path, or why there is none."""
    try:
        print(harmless_copy(path, target))
    except (TransferError, OSError) as error:
        tell(f"vitrail: {path}: {error}")
        return False
    return True


def harmless_copy(path: str, target: str) -> str:
    """Make the new document beside a file; returns its path.

    Raises TransferError, OSError.
    """
    import threading

    refused: List[TransferError] = []
    read, write = os.pipe()

    def call() -> None:
        try:
            call_service(target, SANITIZE_SERVICE, "", file.fileno(), write)
        except TransferError as error:
            refused.append(error)
            os.close(write)

    with open(path, "rb") as file, os.fdopen(read, "rb") as untrusted_pages:
        calling = threading.Thread(target=call, daemon=True)
        calling.start()
        try:
            made = write_document(
                read_pages(untrusted_pages), path, os.path.dirname(path)
            )
        except BrokeOffError:
            calling.join()
            if refused:
                raise refused[0] from None
            raise
        calling.join()
    return made


def sanitize(words: List[str]) -> int:
    """Send pixels of the document on input: ``vitrail-sanitize [NAME]``."""
    import shutil
    import tempfile

    if len(words) > 1:
        raise TransferError(SANITIZE_USAGE)
    ending = os.path.splitext("".join(words))[1].lower()
    if not re.fullmatch(r"\.[a-z0-9]{1,5}", ending):
        ending = ""
    out = sys.stdout.buffer
    out.write(PIXELS_MAGIC)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        # What programs say is told at the end: a box has one way out for both.
        os.dup2(said.fileno(), 2)
        document = os.path.join(folder, f"document{ending}")
        with open(document, "wb") as file, os.fdopen(0, "rb", closefd=False) as given:
            shutil.copyfileobj(given, file)
        try:
            write_pages(document, folder, out)
        except TransferError as error:
            said.seek(0)
            words = [
                str(error),
                *said.read(REASON_BYTES).decode("utf-8", "replace").split(),
            ]
            reason = " ".join(words).encode()[:REASON_BYTES]
            out.write(PIXELS_PAGE.pack(b"X", len(reason), 0, 0) + reason)
            return error.code
        finally:
            out.flush()
    return 0


def write_pages(document: str, folder: str, out: IO[bytes]) -> None:
    """Send all pages of a document, and their end.  Raises TransferError."""
    number = 0
    for width, height, pixels in pages_of(document, folder):
        found = words_in(width, height, pixels)
        out.write(PIXELS_PAGE.pack(b"P", width, height, len(found)))
        out.write(pixels)
        for box, text in found:
            out.write(PIXELS_WORD.pack(*box, len(text)) + text)
        number += 1
    if not number:
        raise TransferError("the document has no pages")
    out.write(PIXELS_PAGE.pack(b"E", 0, 0, 0))


def pages_of(document: str, folder: str) -> Iterator[Tuple[int, int, bytes]]:
    """Yield each page: width, height and pixels.  Raises TransferError."""
    with open(document, "rb") as file:
        start = file.read(16)
    if not start:
        raise TransferError("the document is empty")
    if start.startswith(PICTURES) or start[8:12] == b"WEBP":
        yield picture_page(document)
        return
    if not start.startswith(b"%PDF-"):
        document = office_pdf(document, folder)
    yield from pdf_pages(document, PAGE_DPI, PAGE_PIXELS)


def pdf_pages(
    document: str, dpi: int, pixels_most: int
) -> Iterator[Tuple[int, int, bytes]]:
    """Yield the pages of a PDF file, a large one with fewer dots an inch.

    Raises TransferError, also for a picture that is not of its page's size: for a page
    that is too large, pdftoppm(1) writes a single pixel and ends with success.
    """
    from itertools import groupby

    sizes = page_sizes(document)
    pages = enumerate(sizes, 1)
    for resolution, group in groupby(pages, lambda p: fit_dpi(p[1], dpi, pixels_most)):
        numbers = [number for number, _ in group]
        ends = ["-f", str(numbers[0]), "-l", str(numbers[-1])]
        command = ["pdftoppm", "-r", f"{resolution:g}", *ends, document]
        for number, page in enumerate(ppm_pages(command), numbers[0]):
            wide, high = sizes[number - 1]
            width, height, _ = page
            scale = resolution / 72
            # guard: the picture of a page has the size of the page
            if abs(width - wide * scale) > 2 or abs(height - high * scale) > 2:
                raise TransferError(
                    f"pdftoppm made {width} x {height} pixels of page {number}, "
                    f"which has {wide:g} x {high:g} points"
                )
            yield page


def fit_dpi(size: Tuple[float, float], dpi: int, pixels_most: int) -> float:
    """Return the dots an inch, at most ``dpi``, of a page that the reader accepts."""
    wide, high = size
    by_side = PAGE_SIDE * 72 / max(wide, high)
    by_pixels = (pixels_most * 72 * 72 / (wide * high)) ** 0.5
    fit = min(by_side, by_pixels) * 0.999  # a side is rounded up
    return dpi if fit >= dpi else round(fit - 0.005, 2)


def page_sizes(document: str) -> List[Tuple[float, float]]:
    """Return the width and height of each page as it is drawn, in points.

    One page more than the reader accepts at most.  Raises TransferError.
    """
    import subprocess

    last = str(PAGES_MOST + 1)
    command = ["pdfinfo", "-box", "-f", "1", "-l", last, document]
    try:
        answer = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            env=dict(os.environ, LC_ALL="C"),
            check=True,
        )
    except FileNotFoundError:
        raise TransferError("pdfinfo is not installed in this sandbox") from None
    except subprocess.CalledProcessError as error:
        raise TransferError(f"pdfinfo failed with code {error.returncode}") from None
    boxes, turned = {}, set()
    for number, name, text in PDF_PAGE_LINE.findall(answer.stdout):
        values = [float(value) for value in text.split()]
        if name == b"rot" and values[0] % 180 == 90:
            turned.add(number)
        elif name == b"MediaBox":
            boxes[number] = values[2] - values[0], values[3] - values[1]
    for number, (wide, high) in boxes.items():
        if not 0 < wide < POINTS_MOST or not 0 < high < POINTS_MOST:
            raise TransferError(
                f"page {int(number)} has {wide:g} x {high:g} points, which cannot be drawn"
            )
    return [box[::-1] if number in turned else box for number, box in boxes.items()]


def picture_page(path: str) -> Tuple[int, int, bytes]:
    """Return a picture, by the first program that reads it.  Raises TransferError."""
    options = ["-auto-orient", "-background", "white", "-flatten", "-depth", "8"]
    out = ["-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"]
    failed = ""
    for command in (
        ["magick", f"{path}[0]", *options, "ppm:-"],
        ["convert", f"{path}[0]", *options, "ppm:-"],
        ["ffmpeg", "-v", "error", "-i", path, *out],
    ):
        try:
            return next(ppm_pages(command))
        except (TransferError, StopIteration) as error:  # noqa: PERF203 -- three programs
            failed += f" {error}"
    raise TransferError(f"cannot convert the image with imagemagick or ffmpeg:{failed}")


def office_pdf(document: str, folder: str) -> str:
    """Convert an office document to a PDF file.  Raises TransferError."""
    import subprocess

    out = os.path.join(folder, "printed")
    words = ["--headless", "--norestore", "--convert-to", "pdf", "--outdir", out]
    profile = f"-env:UserInstallation=file://{folder}/profile"
    try:
        subprocess.call(
            ["soffice", profile, *words, document],
            stdin=subprocess.DEVNULL,
            stdout=2,
        )
    except FileNotFoundError:
        raise TransferError("libreoffice is not installed in this sandbox") from None
    made = os.listdir(out) if os.path.isdir(out) else []
    if len(made) != 1:
        raise TransferError("libreoffice cannot read the document")
    return os.path.join(out, made[0])


def ppm_pages(command: List[str]) -> Iterator[Tuple[int, int, bytes]]:
    """Yield the pictures that a program writes as PPM.  Raises TransferError."""
    import subprocess

    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise TransferError(f"{command[0]} is not installed in this sandbox") from None
    with child:
        if child.stdout is None:
            raise TransferError("the program has no standard output")
        while True:
            head = read_head(child.stdout)
            if not head:
                break
            match = PPM_HEAD.fullmatch(head)
            if match is None:
                raise TransferError(f"{command[0]} did not write an image")
            width, height = int(match.group(1)), int(match.group(2))
            yield width, height, child.stdout.read(width * height * 3)
    if child.returncode:
        raise TransferError(f"{command[0]} failed with code {child.returncode}")


def read_head(source: IO[bytes]) -> bytes:
    """Return the head of a PPM picture: up to the blank after its fourth word."""
    head = b""
    while len(head) < 64:
        byte = source.read(1)
        head += byte
        if not byte or (byte.isspace() and len(head.split()) == 4):
            break
    return head


def words_in(
    width: int, height: int, pixels: bytes
) -> List[Tuple[Tuple[int, int, int, int], bytes]]:
    """Return the words of a page with their places; none without tesseract(1)."""
    import subprocess

    picture = b"P6 %d %d 255\n%b" % (width, height, pixels)
    command = ["tesseract", "stdin", "stdout", "--dpi", str(PAGE_DPI), "tsv"]
    try:
        told = subprocess.run(
            command,
            input=picture,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return []
    found = []
    for line in told.stdout.decode("utf-8", "replace").splitlines()[1:]:
        column = line.split("\t")
        if len(column) != 12 or column[0] != "5" or not column[11].strip():
            continue
        left, top, wide, high = (min(int(value), 65535) for value in column[6:10])
        text = column[11].strip().encode()[:WORD_MOST_BYTES]
        found.append(((left, top, wide, high), text))
    return found[:WORDS_MOST]
