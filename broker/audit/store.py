"""The audit log's one writer: recorded before it takes effect.

``record`` returns when the event is on the disk.  The database is SQLite in
WAL mode with ``synchronous=FULL``: NORMAL does not flush at a commit, so a
power cut could take back a decision whose stream had already flowed.  One
flush for each event would be too dear, so calls that come while a commit
runs share the next one.

There is no writer task.  The first caller that finds nobody committing does
it for all that wait, and passes the duty to the first of those who came
meanwhile: nothing to start, to stop, or to lose events when it dies.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from broker.audit import schema
from broker.core import limits
from broker.core.errors import InternalError, SetupError, UpstreamError, VitrailError

# "VTRA": so that file(1) and we can tell our database from another's.
APPLICATION_ID = 0x56545241

# One script for each version; the database's user_version counts those done.
# The row's columns are what is asked for most; ``body`` is the event, byte for
# byte as it was encoded, so that a hash over it can be checked later.
MIGRATIONS = (
    """
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY,
        time_ns INTEGER NOT NULL,
        kind TEXT NOT NULL,
        sandbox TEXT NOT NULL,
        lease TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX event_time ON event (time_ns);
    CREATE INDEX event_kind ON event (kind, sequence);
    CREATE INDEX event_sandbox ON event (sandbox, sequence) WHERE sandbox != '';
    CREATE INDEX event_lease ON event (lease, sequence) WHERE lease != '';
    """,
)


@dataclass(frozen=True)
class Statistics:
    """What the writer did since it was opened."""

    events: int
    commits: int
    failures: int
    waiting: int


@dataclass(eq=False)
class _Entry:
    event: schema.Event
    done: trio.Event = field(default_factory=trio.Event)
    leads: bool = False
    sequence: int = 0
    error: VitrailError | None = None


class Store:
    """An open audit log; made by ``open_store``."""

    def __init__(self, db: sqlite3.Connection, path: Path, broker: str) -> None:
        self._db = db
        self._path = path
        self._broker = broker
        self._boot = _boot_id()
        self._pending: deque[_Entry] = deque()
        self._committing = False
        self._closed = False
        self._room = trio.Semaphore(limits.AUDIT_WAITING)
        self._thread = trio.CapacityLimiter(1)
        self._events = self._commits = self._failures = 0

    def statistics(self) -> Statistics:
        """Counters for ``brokerctl status``."""
        return Statistics(
            self._events, self._commits, self._failures, len(self._pending)
        )

    async def record(self, event: schema.Event) -> int:
        """Write the event and return its sequence number once it is on disk.

        Cancelled before its turn, it is not written; after that, it is
        written although the caller no longer hears of it.

        Raises UpstreamError when the store fails (disk full, gone): what was
        to be recorded must then not happen.
        """
        if self._closed:
            raise InternalError("an event came after the audit log was closed")
        stamped = msgspec.structs.replace(
            event,
            version=schema.VERSION,
            time_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            boot=self._boot,
            broker=self._broker,
        )
        # Too large is found here, with the longest number, not in others' commit.
        schema.encode(msgspec.structs.replace(stamped, sequence=1 << 62))
        async with self._room:
            entry = _Entry(stamped)
            self._pending.append(entry)
            await self._wait_turn(entry)
        if entry.error is not None:
            # Several callers share the error; each gets a traceback of its own.
            raise type(entry.error)(
                entry.error.message, hint=entry.error.hint
            ) from entry.error
        return entry.sequence

    async def _wait_turn(self, entry: _Entry) -> None:
        if self._committing:
            try:
                await entry.done.wait()
            except trio.Cancelled:
                if entry in self._pending:
                    self._pending.remove(entry)
                raise
            if not entry.leads:
                return
        self._committing = True
        try:
            # A cancellation waits for the disk, not the other way round:
            # others' events are in this commit.
            with trio.CancelScope(shield=True):
                await self._commit()
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._committing = bool(self._pending)
        if self._pending:
            self._pending[0].leads = True
            self._pending[0].done.set()

    async def _commit(self) -> None:
        size = min(len(self._pending), limits.AUDIT_BATCH)
        batch = [self._pending.popleft() for _ in range(size)]
        try:
            first = await trio.to_thread.run_sync(
                self._write, [entry.event for entry in batch], limiter=self._thread
            )
        except Exception as error:  # noqa: BLE001
            # Whatever it is (no room for a thread is a RuntimeError): those
            # who wait must hear of it, or they would wait for ever.
            self._failures += 1
            problem = UpstreamError(
                f"the audit log cannot be written: {error}",
                hint=f"make room on the disk of {self._path}; until then nothing "
                "is allowed that has to be recorded",
            )
            for entry in batch:
                entry.error = problem
                entry.done.set()
            return
        self._commits += 1
        self._events += size
        for number, entry in enumerate(batch, start=first):
            entry.sequence = number
            entry.done.set()

    def _write(self, events: Sequence[schema.Event]) -> int:
        """Commit the events and return the first one's number (worker thread)."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            (last,) = db.execute(
                "SELECT coalesce(max(sequence), 0) FROM event"
            ).fetchone()
            rows = [
                _row(msgspec.structs.replace(event, sequence=number))
                for number, event in enumerate(events, start=last + 1)
            ]
            db.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return int(last) + 1

    async def aclose(self) -> None:
        """Close the database; used by ``open_store``."""
        self._closed = True
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._db.close, limiter=self._thread)


def _row(event: schema.Event) -> tuple[int, int, str, str, str, str]:
    body = schema.encode(event).decode()
    return (
        event.sequence,
        event.time_ns,
        event.kind,
        event.sandbox,
        event.lease,
        body,
    )


@asynccontextmanager
async def open_store(path: Path, *, broker: str = "local") -> AsyncIterator[Store]:
    """Open the audit log for writing, making or migrating it where needed.

    ``broker`` is the role that stands in every event.  One writer at a time.

    Raises SetupError when another broker writes it, when it was written by a
    newer version, or when it is not our database; UpstreamError when the disk
    refuses.
    """
    lock = _lock(path)
    try:
        db = await trio.to_thread.run_sync(_open, path)
        store = Store(db, path, broker)
        try:
            yield store
        finally:
            await store.aclose()
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """Make the directory and hold the one writer's lock in it.

    A file beside the database: closing any descriptor of the database itself
    would drop SQLite's own POSIX locks (fcntl(2)).
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        lock = os.open(
            path.with_name(path.name + ".lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
    except OSError as error:
        raise UpstreamError(
            f"the audit log's directory cannot be used: {error}",
            hint=f"{path.parent} must be yours and writable",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SetupError(
            f"another broker writes the audit log {path}",
            hint="'brokerctl stop --broker' ends it",
        ) from error
    return lock


def _open(path: Path) -> sqlite3.Connection:
    try:
        # SQLite makes its files with the umask's mode and gives -wal and -shm
        # the database's: so the database is made here.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        made = os.open(path, flags, 0o600)
        os.fchmod(made, 0o600)
        os.close(made)
        # Commits run in whichever thread trio has, one at a time.
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    except sqlite3.DatabaseError as error:
        raise _unusable(error, path) from error
    except OSError as error:
        raise UpstreamError(f"the audit log cannot be opened: {error}") from error
    return db


def _unusable(error: sqlite3.DatabaseError, path: Path) -> VitrailError:
    if error.sqlite_errorcode in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return SetupError(
            f"{path} is not an audit log, or a damaged one: {error}",
            hint="keep the file for a look, move it away, and start again",
        )
    return UpstreamError(
        f"the audit log cannot be opened: {error}",
        hint=f"is the disk of {path} full or read-only?",
    )


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    check_version(version, application, path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {limits.AUDIT_WAL_BYTES}")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        db.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number}; COMMIT"
        )


def check_version(version: int, application: int, path: Path) -> None:
    """Refuse a database that is newer than this program, or somebody else's.

    Raises SetupError.
    """
    if application != (APPLICATION_ID if version else 0):
        raise SetupError(
            f"{path} is a database, but not an audit log",
            hint="move it away, and start again",
        )
    if version > len(MIGRATIONS):
        raise SetupError(
            f"the audit log {path} was written by a newer Vitrail "
            f"(version {version}, this one knows {len(MIGRATIONS)})",
            hint="use that version, or move the file away to begin a new log",
        )


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
