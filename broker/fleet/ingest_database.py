"""The database as the ingest service has it: who is enrolled, and taking batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from queue import Empty, LifoQueue

import msgspec

from broker.core.errors import RefusedError, SetupError
from broker.fleet.proving import Known, check_form, prove
from broker.helpers.shipper.database import (
    VERSION,
    Connection,
    Error,
    connect,
    problem,
    usable,
)
from broker.helpers.shipper.postgres import take
from broker.ipc.audit.ingest import Position, SignedBatch

_NEW_LOGS = 16
"""Logs that one machine may begin in a day."""
# There are 35,000 in a year, and any number of a log that was taken over.
# guard: few keys of a log are read for a batch
_KEYS = 16
"""Of those before each of its checkpoints."""


@dataclass(frozen=True)
class Credential:
    """A machine's credentials: a token, and the name in its certificate."""

    token: str = ""
    certificate: str = ""


# The stored secret is a digest, so the time of its comparison says nothing of the token.
_ENROLLED = """
    SELECT secret IS NULL AND certificate IS NULL FROM vitrail.enrolled
    WHERE machine = %(machine)s AND NOT revoked AND CASE
        WHEN secret IS NOT NULL THEN secret = %(secret)s
        WHEN certificate IS NOT NULL THEN certificate = %(certificate)s
        ELSE NOT renew AND log = coalesce(%(log)s, log) END
"""
"""Of an enrolled machine that has shown what it is known by: whether that is its log's
name alone, which others may have copies of."""

# Upkeep removes checkpoints, but never the largest of a log.
# guard: a checkpoint that upkeep has removed is not a new one
_STORED = "there.size = one.size OR one.kind = 'kept' AND there.size > one.size"


class IngestStore:
    """Connections to the database, as many as there are threads that use them."""

    def __init__(self, address: str, *, plaintext: bool = False) -> None:
        self._address, self._plaintext = address, plaintext
        self._idle: LifoQueue[Connection] = LifoQueue()

    def check(self) -> None:
        """Raise SetupError where the tables are not there."""
        with self._connection() as connection, connection.transaction():
            if usable(connection) < VERSION:
                raise SetupError(
                    "the database's tables are missing, or of an earlier release",
                    hint="as the owner of the database, run 'brokerctl audit fleet init --store ADDRESS'",
                )

    def close(self) -> None:
        """Close the connections that are not in use."""
        while not self._idle.empty():
            self._idle.get().close()

    def take(
        self,
        untrusted: SignedBatch,
        credential: Credential,
        new: Callable[[str], object] = str,
    ) -> Position:
        """Verify a batch against its log's signatures, and store it.

        ``new`` takes the machine's name where the batch has new events.
        Raises RefusedError, IntegrityError, SetupError, UpstreamError.
        """
        check_form(untrusted)
        with self._connection() as connection, connection.transaction():
            connection.execute("SET LOCAL statement_timeout = '30s'")
            machine, log = untrusted.machine, _log(untrusted.log)
            by_log = self._admit(connection, machine, log, credential)
            sizes = {1 << 62, *(one.size for one in untrusted.notes)}
            known = self._known(connection, log, [*sizes])
            proved = prove(untrusted, known)
            last = untrusted.first + len(untrusted.bodies) - 1
            old = last <= known.last and not _fresh(connection, log, untrusted)
            # Whoever has a copy can send it again: it is compared, and says nothing
            # about whether the machine is alive.
            # guard: a replayed batch is no sign of life
            with connection.transaction(force_rollback=by_log and old):
                take(connection, log, machine, proved, untrusted.notes)
            position = self._position(connection, log)
        # guard: a batch that the store has proves no machine
        if not old:
            new(untrusted.machine)
        return position

    def by_log(self, machine: str, credential: Credential) -> bool | None:
        """``_ENROLLED``'s answer before the log's name is known; None: not enrolled."""
        with self._connection() as connection, connection.transaction():
            return _known_by_log(connection, machine, None, credential)

    def position(self, machine: str, log: str, credential: Credential) -> Position:
        """Return how much of a log is stored.  Raises as ``take``."""
        with self._connection() as connection, connection.transaction():
            self._admit(connection, machine, _log(log), credential)
            return self._position(connection, _log(log))

    def _admit(
        self, connection: Connection, machine: str, log: bytes, shown: Credential
    ) -> bool:
        """Return whether a machine is known by its log alone.

        Raises RefusedError where it may not send.
        """
        by_log = _known_by_log(connection, machine, log, shown)
        # guard: a machine ships under the name that it was enrolled by
        if by_log is None:
            raise RefusedError(
                "this machine is not enrolled for this log",
                hint="on the fleet's side, run 'brokerctl audit fleet enrol MACHINE --log ORIGIN "
                "--store ADDRESS'; to print ORIGIN, run 'brokerctl audit verify' on the machine",
            )
        ((owner, begun),) = connection.execute(
            "SELECT there.machine, CASE WHEN there.machine IS NULL THEN (SELECT count(*) "
            "FROM vitrail.log WHERE machine = %s AND first_seen > now() - interval '1 day'"
            ") END FROM (SELECT (SELECT machine FROM vitrail.log WHERE name = %s)) AS there",
            [machine, log],
        ).fetchall()
        # guard: a log stays the machine's that began it
        if owner not in {None, machine}:
            raise RefusedError("this log belongs to another machine")
        # guard: new logs of a machine are limited
        if owner is None and int(str(begun)) >= _NEW_LOGS:
            raise RefusedError(
                f"this machine began {begun} logs within a day (at most {_NEW_LOGS})"
            )
        return by_log

    def _known(self, connection: Connection, log: bytes, sizes: list[int]) -> Known:
        """Return what the database knows of a log: last event, tree, certificates."""
        row = connection.execute(
            "SELECT sequence, peaks, ARRAY(SELECT DISTINCT note FROM "
            "unnest(%s::bigint[]) AS one (size), LATERAL (SELECT note FROM "
            "vitrail.checkpoint there WHERE there.log = head.log "
            "AND there.size <= one.size AND kind > 'kept' AND kind LIKE 'key %%' "
            "ORDER BY there.size DESC, length(kind) DESC, kind DESC LIMIT %s) AS near) "
            "FROM vitrail.head JOIN vitrail.log ON id = head.log WHERE name = %s",
            [sizes, _KEYS, log],
        ).fetchone()
        return Known(
            *msgspec.convert(row or (0, b"", []), tuple[int, bytes, list[str]])
        )

    def _position(self, connection: Connection, log: bytes) -> Position:
        """Return the last stored event of a log, and its hash."""
        row = connection.execute(
            "SELECT last, leaf FROM vitrail.position_of(%s)", [log]
        ).fetchone()
        if row is None or not isinstance(row[1], bytes):
            return Position(0, "")
        return Position(int(str(row[0])), row[1].hex())

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Yield an idle or new database connection; keep it for later use."""
        try:
            # guard: no thread waits for the connection of another one
            connection = self._idle.get_nowait()
        except Empty:
            connection = connect(self._address, plaintext=self._plaintext)
        try:
            yield connection
        except Error as error:
            connection.close()
            raise problem(error) from error
        finally:
            if not connection.closed:
                self._idle.put(connection)


def _log(name: str) -> bytes:
    try:
        return bytes.fromhex(name)
    except ValueError as error:
        raise RefusedError("invalid name of a log") from error


def _known_by_log(
    connection: Connection, machine: str, log: bytes | None, shown: Credential
) -> bool | None:
    """Return ``_ENROLLED``'s answer; None: not enrolled, or not shown."""
    secret = sha256(shown.token.encode()).digest() if shown.token else None
    row = connection.execute(
        _ENROLLED,
        {
            "machine": machine.replace("\0", ""),
            "log": log,
            "secret": secret,
            "certificate": shown.certificate,
        },
    ).fetchone()
    return None if row is None else bool(row[0])


def _fresh(connection: Connection, log: bytes, untrusted: SignedBatch) -> bool:
    """Return whether the batch has a checkpoint that was not stored before."""
    row = connection.execute(
        "SELECT FROM unnest(%s::bigint[], %s::text[]) AS one (size, kind) WHERE NOT "  # noqa: S608
        "EXISTS (SELECT FROM vitrail.checkpoint there JOIN vitrail.log ON id = log "
        f"WHERE name = %s AND there.kind = one.kind AND ({_STORED})) LIMIT 1",
        [
            [one.size for one in untrusted.notes],
            [one.kind for one in untrusted.notes],
            log,
        ],
    ).fetchone()
    return row is not None
