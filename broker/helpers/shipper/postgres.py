"""Ship events to a fleet's database; in the shipper and in 'brokerctl audit ship'.

A batch is one statement and one transaction: ``vitrail.take`` looks at the head of the
log there, adds later events and compares earlier ones.  So a batch that
comes again changes nothing, and a difference from the stored events is noticed.
The position of each log is read from the database itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
from broker.ipc.audit.ingest import SignedNote

_TEXTS = ("kind", "sandbox", "service", "verdict", "rule")
# %b: an array as text is escaped here and read again there, for three times the time.
TAKE = (
    "SELECT vitrail.take(%s, %s, %s, %s::bigint, %s::bigint[], %b::text[], %b::text[], "
    "%b::text[], %b::text[], %b::text[], %b::text[], %s, %s, %s::bigint[], %b::text[], "
    "%b::text[])"
)
EventRow: TypeAlias = tuple[int, Sequence[str]]
"""An event's time, and of ``_TEXTS`` each, and its body."""


@dataclass(frozen=True)
class ProvedEvents:
    """Events as the database takes them; none by default."""

    first: int = 0
    broker: str = ""
    rows: Sequence[EventRow] = ()
    before: bytes = b""
    edge: bytes = b""
    """The tree's left edge before and after them, as in a ``Batch``."""


def take(
    connection: Connection,
    log: bytes,
    machine: str,
    events: ProvedEvents,
    notes: Sequence[SignedNote],
) -> None:
    """Insert events and checkpoints by calling vitrail.take.  Raises psycopg.Error."""
    times = [time_ns for time_ns, _ in events.rows]
    columns = [
        [_text(texts[n]) for _, texts in events.rows] for n in range(1 + len(_TEXTS))
    ]
    arguments: list[object] = [log, _text(machine), _text(events.broker), events.first]
    arguments += [times, *columns, events.before, events.edge]
    for name in ("size", "kind", "note"):
        arguments.append([getattr(one, name) for one in notes])
    connection.execute(TAKE, arguments)


def _text(text: str) -> str:
    """PostgreSQL's text has no zero character; the body has it, escaped."""
    return text.replace("\0", "\\x00")


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
        """Return number and hash of the last event in the database; None: empty."""
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
        """Insert a batch of events; create or update the tables first if needed."""
        try:
            connection = self._connection()
            self._migrated(connection)
            with connection.transaction():
                take(connection, batch.log, batch.machine, _events(batch), batch.notes)
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
        """Change the database's tables to this version, once."""
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
        """Shut the connection down, so that the other thread's call fails soon."""
        connection = self._open
        if connection is not None:
            with contextlib.suppress(Error, OSError):
                shut = socket.socket(fileno=os.dup(connection.fileno()))
                with shut:
                    shut.shutdown(socket.SHUT_RDWR)


def _events(batch: Batch) -> ProvedEvents:
    if not batch.items:
        return ProvedEvents()
    broker = batch.items[0].text("broker")
    rows = [(i.time_ns, [*map(i.text, _TEXTS), i.body]) for i in batch.items]
    return ProvedEvents(batch.first, broker, rows, batch.before, batch.edge)
