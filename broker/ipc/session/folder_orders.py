"""Orders about directories: those that a sandbox gets, and the viewer's own settings.

A directory that is to be shared is opened by ``OpenFolder``; the same child gives it to
the host's process by ``GiveFolder``, on a socket of theirs that the viewer does not have.
So a viewer that was taken over has no way to have another directory mounted.  Where no
host is on this machine, the child serves the folder over a connection by ``ServeFolder``.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader

TICKET_BYTES = 16
_Path = Annotated[str, msgspec.Meta(max_length=4096)]


class OpenFolder(TypedMessage, frozen=True, tag="open-folder"):
    """Open a directory that is to be shared.  Answer: its path without links.

    ``warrant``: the call of ``brokerctl share``; empty for a folder of ``record``.
    ``tag``: of a record's disk; the path is that of its image.
    ``linked``: directories in which a sandbox may have made links, beside those that
    records tell.
    """

    warrant: bytes
    path: _Path
    write: bool
    record: str = ""
    linked: tuple[_Path, ...] = ()
    tag: Annotated[str, msgspec.Meta(max_length=20)] = ""


class GiveFolder(TypedMessage, frozen=True, tag="give-folder"):
    """Give the opened directory to the host, by the permit for it.

    Answer: by which ticket the host knows it; empty, if there is no host here.  Its permit
    is held (``HoldPermit``) until its end.
    """

    warrant: bytes


class ServeFolder(TypedMessage, frozen=True, tag="serve-folder"):
    """Serve the given directory over a connection, whose descriptor comes along."""


class CheckSettings(TypedMessage, frozen=True, tag="check-settings"):
    """Look for mistakes in settings files.  Answer: a file with a line for each.

    No warrant: the answer has what the user is told.
    """


class DrawIcons(TypedMessage, frozen=True, tag="draw-icons"):
    """Draw sandboxes' icons in the menu again that differ from their records.

    No warrant: the child reads the records, and an icon that is not there is not made.
    """


FolderOrder: TypeAlias = (
    OpenFolder | GiveFolder | ServeFolder | CheckSettings | DrawIcons
)


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
