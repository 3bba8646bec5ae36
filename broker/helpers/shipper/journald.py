"""The journal as a receiver of events.

One datagram for each event (``journal_entry``); what does not fit into a datagram is
sent as a sealed memory file instead.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Callable

from typing_extensions import override

from broker.core.errors import UpstreamError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.journal_entry import encode, message_id
from broker.helpers.shipper.terms import (
    Batch,
    ShippedItem,
    Target,
    is_bad,
    record_id,
    summary,
)

_NOTICE, _WARNING = 5, 4

# fcntl(2), F_ADD_SEALS; journald takes a memory file only when all are set.
_SEALS = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)


def entry(batch: Batch, item: ShippedItem) -> bytes:
    """Return an event as an entry of the journal."""
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

    def __init__(self, path: str, connect: Callable[[], int]) -> None:
        self._path = path
        self._connect = connect
        self._socket: socket.socket | None = None

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        """Return None: journald cannot be asked for a position."""
        return None

    @override
    def send(self, batch: Batch) -> None:
        """Send a batch's events to the journal.  Raises UpstreamError."""
        try:
            for item in batch.items:
                self._send(entry(batch, item))
        except OSError as error:
            self.close()
            raise UpstreamError(
                f"journald does not accept events: {error}",
                hint=f"check {self._path}, and run 'systemctl status systemd-journald'",
            ) from error

    def _send(self, data: bytes) -> None:
        """Send one entry; a large one in a memory file."""
        if self._socket is None:
            self._socket = socket.socket(fileno=self._connect())
            self._socket.settimeout(audit_limits.SHIP_SECONDS)
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                raise
            self._send_file(self._socket, data)

    def _send_file(self, to: socket.socket, data: bytes) -> None:
        """Send an entry in a sealed memory file."""
        fd = os.memfd_create("vitrail-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            to.sendmsg([], [rights])
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
