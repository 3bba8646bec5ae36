"""Orders about the user's files and links: opening, copying, choosing, printing.

A file is named by the user's call or chosen in a dialog.  The answer is a ticket
(``session.read_warrant.FileTicket``) and names to show; an order to use the file
contains the ticket.  Tickets and warrants of calls are as long as the user's command
lines, so they are passed in files in memory.

What moves bytes sends an item when its program runs, and answers at its end.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from broker.core.question import PageImage
from broker.core.services import FILE_COPY, FILE_DIALOG, OPEN_URL, PRINT
from broker.ipc.guest.file_requests import ChooseFiles
from broker.ipc.session.order import ENDS, OrderMessage
from broker.wire.row import Empty, NeededPermit, Row

_PASSED_BYTES = 1 << 23
_SHA256 = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
# guard: only our own documents are shown and printed
_Pages = Annotated[
    str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,32}/[a-z0-9-]{1,60}\.pdf\Z")
]
# guard: a printer is not an option of lp(1)
_Printer = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[^\x00-\x20\x7f/#-][^\x00-\x20\x7f/#]{0,126}"
        r"(/[^\x00-\x20\x7f/#]{1,127})?\Z"
    ),
]
"""A queue of CUPS, or the user's own instance of one."""
_Origin = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z")]

_PortalKey = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}\Z")]


class OpenAddress(OrderMessage, frozen=True):
    """Open an address by the user's program for it, as a sandbox may."""

    url: str


class OpenNamedAddress(OrderMessage, frozen=True):
    """Open an address that a call of the user names, by the user's program for it."""

    url: str


class FindNamedFiles(OrderMessage, frozen=True):
    """Find the files that a call names.

    Descriptors: the call's warrant; of the answer: the files' ticket.
    """

    writable: tuple[bytes, ...] = ()
    """Directories in which a sandbox may have made links, beside those of records."""


class FindDroppedFiles(OrderMessage, frozen=True):
    """Find the files that the user has dropped on a sandbox's window.

    Descriptor of the answer: the files' ticket.

    No permit: which files they are is asked of the desktop's document portal, and the
    ticket is good with a permit only.
    """

    key: _PortalKey
    """By which the portal knows them."""
    sandbox: _Origin
    writable: tuple[bytes, ...] = ()
    """As of ``FindNamedFiles``."""


class SendFiles(OrderMessage, frozen=True):
    """Write the entries of files into a pipe.  Descriptors: their ticket, the pipe.

    No permit: the ticket is for files that the user has named or chosen.
    """


class SendDroppedFiles(OrderMessage, frozen=True):
    """Write the entries of files that were dropped on a sandbox's window into a pipe.

    Descriptors: their ticket, the pipe.
    """


class EditFile(OrderMessage, frozen=True):
    """Write a file's entries into a pipe; replace it by what another one has.

    Descriptors: its ticket, the pipe to write to, the one to read from.

    No permit: the ticket is for the file that the user has named.
    """

    origin: _Origin
    """The sandbox that edits it."""


class SaveFile(OrderMessage, frozen=True):
    """Put the one entry of a pipe in the place of a chosen file.

    Descriptors: the ticket, the pipe.

    No permit: the ticket is for the files that the user has chosen.
    """

    number: Annotated[int, msgspec.Meta(ge=0)]
    """Of the ticket's path."""
    before: _SHA256 = ""
    """Of the content before; empty at the first time."""


class StoreFiles(OrderMessage, frozen=True):
    """Keep the entries of a pipe below ``~/Incoming``.  Descriptors: the pipe."""


class ChooseOnDesktop(OrderMessage, frozen=True):
    """Have the user choose files.  Descriptor of the answer: their ticket.

    Without files and ticket the user has dismissed the dialog.  It is closed when the
    order is given up.
    """

    ask: ChooseFiles
    writable: tuple[bytes, ...] = ()
    """As of ``FindNamedFiles``."""


class KeepPages(OrderMessage, frozen=True):
    """Make a document of the pages in a pipe.  Descriptors: the pipe.

    The document is removed when the order is given up.

    No permit: it is in a directory for nothing else, made of pixels.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,60}\Z")]


class FindUsualPrinter(OrderMessage, frozen=True):
    """Find the desktop's usual printer.

    No permit: its name harms nobody.
    """


class FoundPrinter(OrderMessage, frozen=True):
    """The name of a printer."""

    name: str


class PrintDocument(OrderMessage, frozen=True):
    """Print a document of ``KeepPages``."""

    document: _Pages
    printer: _Printer
    title: str


class ProgramRuns(OrderMessage, frozen=True):
    """The item of orders that move bytes: their program has the pipes now."""


class FilesProgramEnded(OrderMessage, frozen=True):
    """The standard error of our program for files, which has ended."""

    written: bytes


class FoundFiles(OrderMessage, frozen=True):
    """What the user has named or chosen, as it is shown and logged."""

    files: int
    names: tuple[str, ...] = ()
    """Of the first ones; of a dialog to save, of all."""
    size: int | None = None
    """In bytes, of a file that is opened."""


class KeptPages(OrderMessage, frozen=True):
    """A document that was made."""

    document: str
    """As orders name it."""
    path: str
    """Where it is, for the user."""
    pages: int
    preview: PageImage
    """The first page."""


def from_memory(fd: int) -> bytes:
    """Return the content of a file in memory.  Raises OSError for a pipe or socket."""
    found = bytearray()
    while len(found) < _PASSED_BYTES and (data := os.pread(fd, 1 << 20, len(found))):
        found += data
    return bytes(found)


OPEN_ADDRESS = Row(
    "OpenAddress",
    OpenAddress,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({OPEN_URL})),
)
OPEN_NAMED_ADDRESS = Row(
    "OpenNamedAddress", OpenNamedAddress, Empty, *ENDS, calls=frozenset({"Open"})
)
FIND_NAMED_FILES = Row(
    "FindNamedFiles",
    FindNamedFiles,
    FoundFiles,
    *ENDS,
    calls=frozenset({"Open"}),
    takes=1,
    gives=1,
)
FIND_DROPPED_FILES = Row(
    "FindDroppedFiles", FindDroppedFiles, FoundFiles, *ENDS, gives=1
)
SEND_FILES = Row(
    "SendFiles", SendFiles, FilesProgramEnded, *ENDS, item=ProgramRuns, takes=2
)
SEND_DROPPED_FILES = Row(
    "SendDroppedFiles",
    SendDroppedFiles,
    FilesProgramEnded,
    *ENDS,
    permit=NeededPermit(frozenset({FILE_COPY}), for_desktop=False),
    item=ProgramRuns,
    takes=2,
)
EDIT_FILE = Row(
    "EditFile", EditFile, FilesProgramEnded, *ENDS, item=ProgramRuns, takes=3
)
SAVE_FILE = Row(
    "SaveFile", SaveFile, FilesProgramEnded, *ENDS, item=ProgramRuns, takes=2
)
STORE_FILES = Row(
    "StoreFiles",
    StoreFiles,
    FilesProgramEnded,
    *ENDS,
    permit=NeededPermit(frozenset({FILE_COPY})),
    item=ProgramRuns,
    takes=1,
)
CHOOSE_ON_DESKTOP = Row(
    "ChooseOnDesktop",
    ChooseOnDesktop,
    FoundFiles,
    *ENDS,
    permit=NeededPermit(frozenset({FILE_DIALOG})),
    gives=range(2),
)
KEEP_PAGES = Row("KeepPages", KeepPages, KeptPages, *ENDS, item=ProgramRuns, takes=1)
FIND_USUAL_PRINTER = Row("FindUsualPrinter", FindUsualPrinter, FoundPrinter, *ENDS)
PRINT_DOCUMENT = Row(
    "PrintDocument",
    PrintDocument,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({PRINT})),
)
