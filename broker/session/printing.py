"""Printing pages of sandboxes by CUPS, and the documents that are made of them.

A session child makes and removes the document's directory in the cache, and starts
lp(1).
"""

from __future__ import annotations

import binascii
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from broker.core.distribution import install_hint
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.paths import find_paths
from broker.core.question import NO_PAGE_IMAGE, is_page_image
from broker.helpers.process.memory_file import memory_file
from broker.ipc.session import file_orders as m
from broker.session.order_exchange import OrderExchange
from broker.wire.row import serves

_PAGES = re.compile(rb"pages ([0-9]{1,9}) ([0-9]{1,3}) ([A-Za-z0-9+/]{1,60000}=*)\n")
_HINT = (
    "to set a default printer, run 'lpoptions -d PRINTER'; or set printer= in the rule"
)


def _spool() -> Path:
    """Return the directory of documents that wait: the viewer writes none of it."""
    # guard: documents are not in the viewer's own directories
    return find_paths().cache.with_name("vitrail-printing")


@contextmanager
def document(name: str) -> Iterator[Path]:
    """Yield the path of a document that is to be made; it is removed at the end."""
    spool = _spool()
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=spool, ignore_cleanup_errors=True) as folder:
        yield Path(folder, f"{name}.pdf")


def answer_kept(exchange: OrderExchange, path: Path, written: bytes) -> None:
    """Answer what was made; ``written``: by our program for files.

    Raises UpstreamError.
    """
    # It reads the sandbox's document: int() raises ValueError for thousands of digits.
    found = _PAGES.fullmatch(written)
    if found is None:
        raise UpstreamError(
            "the program that stores documents sent an invalid number of pages: "
            f"{printable(written, 40)}"
        )
    try:
        preview = int(found[2]), binascii.a2b_base64(found[3])
    except binascii.Error:
        preview = NO_PAGE_IMAGE
    # guard: a picture for a question has the form of one
    if not is_page_image(preview):
        raise UpstreamError("the program that stores documents sent an invalid picture")
    name = f"{path.parent.name}/{path.name}"
    kept = m.KeptPages(name, str(path), int(found[1]), preview)
    exchange.answer(kept)


def _made(untrusted_document: str) -> Path:
    """Return our document.  Its name was checked when it was decoded."""
    path = _spool() / untrusted_document
    if not path.is_file():
        raise RefusedError("the document no longer exists")
    return path


@serves(m.FIND_USUAL_PRINTER)
def find_usual_printer(exchange: OrderExchange, _order: m.FindUsualPrinter) -> None:
    """Answer the name of the desktop's usual printer.  Raises SetupError."""
    if shutil.which("lp") is None:
        raise SetupError(
            "the program lp is not installed", hint=install_hint("cups-client")
        )
    said = _run(exchange, ["lpstat", "-d"])
    _, found, name = said.strip().partition(": ")
    # A user's own instance of a queue is NAME/INSTANCE, as lp(1) takes it.
    if not found or not name or name.startswith("-"):
        raise SetupError("this desktop has no default printer", hint=_HINT)
    exchange.answer(m.FoundPrinter(name))


@serves(m.PRINT_DOCUMENT)
def print_document(exchange: OrderExchange, order: m.PrintDocument) -> None:
    """Send a document to a printer by CUPS.  Raises UpstreamError, SetupError."""
    permit = exchange.permit
    # guard: a rule's printer is the one that prints
    if permit.printer not in {"", order.printer}:
        raise RefusedError(f"the permit is for {permit.printer}, not {order.printer}")
    # guard: the printer that the user has read is the one that prints
    if permit.about != order.printer:
        raise RefusedError(f"the permit is for {permit.about}, not {order.printer}")
    # guard: the title of a printed document begins with its sandbox
    title = f"{permit.sandbox}: {printable(order.title, 100)}"
    # Each value is one word, and none of them can begin as an option does.
    words = ["-d", order.printer, "-t", title]
    _run(exchange, ["lp", *words, str(_made(order.document))])
    exchange.answer()


def _run(exchange: OrderExchange, argv: list[str]) -> str:
    """Run a program of CUPS to its end; return its output.  Raises UpstreamError."""
    with ExitStack() as stack:
        output, errors = memory_file(stack, b""), memory_file(stack, b"")
        env = {**os.environ, "LC_ALL": "C"}
        code = exchange.run(argv, env=env, stdout=output, stderr=errors)
        if code:
            words = printable(m.from_memory(errors).strip(), 400)
            raise UpstreamError(f"{argv[0]} failed: {words}")
        return m.from_memory(output).decode(errors="replace")
