"""The entries of a transfer: directories and files, checked as they pass.

Each entry is a frame (``core.framing``) with a JSON object, ``dir``, ``file`` or
``end``; a file's bytes follow its frame, exactly as many as it says.  There are
no links, owners, times or modes: what arrives is a plain file or directory.

Sans-IO: bytes in, entries out; and back to bytes by ``entry_frame``.  Both ends of
every transfer run this, so a process that was taken over between them can send
nothing that a sandbox could not.

A worker runs this at each end, and the viewer to list files for a dialog; at the user's
desktop a jailed program of ``shims/files`` has a copy of these rules.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.framing import encode_frame
from broker.core.limits import transfer as limits

SENDER_LEFT = "the sender cancelled the transfer"
"""Why a transfer ended before its entries did, where the sender alone knows more."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Path = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=limits.FILE_NAME_BYTES)]],
    msgspec.Meta(min_length=1, max_length=limits.TRANSFER_DEPTH),
]


class _Entry(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    pass


class Directory(_Entry, frozen=True, tag="dir"):
    """A directory, before everything in it."""

    path: _Path


class FileEntry(_Entry, frozen=True, tag="file"):
    """A file of ``size`` bytes, which follow."""

    path: _Path
    size: _Count


class End(_Entry, frozen=True, tag="end"):
    """Nothing is missing; without it the transfer was interrupted."""


Entry: TypeAlias = Directory | FileEntry | End


def left_out_text(number: int) -> str:
    """Return why links, devices, pipes or sockets were left out of a copy."""
    levels = limits.TRANSFER_DEPTH
    return f"left out {number}: only files, and directories of up to {levels} levels, are copied"


def entry_frame(entry: Entry) -> bytes:
    """Return an entry as bytes."""
    return encode_frame(msgspec.json.encode(entry), limits.TRANSFER_FRAME_BYTES)
