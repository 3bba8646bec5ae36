"""``vitrail-print`` and ``org.freedesktop.portal.Print``: paper of the user's desktop.

A document is drawn here, by pdftoppm(1), and what leaves the sandbox are the pixels of
its pages (``pages.py``).  So no program of the desktop reads a document of a sandbox: a
PDF file is written there (``own_files.keep_pages``), which the user sees and the printer prints.
Source: the documentation of XDG Desktop Portal.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from shims.files.asking import take_option
from shims.files.bus_messages import SENDER
from shims.files.bus_service import (
    DONE,
    PortalPart,
    own_descriptor,
    request_handle,
)
from shims.files.connection import BrokerConnection
from shims.files.openers import own_command
from shims.files.pages import PIXELS_MAGIC, PIXELS_PAGE, PRINT_DPI, PRINT_PIXELS
from shims.files.protocol import TransferError, frame
from shims.files.sanitizing import pdf_pages
from shims.files.sending import Content

if TYPE_CHECKING:
    from typing import IO, Any, ClassVar, Dict, List, Tuple

    from shims.files.bus_messages import BusMessage
    from shims.files.bus_service import Respond, Values

PRINT = "org.freedesktop.portal.Print"
PRINT_TOKEN = 1  # of a dialog: there is none here
TITLE_CHARS = 100
PRINT_USAGE = "usage: vitrail-print [--title TITLE] [--] [FILE.pdf…]"
VARIANTS = {str: "s", bool: "b", int: "i", float: "d"}


def print_documents(words: List[str]) -> int:
    """Print files or input: ``vitrail-print [--title TITLE] [FILE.pdf…]``."""
    title, paths = take_option(words, "--title", usage=PRINT_USAGE)
    if not paths:
        with os.fdopen(os.dup(0), "rb") as source:
            print_document(title or "document", source)
    for path in paths:
        with open(path, "rb") as source:
            print_document(title or os.path.basename(path), source)
    return 0


def print_document(title: str, source: IO[bytes]) -> None:
    """Have the desktop print a document's pages.  Raises TransferError, OSError."""
    import shutil
    import tempfile

    with tempfile.NamedTemporaryFile() as document, tempfile.TemporaryFile() as pages:
        shutil.copyfileobj(source, document)
        document.flush()
        document.seek(0)
        if document.read(5) != b"%PDF-":
            raise TransferError(f"{title} is not a PDF file")
        draw_pages(document.name, pages)
        size = pages.tell()
        pages.seek(0)
        connection = BrokerConnection("VITRAIL_CALL")
        with connection.socket:
            ask = {"type": "print", "name": title[:TITLE_CHARS], "size": size}
            connection.send(frame(ask))
            connection.wait("go")
            connection.queue(frame({"type": "file", "path": ["pages"], "size": size}))
            for _ in Content(pages.fileno(), title, size).take(connection.send_file):
                pass
            connection.queue(frame({"type": "end"}))
            connection.wait("done")


def draw_pages(document: str, out: IO[bytes]) -> None:
    """Write the pages of a document, and their end.  Raises TransferError."""
    number = 0
    out.write(PIXELS_MAGIC)
    for width, height, pixels in pdf_pages(document, PRINT_DPI, PRINT_PIXELS):
        red, kind = pixels[0::3], b"P"
        if red == pixels[1::3] and red == pixels[2::3]:
            pixels, kind = red, b"G"  # noqa: PLW2901 -- a third of its bytes
        out.write(PIXELS_PAGE.pack(kind, width, height, 0) + pixels)
        number += 1
    if not number:
        raise TransferError("the document has no pages")
    out.write(PIXELS_PAGE.pack(b"E", 0, 0, 0))


class PortalPrinting(PortalPart):
    """What programs of the sandbox print through the portal.

    ``respond`` is called with a program, a handle, a code and results.
    """

    interface = PRINT
    facts: ClassVar[Values] = {"version": ("u", 1)}

    def __init__(self, respond: Respond) -> None:
        super().__init__(respond, {"type": "print"})

    def _prepare(self, call: BusMessage) -> Tuple[Any, ...]:
        """Accept a program's print settings at once; the desktop's dialog is later."""
        # The question is asked when there is something to see.
        found = {
            "settings": ("a{sv}", variants(call.body[2])),
            "page-setup": ("a{sv}", variants(call.body[3])),
            "token": ("u", PRINT_TOKEN),
        }
        sender, path = call.text(SENDER), request_handle(call)
        # Programs of GTK fail at a response before the reply.
        call.after.append(lambda: self._respond(sender, path, DONE, found))
        return (path,)

    def _print(self, call: BusMessage) -> Tuple[Any, ...]:
        """Run ``vitrail-print`` for a program's document."""
        fd = own_descriptor(call, call.body[2])
        # A program that has written to it is at its end.
        with contextlib.suppress(OSError):
            os.lseek(fd, 0, os.SEEK_SET)
        title = call.body[1].replace("\0", "")[:TITLE_CHARS]
        words = own_command("vitrail-print", *(("--title", title) if title else ()))
        return self.run(call, words, fd)


def variants(untrusted_values: object) -> Dict[str, Tuple[str, Any]]:
    """Return a dictionary's plain values with their types, which reading has dropped."""
    if not isinstance(untrusted_values, dict):
        return {}
    return {
        key: (VARIANTS[type(value)], value)
        for key, value in untrusted_values.items()
        if isinstance(key, str) and type(value) in VARIANTS
    }
