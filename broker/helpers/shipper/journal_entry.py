"""Entries of the journal in its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL).

``NAME=value`` lines, or, for values with a line end in them, the name, a line end, the
length as 64 bits little endian, the value and a line end.

The shipper encodes events by this, the authority its checkpoints for the journal.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterable

_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_KINDS = uuid.UUID("5d0f3a3e-7a33-5c0a-9d5f-6f8c2f6a8d10")


def message_id(kind: str) -> str:
    """Return the id of a kind's events for ``journalctl MESSAGE_ID=…``."""
    return uuid.uuid5(_KINDS, kind).hex


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode one entry as it goes over the journal's socket.

    Names must be of capitals, digits and underscores, begin with a capital
    and have at most 64 characters; others are left out, as journald would.
    """
    out = bytearray()
    for name, value in fields:
        if _FIELD.fullmatch(name) is None:
            continue
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            out += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            out += name.encode() + b"=" + data + b"\n"
    return bytes(out)
