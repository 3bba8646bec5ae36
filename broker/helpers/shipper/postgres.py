"""To a fleet's database, many machines in one.

A batch is one statement and one transaction: ``vitrail.take`` looks at the head of the
log there, adds what comes after it and compares what came before.  So a batch that
comes again changes nothing, and one that differs from the stored events is noticed.
The position of each log is read from the database itself.
"""

from __future__ import annotations

import contextlib
import os
import socket

from typing_extensions import override

from broker.helpers.shipper.database import (
    Connection,
    Error,
    connect,
    migrate,
    problem,
    usable,
)
from broker.helpers.shipper.terms import Batch, Target

_TEXTS = ("sandbox", "service", "verdict", "rule")
# %b: an array as text is escaped here and read again there, for three times the time.
TAKE = (
    "SELECT vitrail.take(%s, %s, %s, %s::bigint, %s::bigint[], %b::text[], %b::text[], "
    "%b::text[], %b::text[], %b::text[], %b::text[], %s, %s, %s::bigint[], %b::text[], "
    "%b::text[])"
)


class Postgres(Target):
    """A database, connected to when it is needed."""

    waits = True
    beats = True

    def __init__(self, address: str, *, plaintext: bool = False) -> None:
        self._address, self._plaintext = address, plaintext
        self._open: Connection | None = None
        self._current = False
        """Whether its tables are known to be those of this version."""

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        try:
            connection = self._connection()
            with connection.transaction():
                if not usable(connection):
                    return None  # nothing was shipped there yet; asking changes nothing
            self._migrated(connection)
            with connection.transaction():
                row = connection.execute(
                    "SELECT last, leaf FROM vitrail.position_of(%s)", [log]
                ).fetchone()
        except Error as error:
            self._failed()
            raise problem(error) from error
        # Of an empty table we learn nothing: its owner may have removed old events.
        if row is None or not row[0] or not isinstance(row[1], bytes):
            return None
        return int(str(row[0])), row[1].hex()

    @override
    def send(self, batch: Batch) -> None:
        try:
            connection = self._connection()
            self._migrated(connection)
            with connection.transaction():
                connection.execute(TAKE, _arguments(batch))
        except Error as error:
            self._failed()
            raise problem(error) from error
        except BaseException:
            self._failed()
            raise

    def _failed(self) -> None:
        self._current = False
        self.close()

    def _migrated(self, connection: Connection) -> None:
        if not self._current:
            migrate(connection)
            self._current = True

    def _connection(self) -> Connection:
        if self._open is None:
            self._open = connect(self._address, plaintext=self._plaintext)
        return self._open

    @override
    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    @override
    def interrupt(self) -> None:
        connection = self._open
        if connection is not None:
            with contextlib.suppress(Error, OSError):
                shut = socket.socket(fileno=os.dup(connection.fileno()))
                with shut:
                    shut.shutdown(socket.SHUT_RDWR)


def _arguments(batch: Batch) -> list[object]:
    """The arguments of vitrail.take."""
    items = batch.items
    columns = [[_text(item.text(name)) for item in items] for name in _TEXTS]
    return [
        batch.log,
        _text(batch.machine),
        _text(items[0].text("broker")) if items else "",
        batch.first if items else 0,
        [item.time_ns for item in items],
        [_text(item.kind) for item in items],
        *columns,
        [item.body for item in items],
        batch.before,
        batch.edge,
        [sealed.size for sealed in batch.notes],
        [sealed.kind for sealed in batch.notes],
        [sealed.note for sealed in batch.notes],
    ]


def _text(text: str) -> str:
    """PostgreSQL's text has no zero character; the body has it, escaped."""
    return text.replace("\0", "\\x00")
