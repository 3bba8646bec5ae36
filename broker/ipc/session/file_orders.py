"""Orders about the user's files and links: opening, copying, choosing, printing.

A file is named by the user's call or chosen in a dialog.  The answer is a ticket
(``session.read_warrant.FileTicket``) and names to show; an order to use the file
contains the ticket.  Tickets and warrants of calls are as long as the user's command
lines, so they are passed in files in memory.
"""

from __future__ import annotations

import os
from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.errors import InternalError
from broker.core.question import PageImage
from broker.ipc.guest.file_requests import ChooseFiles

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


class OpenAddress(TypedMessage, frozen=True, tag="open-address"):
    """Open an address by the user's program for it."""

    warrant: bytes
    url: str
    called: bool = False
    """Whether the warrant is that of a call; else it is that of a permit."""


class FindNamedFiles(TypedMessage, frozen=True, tag="find-named-files"):
    """Find the files that a call names.  Descriptors: the call's warrant.

    Answer: ``FoundFiles``, and their ticket.
    """

    writable: tuple[bytes, ...] = ()
    """Directories in which a sandbox may have made links, beside those of records."""


class FindDroppedFiles(TypedMessage, frozen=True, tag="find-dropped-files"):
    """Find the files that the user has dropped on a sandbox's window.

    Answer: ``FoundFiles``, and their ticket.  Needs no permit: which files they are is
    asked of the desktop's document portal, and the ticket is good with a permit only.
    """

    key: _PortalKey
    """By which the portal knows them."""
    sandbox: _Origin
    writable: tuple[bytes, ...] = ()
    """As of ``FindNamedFiles``."""


class SendFiles(TypedMessage, frozen=True, tag="send-files"):
    """Write the entries of files into a pipe.  Descriptors: their ticket, the pipe.

    The second answer comes at its end, as that of all orders which move bytes.
    """

    warrant: bytes = b""
    """Of the permit, for files that were dropped on a sandbox's window."""


class EditFile(TypedMessage, frozen=True, tag="edit-file"):
    """Write a file's entries into a pipe; replace it by what another one has.

    Descriptors: its ticket, the pipe to write to, the one to read from.  The second
    answer is ``ToolResult.written`` of the viewer.
    """

    origin: _Origin
    """The sandbox that edits it."""


class SaveFile(TypedMessage, frozen=True, tag="save-file"):
    """Put the one entry of a pipe in the place of a chosen file.

    Descriptors: the ticket, the pipe.  The second answer as that of ``EditFile``.
    """

    number: Annotated[int, msgspec.Meta(ge=0)]
    """Of the ticket's path."""
    before: _SHA256 = ""
    """Of the content before; empty at the first time."""


class StoreFiles(TypedMessage, frozen=True, tag="store-files"):
    """Keep the entries of a pipe below ``~/Incoming``.  Descriptors: the pipe."""

    warrant: bytes


class ChooseOnDesktop(TypedMessage, frozen=True, tag="choose-on-desktop"):
    """Have the user choose files.  Answer: ``FoundFiles``, and their ticket.

    Without files and ticket the user has dismissed the dialog.  It is closed when the
    order is given up.
    """

    warrant: bytes
    ask: ChooseFiles
    writable: tuple[bytes, ...] = ()
    """As of ``FindNamedFiles``."""


class KeepPages(TypedMessage, frozen=True, tag="keep-pages"):
    """Make a document of the pages in a pipe.  Descriptors: the pipe.

    The second answer is ``KeptPages``.  The document is removed when the order is given
    up.  Needs no permit: it is in a directory for nothing else, made of pixels.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,60}\Z")]


class FindUsualPrinter(TypedMessage, frozen=True, tag="find-usual-printer"):
    """Answer: the name of the desktop's usual printer.  Harms nobody: no permit."""


class PrintDocument(TypedMessage, frozen=True, tag="print-document"):
    """Print a document of ``KeepPages``."""

    warrant: bytes
    document: _Pages
    printer: _Printer
    title: str


FileOrder: TypeAlias = (
    OpenAddress
    | FindNamedFiles
    | FindDroppedFiles
    | SendFiles
    | EditFile
    | SaveFile
    | StoreFiles
    | ChooseOnDesktop
    | KeepPages
    | FindUsualPrinter
    | PrintDocument
)


class FoundFiles(msgspec.Struct, frozen=True):
    """What the user has named or chosen, as it is shown and logged."""

    files: int
    names: tuple[str, ...] = ()
    """Of the first ones; of a dialog to save, of all."""
    size: int | None = None
    """In bytes, of a file that is opened."""


class KeptPages(msgspec.Struct, frozen=True):
    """A document that was made."""

    document: str
    """As orders name it."""
    path: str
    """Where it is, for the user."""
    pages: int
    preview: PageImage
    """The first page."""


read_found: Reader[FoundFiles] = reader(
    msgspec.msgpack.Decoder(FoundFiles), "not found files", InternalError
)
read_kept: Reader[KeptPages] = reader(
    msgspec.msgpack.Decoder(KeptPages), "not kept pages", InternalError
)


def from_memory(fd: int) -> bytes:
    """Return the content of a file in memory.  Raises OSError for a pipe or socket."""
    found = bytearray()
    while len(found) < _PASSED_BYTES and (data := os.pread(fd, 1 << 20, len(found))):
        found += data
    return bytes(found)
