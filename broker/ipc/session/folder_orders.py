"""Orders about directories: those that a sandbox gets, and the viewer's own settings.

A directory that is to be shared is opened by ``OpenFolder``; the same child gives it to
the host's process by ``GiveFolder``, on a socket of theirs that the viewer does not have.
So a viewer that was taken over has no way to have another directory mounted.  Where no
host is on this machine, the child serves the folder over a connection by ``ServeFolder``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.services import BLOCK, FOLDER
from broker.ipc.session.order import ENDS, OrderMessage
from broker.wire.row import Empty, NeededPermit, Row

TICKET_BYTES = 16
_Path = Annotated[str, msgspec.Meta(max_length=4096)]


class OpenFolder(OrderMessage, frozen=True):
    """Open the directory that a call of ``brokerctl share`` names."""

    path: _Path
    write: bool
    linked: tuple[_Path, ...] = ()
    """Directories in which a sandbox may have made links, beside those of records."""


class OpenRecordFolder(OpenFolder, frozen=True, kw_only=True):
    """Open a directory that a record has, or the image of its disk.

    No permit: the child reads the record, and gives it to nobody without one.
    """

    record: str
    tag: Annotated[str, msgspec.Meta(max_length=20)] = ""
    """The disk of the record whose image ``path`` names; empty: a folder."""


class FoundFolder(OrderMessage, frozen=True):
    """An opened directory: its path without links."""

    path: bytes


class GiveFolder(OrderMessage, frozen=True):
    """Give the opened directory to the host, by the permit for it.

    The permit is held (``HoldPermit``) until its end.
    """


class FolderTicket(OrderMessage, frozen=True):
    """The ticket by which the host knows a folder; empty, if there is no host here."""

    ticket: bytes


class ServeFolder(OrderMessage, frozen=True):
    """Serve the given directory over a connection, whose descriptor comes along.

    No permit: that of ``GiveFolder`` is held.
    """


class CheckSettings(OrderMessage, frozen=True):
    """Look for mistakes in settings files.

    Descriptor of the answer: a file with a line for each.

    No permit: the answer has only what the user sees anyway.
    """


class DrawIcons(OrderMessage, frozen=True):
    """Draw sandboxes' icons in the menu again that differ from their records.

    No permit: the child reads the records, and an icon that is not there is not made.
    """


OPEN_FOLDER = Row(
    "OpenFolder", OpenFolder, FoundFolder, *ENDS, calls=frozenset({"FolderShare"})
)
OPEN_RECORD_FOLDER = Row("OpenRecordFolder", OpenRecordFolder, FoundFolder, *ENDS)
GIVE_FOLDER = Row(
    "GiveFolder",
    GiveFolder,
    FolderTicket,
    *ENDS,
    permit=NeededPermit(frozenset({FOLDER, BLOCK})),
)
SERVE_FOLDER = Row("ServeFolder", ServeFolder, Empty, *ENDS, takes=1)
CHECK_SETTINGS = Row("CheckSettings", CheckSettings, Empty, *ENDS, gives=1)
DRAW_ICONS = Row("DrawIcons", DrawIcons, Empty, *ENDS)


class FolderForHost(TypedMessage, frozen=True, tag="folder"):
    """To the host: a directory that a sandbox may have.

    Its descriptor comes along, and a pidfd of the child, at whose end it is unmounted.
    ``at`` and ``tag`` are as of ``OpenedFolder``.
    """

    ticket: bytes
    sandbox: str
    path: bytes
    write: bool
    at: str = ""
    tag: str = ""


FOR_HOST_BYTES = 8192
encode_for_host = msgspec.msgpack.Encoder().encode
read_for_host: Reader[FolderForHost] = reader(
    msgspec.msgpack.Decoder(FolderForHost), "invalid folder for the host"
)
"""Return what a session child has sent to the host."""
