"""The audit log's file: its tables, its versions, its one writer's lock.

One row for each event.  The columns beside ``body`` repeat the most queried
values and are made from it by ``row_of``, so they can be checked against it.
``leaf`` is the event's hash in the Merkle tree; ``subtree`` has the roots of
each 256, 65,536, ... events, and outlives them.

The authority writes it; the shipper and brokerctl open it read-only, but for
``brokerctl audit gc``, which writes if no broker runs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from broker.core.errors import IntegrityError, SetupError, UpstreamError, VitrailError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit import schema
from broker.ipc.audit.tree import BLOCK, STEP, Growing, leaf_hash

# "VTRA": so that file(1) and we can distinguish our database from others.
APPLICATION_ID = 0x56545241

# One script for each version; the database's user_version counts those done.
# ``body`` is the event, byte for byte as it was encoded; these bytes are hashed.
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
    """
    ALTER TABLE event RENAME TO event_1;
    DROP INDEX event_time;
    DROP INDEX event_kind;
    DROP INDEX event_sandbox;
    DROP INDEX event_lease;
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY,
        time_ns INTEGER NOT NULL,
        kind TEXT NOT NULL,
        sandbox TEXT NOT NULL,
        lease TEXT NOT NULL,
        service TEXT NOT NULL,
        verdict TEXT NOT NULL,
        rule TEXT NOT NULL,
        peer TEXT NOT NULL,
        outcome TEXT NOT NULL,
        body TEXT NOT NULL,
        leaf BLOB NOT NULL
    ) STRICT;
    INSERT INTO event SELECT
        sequence, time_ns, kind, sandbox, lease,
        coalesce(body ->> 'service', ''), coalesce(body ->> 'verdict', ''),
        coalesce(body ->> 'rule', ''), coalesce(body ->> 'peer', ''),
        coalesce(body ->> 'outcome', ''), body, vitrail_leaf(body)
        FROM event_1 ORDER BY sequence;
    DROP TABLE event_1;
    CREATE INDEX event_time ON event (time_ns);
    CREATE INDEX event_kind ON event (kind);
    CREATE INDEX event_sandbox ON event (sandbox) WHERE sandbox != '';
    CREATE INDEX event_lease ON event (lease) WHERE lease != '';
    CREATE INDEX event_service ON event (service) WHERE service != '';
    CREATE INDEX event_verdict ON event (verdict) WHERE verdict != '';
    CREATE INDEX event_rule ON event (rule) WHERE rule != '';
    CREATE INDEX event_peer ON event (peer) WHERE peer != '';
    CREATE INDEX event_outcome ON event (outcome) WHERE outcome != '';
    CREATE TABLE subtree (
        height INTEGER NOT NULL,
        number INTEGER NOT NULL,
        hash BLOB NOT NULL,
        PRIMARY KEY (height, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE pruned (
        block INTEGER PRIMARY KEY,
        leaves BLOB
    ) STRICT;
    CREATE TABLE checkpoint (
        size INTEGER NOT NULL,
        kind TEXT NOT NULL,
        time_ns INTEGER NOT NULL,
        note TEXT NOT NULL,
        PRIMARY KEY (size, kind)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE witness (
        peer TEXT NOT NULL,
        origin TEXT NOT NULL,
        size INTEGER NOT NULL,
        time_ns INTEGER NOT NULL,
        note TEXT NOT NULL,
        PRIMARY KEY (origin, size)
    ) STRICT, WITHOUT ROWID;
    """,
    # Before, any peer could keep anything under any log's name: those notes are
    # believed only when the log's keys prove them ("witness.hold_note").
    """
    ALTER TABLE witness RENAME TO witness_unproved;
    CREATE TABLE witness (
        peer TEXT NOT NULL,
        origin TEXT NOT NULL,
        size INTEGER NOT NULL,
        time_ns INTEGER NOT NULL,
        note TEXT NOT NULL,
        PRIMARY KEY (peer, origin, size)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE witness_key (
        peer TEXT NOT NULL,
        origin TEXT NOT NULL,
        number INTEGER NOT NULL,
        note TEXT NOT NULL,
        PRIMARY KEY (peer, origin, number)
    ) STRICT, WITHOUT ROWID;
    """,
)
"""From this version on a log has a tree and signatures."""

_ORIGIN = re.compile(r"\S*/([0-9a-f]{32})\n")
_LEAF = "vitrail_leaf"


def foreign_objects(db: sqlite3.Connection) -> list[str]:
    """Return schema objects that only the database has, or only our log.

    A planted trigger or view would run inside our own commits.
    Raises sqlite3.Error.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    query = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    model = sqlite3.connect(":memory:")
    try:
        model.create_function(_LEAF, 1, lambda body: body)
        for script in MIGRATIONS[: version or len(MIGRATIONS)]:
            model.executescript(script)
        ours = {*model.execute(query)}
    finally:
        model.close()
    theirs = {*db.execute(query)}
    return sorted(f"{kind} {name}" for kind, name, _ in ours ^ theirs)


COLUMNS = (
    "sequence", "time_ns", "kind", "sandbox", "lease", "service",
    "verdict", "rule", "peer", "outcome",
)  # fmt: skip
"""The columns that repeat the body, in their order."""

Row = tuple[int, int, str, str, str, str, str, str, str, str]


def row_of(event: schema.Event) -> Row:
    """Return the values of the columns for an event that has its number."""
    return (
        event.sequence, event.time_ns, event.kind, event.sandbox, event.lease,
        event.service, getattr(event, "verdict", ""), getattr(event, "rule", ""),
        event.peer, event.outcome,
    )  # fmt: skip


def lock_log(path: Path) -> int:
    """Make the log's directory and hold the one writer's lock in it.

    A file beside the database: closing any descriptor of the database itself
    would drop SQLite's own POSIX locks (fcntl(2)).  Returns the descriptor.

    Raises UpstreamError, or SetupError when another process has the lock.
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
            f"cannot use the audit log's directory: {error.strerror}",
            hint=f"check that you own {path.parent} and can write to it",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SetupError(
            f"another broker is using the audit log {path}",
            hint="to stop that broker and its sandboxes, run 'brokerctl stop --broker'; "
            "where that finds none, as after another login, 'brokerctl stop --broker --force'",
        ) from error
    return lock


def open_database(path: Path) -> tuple[sqlite3.Connection, int]:
    """Open the database for writing, made or migrated where needed.

    Returns it and the version that it had, 0 for a new one.  Raises SetupError
    when it is not ours, or newer; UpstreamError when the disk refuses.
    """
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
            return db, _prepare(db, path)
        except BaseException:
            db.close()
            raise
    except sqlite3.DatabaseError as error:
        raise _unusable(error, path) from error
    except OSError as error:
        raise _unopened(error, path) from error


def _unopened(error: Exception, path: Path) -> UpstreamError:
    return UpstreamError(
        f"cannot open the audit log: {error}",
        hint=f"check that you can read and write {path}, and whether its disk is full",
    )


def _unusable(error: sqlite3.DatabaseError, path: Path) -> VitrailError:
    """Return the error that says why SQLite cannot use the log's file."""
    if error.sqlite_errorcode in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return SetupError(
            f"{path} is not an audit log, or is damaged: {error}",
            hint="keep the file for inspection; to begin a new log, move the file away and start the broker again",
        )
    return _unopened(error, path)


def _prepare(db: sqlite3.Connection, path: Path) -> int:
    """Set SQLite's options, migrate the database; return the version it had."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    check_version(version, application, path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    # Events that retention removes must not be left in the file's free pages.
    db.execute("PRAGMA secure_delete = ON")
    db.execute(f"PRAGMA journal_size_limit = {audit_limits.AUDIT_WAL_BYTES}")
    db.create_function(
        _LEAF, 1, lambda body: leaf_hash(body.encode()), deterministic=True
    )
    db.execute("PRAGMA trusted_schema = OFF")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        db.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number}; COMMIT"
        )
    foreign = foreign_objects(db)
    if foreign:
        raise IntegrityError(
            f"the audit log's database was changed: {', '.join(foreign[:5])}",
            hint="keep the file and its key for inspection; to begin a new log, move both away and start the broker again",
        )
    return int(version)


def check_version(version: int, application: int, path: Path) -> None:
    """Refuse a database that is newer than this program, or of another program.

    Raises SetupError.
    """
    if application != (APPLICATION_ID if version else 0):
        raise SetupError(
            f"{path} is a database, but not an audit log",
            hint="to begin a new log, move the file away and start the broker again",
        )
    if version > len(MIGRATIONS):
        raise SetupError(
            f"the audit log {path} was written by a newer Vitrail "
            f"(version {version}; this one supports up to {len(MIGRATIONS)})",
            hint="use the newer Vitrail; to begin a new log, move the file away and start the broker again",
        )


@contextmanager
def open_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for reading.

    Raises SetupError when there is none yet, or when it is not a log that this
    version can read; UpstreamError when the disk refuses.
    """
    if not path.exists():
        raise SetupError(
            f"there is no audit log yet ({path})",
            hint="a broker begins the log when it starts: run 'brokerctl run SANDBOX', or on "
            "the host of two machines 'vitrail-host'",
        )
    # guard: a log that is a FIFO or a device is not waited for
    if not path.is_file() and not path.is_dir():
        raise SetupError(
            f"{path} is not a regular file, so it is not an audit log",
            hint="specify a copy of audit.sqlite",
        )
    try:
        # Long questions are asked in a worker thread, one at a time.
        db = sqlite3.connect(
            _uri(path), uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.DatabaseError as error:
        raise _unusable(error, path) from error
    try:
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (application,) = db.execute("PRAGMA application_id").fetchone()
        except sqlite3.DatabaseError as error:
            raise _unusable(error, path) from error
        if version == 0:
            raise SetupError(
                f"{path} does not contain an audit log yet",
                hint="to start a broker, which begins a log, run 'brokerctl run SANDBOX'; a copy is of audit.sqlite",
            )
        check_version(version, application, path)
        yield db
    finally:
        db.close()


def _uri(path: Path) -> str:
    """Return the URI by which SQLite opens the database for reading.

    A log in WAL mode needs its ``-shm`` file, also to be read.  On a medium
    where that cannot be made no process can be writing, so it is not needed.
    """
    uri = f"file:{quote(str(path))}?mode=ro"
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists() and not os.access(path.parent, os.W_OK):
        uri += "&immutable=1"
    return uri


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block as one transaction: all of it is stored, or nothing.

    Raises as the block, sqlite3.Error.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


class Files:
    """The log's files on disk, so that a missing one is noticed.

    SQLite keeps writing to files that were removed, and would report these
    writes as durable.
    """

    def __init__(self, path: Path) -> None:
        self._known: dict[Path, tuple[int, int]] = {}
        self._paths = (path, path.with_name(f"{path.name}-wal"))
        self.check()

    def check(self) -> None:
        """Compare the log's files with those opened.

        Raises OSError for a gone or another one.
        """
        for path in self._paths:
            try:
                found = path.stat()
            except FileNotFoundError:
                if path in self._known:
                    raise
                continue  # the first commit makes it
            identity = (found.st_dev, found.st_ino)
            if self._known.setdefault(path, identity) != identity:
                raise OSError(errno.ESTALE, f"{path} is not the file that was opened")


def load_tree(db: sqlite3.Connection) -> Growing:
    """Return the tree of all events, and store subtrees that are missing.

    They are missing after a migration only.  Raises sqlite3.Error.
    """
    (size,) = db.execute("SELECT coalesce(max(sequence), 0) FROM event").fetchone()
    tree = Growing()
    missing: list[tuple[int, int, bytes]] = []
    while tree.size < size:
        stored = _stored(db, tree.size, size)
        if stored is not None:
            tree.push(*stored)
            continue
        rows = db.execute(
            "SELECT leaf FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (tree.size, BLOCK),
        ).fetchall()
        if not rows:
            break
        for (leaf,) in rows:
            missing += [(s.height, s.number, s.hash) for s in tree.append(leaf)]
    if missing:
        db.executemany("INSERT OR IGNORE INTO subtree VALUES (?, ?, ?)", missing)
    return tree


def _stored(db: sqlite3.Connection, begin: int, size: int) -> tuple[int, bytes] | None:
    """Return the largest stored subtree that begins here and ends inside the log."""
    for height in range(size.bit_length() // STEP * STEP, 0, -STEP):
        number = begin >> height
        if number << height == begin and begin + (1 << height) <= size:
            row = db.execute(
                "SELECT hash FROM subtree WHERE height = ? AND number = ?",
                (height, number),
            ).fetchone()
            if row is not None:
                return height, row[0]
    return None


def log_identity(db: sqlite3.Connection) -> str:
    """Return the log's name as 32 hex digits: the end of its checkpoints' origin.

    "" when nothing of it was ever sealed (a log of version 1).
    """
    if not db.execute("PRAGMA table_info(checkpoint)").fetchall():
        return ""
    row = db.execute("SELECT note FROM checkpoint ORDER BY size LIMIT 1").fetchone()
    found = _ORIGIN.match(row[0]) if row else None
    return found[1] if found else ""
