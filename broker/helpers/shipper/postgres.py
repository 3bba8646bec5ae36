"""To a fleet's database, many machines in one.

A batch is one transaction: COPY into a table of its own, from there the
new events go into ``vitrail.event``.  So a batch that comes again changes
nothing, and one that differs from the stored events is noticed.  The position of
each log is read from the database itself.
"""

from __future__ import annotations

import contextlib
import os
import socket

from typing_extensions import override

from broker.core.errors import IntegrityError
from broker.helpers.shipper.database import (
    Connection,
    Error,
    connect,
    migrate,
    problem,
    version_of,
)
from broker.helpers.shipper.terms import Batch, Sealed, ShippedItem, Target

_COLUMNS = (
    "sequence, time_ns, kind, sandbox, lease, service, verdict, rule, peer, "
    "outcome, boot, body, leaf"
)
_TEXTS = (
    *("sandbox", "lease", "service", "verdict", "rule", "peer", "outcome", "boot"),
)


class Postgres(Target):
    """A database, connected to when it is needed."""

    def __init__(self, address: str, *, plaintext: bool = False) -> None:
        self._address, self._plaintext = address, plaintext
        self._open: Connection | None = None
        self._current = False
        """Whether its tables are known to be those of this version."""

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        try:
            connection = self._connection()
            if not version_of(connection):
                connection.commit()
                return None  # nothing was shipped there yet; asking changes nothing
            row = connection.execute(
                "SELECT sequence, leaf FROM vitrail.event JOIN vitrail.log "
                "ON log.id = event.log WHERE log.name = %s "
                "ORDER BY sequence DESC LIMIT 1",
                [log],
            ).fetchone()  # fmt: skip
            connection.commit()
        except Error as error:
            self.close()
            raise problem(error) from error
        # Of an empty table we learn nothing: its owner may have removed old events.
        if row is None or not isinstance(row[1], bytes):
            return None
        return int(str(row[0])), row[1].hex()

    @override
    def send(self, batch: Batch) -> None:
        try:
            connection = self._connection()
            if not self._current:
                migrate(connection)
                self._current = True
            with connection.transaction():
                self._send(connection, batch)
        except Error as error:
            self.close()
            raise problem(error) from error
        except BaseException:
            self.close()
            raise

    def _connection(self) -> Connection:
        if self._open is None:
            self._open = connect(self._address, plaintext=self._plaintext)
            self._current = False
        return self._open

    def _send(self, connection: Connection, batch: Batch) -> None:
        log = self._log_number(connection, batch)
        if batch.items:
            self._send_events(connection, log, batch)
        for sealed in batch.notes:
            self._send_note(connection, log, sealed)

    def _send_note(self, connection: Connection, log: int, sealed: Sealed) -> None:
        key = [log, sealed.size, sealed.kind]
        connection.execute(
            "INSERT INTO vitrail.checkpoint (log, size, kind, note) "
            "VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [*key, sealed.note],
        )
        there = connection.execute(
            "SELECT note FROM vitrail.checkpoint "
            "WHERE log = %s AND size = %s AND kind = %s",
            key,
        ).fetchone()
        if there is None or there[0] != sealed.note:
            raise IntegrityError(
                f"the database has another checkpoint of this log at {sealed.size}",
                hint="this log was rolled back after it was shipped: 'brokerctl audit "
                "checkpoint --store' prints those there, for 'verify --against'",
            )

    def _send_events(self, connection: Connection, log: int, batch: Batch) -> None:
        connection.execute(
            f"CREATE TEMPORARY TABLE arriving ON COMMIT DROP AS "  # noqa: S608
            f"SELECT {_COLUMNS} FROM vitrail.event LIMIT 0"
        )
        copying = f"COPY arriving ({_COLUMNS}) FROM STDIN"
        with connection.cursor().copy(copying) as copy:
            for item in batch.items:
                copy.write_row(_row(item))
        connection.execute(
            f"INSERT INTO vitrail.event (log, {_COLUMNS}) "  # noqa: S608
            f"SELECT %s, {_COLUMNS} FROM arriving ORDER BY sequence "
            "ON CONFLICT (log, sequence) DO NOTHING",
            [log],
        )
        differs = connection.execute(
            "SELECT min(sequence) FROM arriving JOIN vitrail.event there "
            "USING (sequence) WHERE there.log = %s AND there.leaf <> arriving.leaf",
            [log],
        ).fetchone()
        if differs is not None and differs[0] is not None:
            raise IntegrityError(
                f"the database has another event {differs[0]} of this log",
                hint="this log was changed or rolled back after it was shipped: "
                "'brokerctl audit verify', and compare with --store",
            )
        if batch.missing:
            connection.execute(
                "INSERT INTO vitrail.gap (log, first, last) VALUES (%s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                [log, batch.first - batch.missing, batch.first - 1],
            )

    def _log_number(self, connection: Connection, batch: Batch) -> int:
        connection.execute(
            "INSERT INTO vitrail.log (name, machine, broker) VALUES (%s, %s, %s) "
            "ON CONFLICT (name) DO NOTHING",
            [batch.log, batch.machine, _broker(batch)],
        )
        row = connection.execute(
            "SELECT id FROM vitrail.log WHERE name = %s", [batch.log]
        ).fetchone()
        if row is None:
            raise IntegrityError(
                "the database has this log from another machine",
                hint="two roles of the database ship the same log; one of them is "
                "not this machine's",
            )
        return int(str(row[0]))

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


def _broker(batch: Batch) -> str:
    return _text(batch.items[0].text("broker")) if batch.items else ""


def _row(item: ShippedItem) -> tuple[object, ...]:
    texts = [_text(item.text(name)) for name in _TEXTS]
    return (
        item.sequence, item.time_ns, _text(item.kind), *texts, item.body, item.leaf,
    )  # fmt: skip


def _text(text: str) -> str:
    """PostgreSQL's text has no zero character; the body has it, escaped."""
    return text.replace("\0", "\\x00")
