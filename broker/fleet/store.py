"""The database as the ingest service has it: who is enrolled, and taking batches."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from queue import LifoQueue

from broker.core.errors import RefusedError, SetupError
from broker.fleet.proving import Columns, Known, prove
from broker.helpers.shipper.database import Connection, Error, connect, problem, usable
from broker.helpers.shipper.postgres import TAKE
from broker.ipc.audit.ingest import Position, SignedBatch

_NEW_LOGS = 16
"""Logs that one machine may begin in a day."""


@dataclass(frozen=True)
class Credential:
    """What a machine has shown: a token, and the name in its certificate."""

    token: str = ""
    certificate: str = ""


class IngestStore:
    """Connections to the database, as many as there are threads that use them."""

    def __init__(self, address: str, *, plaintext: bool = False) -> None:
        self._address, self._plaintext = address, plaintext
        self._idle: LifoQueue[Connection] = LifoQueue()

    def check(self) -> None:
        """Raise SetupError where the tables are not there."""
        with self._connection() as connection, connection.transaction():
            if usable(connection) < 7:
                raise SetupError(
                    "the database's tables are not there, or of a release before",
                    hint="'brokerctl audit fleet init --store ADDRESS' as their owner",
                )

    def close(self) -> None:
        """Close the connections that are not in use."""
        while not self._idle.empty():
            self._idle.get().close()

    def take(self, untrusted: SignedBatch, credential: Credential) -> Position:
        """Prove a batch and store it.

        Raises RefusedError, IntegrityError, SetupError, UpstreamError.
        """
        with self._connection() as connection, connection.transaction():
            self._admit(connection, untrusted.machine, untrusted.log, credential)
            log = bytes.fromhex(untrusted.log)
            known = self._known(connection, log)
            columns = prove(untrusted, known)
            connection.execute(TAKE, _arguments(untrusted, columns))
            return self._position(connection, log)

    def knows(self, machine: str, credential: Credential) -> bool:
        """Whether this may be an enrolled machine, before its log's name is known."""
        with self._connection() as connection, connection.transaction():
            row = _enrolled(connection, machine)
        if row is None or row[4]:
            return False
        by_log = row[0] is None and not row[1]
        return by_log or _shows(row, b"", credential)

    def position(self, machine: str, log: str, credential: Credential) -> Position:
        """What is there of a log.  Raises as ``take``."""
        with self._connection() as connection, connection.transaction():
            self._admit(connection, machine, log, credential)
            return self._position(connection, bytes.fromhex(log))

    def _admit(
        self, connection: Connection, machine: str, log: str, shown: Credential
    ) -> None:
        """Raise RefusedError unless this machine may ship this log."""
        row = _enrolled(connection, machine)
        try:
            name = bytes.fromhex(log)
        except ValueError as error:
            raise RefusedError("not the name of a log") from error
        # guard: a machine ships under the name that it was enrolled by
        if row is None or row[4] or not _shows(row, name, shown):
            raise RefusedError(
                "this machine is not enrolled, or has not proved that it is the one",
                hint="'brokerctl audit fleet enrol MACHINE' on the fleet's side",
            )
        there = connection.execute(
            "SELECT machine FROM vitrail.log WHERE name = %s", [name]
        ).fetchone()
        # guard: a log stays the machine's that began it
        if there is not None and there[0] != machine:
            raise RefusedError("this log is another machine's")
        if there is None:
            fresh = connection.execute(
                "SELECT count(*) FROM vitrail.log WHERE machine = %s "
                "AND first_seen > now() - interval '1 day'",
                [machine],
            ).fetchone()
            # guard: new logs of a machine are limited
            if fresh is not None and int(str(fresh[0])) >= _NEW_LOGS:
                raise RefusedError("this machine has begun too many logs today")

    def _known(self, connection: Connection, log: bytes) -> Known:
        row = connection.execute(
            "SELECT head.log, sequence, peaks FROM vitrail.head JOIN vitrail.log "
            "ON id = head.log WHERE name = %s",
            [log],
        ).fetchone()
        if row is None:
            return Known()
        keys = connection.execute(
            "SELECT note FROM vitrail.checkpoint WHERE log = %s AND kind LIKE 'key %%'",
            [row[0]],
        ).fetchall()
        peaks = row[2] if isinstance(row[2], bytes) else b""
        return Known(int(str(row[1])), peaks, [str(note) for (note,) in keys])

    def _position(self, connection: Connection, log: bytes) -> Position:
        row = connection.execute(
            "SELECT last, leaf FROM vitrail.position_of(%s)", [log]
        ).fetchone()
        if row is None or not isinstance(row[1], bytes):
            return Position(0, "")
        return Position(int(str(row[0])), row[1].hex())

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        connection = (
            connect(self._address, plaintext=self._plaintext)
            if self._idle.empty()
            else self._idle.get()
        )
        try:
            yield connection
        except Error as error:
            connection.close()
            raise problem(error) from error
        finally:
            if not connection.closed:
                self._idle.put(connection)


def _enrolled(connection: Connection, machine: str) -> tuple[object, ...] | None:
    return connection.execute(
        "SELECT secret, certificate, log, renew, revoked FROM vitrail.enrolled "
        "WHERE machine = %s",
        [machine.replace("\0", "")],
    ).fetchone()


def _shows(row: tuple[object, ...], log: bytes, shown: Credential) -> bool:
    secret, certificate, named, renew = row[:4]
    if isinstance(secret, bytes):
        given = sha256(shown.token.encode()).digest()
        return bool(shown.token) and hmac.compare_digest(secret, given)
    if certificate:
        return shown.certificate == certificate
    return not renew and named == log


def _arguments(untrusted: SignedBatch, columns: Columns) -> list[object]:
    return [
        bytes.fromhex(untrusted.log),
        untrusted.machine,
        columns.broker,
        columns.first,
        columns.times,
        columns.kinds,
        columns.sandboxes,
        columns.services,
        columns.verdicts,
        columns.rules,
        columns.bodies,
        columns.before,
        columns.edge,
        [one.size for one in untrusted.notes],
        [one.kind for one in untrusted.notes],
        [one.note for one in untrusted.notes],
    ]
