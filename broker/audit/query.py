"""Asking the audit log, whether a broker runs or not.

Opens the database read-only, so that a question can neither block nor change
what is recorded.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec
import trio

from broker.audit.store import check_version
from broker.core.errors import SetupError, UpstreamError

FOLLOW_SECONDS = 0.2
"""Between two looks at the database's change counter while following."""

_PAGE = 1000
_SELECT = "SELECT sequence, time_ns, kind, sandbox, body FROM event"


@dataclass(frozen=True)
class Filters:
    """What is asked for; empty means everything.

    The same field more than once means *or*, different fields mean *and*.
    """

    sandboxes: Sequence[str] = ()
    kinds: Sequence[str] = ()
    """A kind, or its first word for all of them (``stream``)."""
    leases: Sequence[str] = ()
    since_ns: int | None = None

    def where(self) -> tuple[str, list[str | int]]:
        """The condition in SQL and its values."""
        parts = ["sequence > ?"]
        values: list[str | int] = []
        for column, wanted in (("sandbox", self.sandboxes), ("lease", self.leases)):
            if wanted:
                parts.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                values += wanted
        if self.kinds:
            one = "(kind = ? OR substr(kind, 1, ?) = ?)"
            parts.append(f"({' OR '.join([one] * len(self.kinds))})")
            for kind in self.kinds:
                values += [kind, len(kind) + 1, f"{kind}."]
        if self.since_ns is not None:
            parts.append("time_ns >= ?")
            values.append(self.since_ns)
        return " AND ".join(parts), values


@dataclass(frozen=True)
class Found:
    """One recorded event; ``body`` is the JSON as it was written."""

    sequence: int
    time_ns: int
    kind: str
    sandbox: str
    body: str

    def fields(self) -> dict[str, object]:
        """The event's fields, also of a kind that this version does not know."""
        return msgspec.json.decode(self.body, type=dict[str, object])


class Log:
    """An audit log opened for reading; made by ``open_log``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def find(
        self, filters: Filters, *, after: int = 0, last: int | None = None
    ) -> Iterator[Found]:
        """Yield the events that match, oldest first.

        ``after`` is a sequence number; ``last`` keeps only so many, the newest.
        Raises UpstreamError when the database cannot be read.
        """
        where, values = filters.where()
        # Only our own words go into the text; every value is bound.
        query = f"{_SELECT} WHERE {where} ORDER BY sequence"
        if last is not None:
            query = f"SELECT * FROM ({query} DESC LIMIT ?) ORDER BY sequence"  # noqa: S608
            rows = self._rows(query, [after, *values, last])
            yield from (Found(*row) for row in rows)
            return
        # In pages: an open read transaction would keep the log from being
        # checkpointed for as long as somebody pages through it.
        while True:
            rows = self._rows(f"{query} LIMIT ?", [after, *values, _PAGE])
            yield from (Found(*row) for row in rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def newest(self) -> int:
        """The sequence number of the newest event, 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(sequence), 0) FROM event", [])[0][0])

    def check(self) -> str:
        """Return ``ok``, or what SQLite finds wrong with the file."""
        return str(self._rows("PRAGMA quick_check(1)", [])[0][0])

    async def follow(
        self, filters: Filters, *, after: int
    ) -> AsyncGenerator[Found, None]:
        """Yield events that match as they are recorded, until cancelled.

        For ``contextlib.aclosing``.  Raises UpstreamError as ``find`` does.
        """
        seen = -1
        while True:
            version = self._rows("PRAGMA data_version", [])[0][0]
            if version != seen:
                seen = version
                newest = self.newest()
                for found in self.find(filters, after=after):
                    after = found.sequence
                    yield found
                after = max(after, newest)
            await trio.sleep(FOLLOW_SECONDS)

    def _rows(
        self, query: str, values: Sequence[str | int]
    ) -> list[tuple[int, int, str, str, str]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UpstreamError(f"the audit log cannot be read: {error}") from error


@contextmanager
def open_log(path: Path) -> Iterator[Log]:
    """Open the audit log for reading.

    Raises SetupError when there is none yet, or when it is not one that this
    version can read; UpstreamError when the disk refuses.
    """
    if not path.exists():
        raise SetupError(
            f"there is no audit log yet ({path})",
            hint="it begins with the first start of a broker: brokerctl run SANDBOX",
        )
    try:
        # Long questions are asked in a worker thread, one at a time.
        db = sqlite3.connect(
            _uri(path), uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise UpstreamError(f"the audit log cannot be opened: {error}") from error
    try:
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (application,) = db.execute("PRAGMA application_id").fetchone()
        except sqlite3.Error as error:
            raise SetupError(
                f"{path} cannot be read as an audit log: {error}",
                hint="keep the file for a look, move it away, and start again",
            ) from error
        if version == 0:
            raise SetupError(f"{path} holds no audit log yet")
        check_version(version, application, path)
        yield Log(db)
    finally:
        db.close()


def _uri(path: Path) -> str:
    """How SQLite is told to open it (SQLite's documentation, "URI filenames").

    A log in WAL mode needs its ``-shm`` file, also to be read.  On a medium
    where that cannot be made nobody can be writing, so it is not needed.
    """
    uri = f"file:{quote(str(path))}?mode=ro"
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists() and not os.access(path.parent, os.W_OK):
        uri += "&immutable=1"
    return uri
