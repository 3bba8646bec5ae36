"""To the journal, in its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL).

One datagram for each event: ``NAME=value`` lines, or, for values with a line
end in them, the name, a line end, the length as 64 bits little endian, the
value and a line end.  What does not fit into a datagram is sent as a sealed
memory file instead.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
import struct
import uuid
from collections.abc import Iterable

from typing_extensions import override

from broker.core.errors import UpstreamError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.terms import (
    Batch,
    ShippedItem,
    Target,
    is_bad,
    record_id,
    summary,
)

_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_KINDS = uuid.UUID("5d0f3a3e-7a33-5c0a-9d5f-6f8c2f6a8d10")
_NOTICE, _WARNING = 5, 4

# fcntl(2), F_ADD_SEALS; journald takes a memory file only when all are set.
_SEALS = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)


def message_id(kind: str) -> str:
    """Return the id of a kind's events for ``journalctl MESSAGE_ID=…``."""
    return uuid.uuid5(_KINDS, kind).hex


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return one entry as it goes over the socket.

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


def entry(batch: Batch, item: ShippedItem) -> bytes:
    """An event as an entry of the journal."""
    fields = [
        ("MESSAGE", summary(item)),
        ("MESSAGE_ID", message_id(item.kind)),
        ("PRIORITY", str(_WARNING if is_bad(item) else _NOTICE)),
        ("SYSLOG_IDENTIFIER", "vitrail"),
        ("VITRAIL_LOG", batch.log.hex()),
        ("VITRAIL_RECORD", record_id(batch.log, item.sequence)),
        ("VITRAIL_EVENT", item.body),
    ]
    for name, value in item.fields.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if not isinstance(value, dict) and value is not None:
            fields.append((f"VITRAIL_{name.upper()}", text))
    return encode(fields)


class Journald(Target):
    """The journal's socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        """Return None: journald cannot be asked for a position."""
        return None

    @override
    def send(self, batch: Batch) -> None:
        try:
            for item in batch.items:
                self._send(entry(batch, item))
        except OSError as error:
            self.close()
            raise UpstreamError(
                f"journald does not take events: {error}",
                hint=f"is {self._path} there? 'systemctl status systemd-journald'",
            ) from error

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(audit_limits.SHIP_SECONDS)
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                raise
            self._send_file(self._socket, data)

    def _send_file(self, to: socket.socket, data: bytes) -> None:
        fd = os.memfd_create("vitrail-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            to.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)

    @override
    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @override
    def interrupt(self) -> None:
        """Its socket has a timeout."""
