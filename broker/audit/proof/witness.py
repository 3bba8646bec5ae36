"""Checkpoints of other logs, kept in this one's file: it is their witness.

They are kept as they came.  Whether a log has the events that a checkpoint
speaks of, only who has that log can tell; a witness sees whether it ever goes
back, or is two different things at one size.
"""

from __future__ import annotations

import sqlite3
import time

from broker.audit.proof.note import Note, parse_note
from broker.core import limits
from broker.core.errors import RefusedError


def hold_note(db: sqlite3.Connection, peer: str, note: Note) -> Note | None:
    """Keep a checkpoint; returns the newest one held of that log before.

    Of each log the first one and the newest ``limits.AUDIT_WITNESSED`` are
    kept.  None takes the place of another: one that goes back stands beside, of
    one that contradicts, the caller makes an event.

    Raises RefusedError beyond ``limits.AUDIT_WITNESS_LOGS``, sqlite3.Error.
    """
    seen = note.checkpoint
    rows = db.execute(
        "SELECT note FROM witness WHERE origin = ? ORDER BY size DESC LIMIT 1",
        (seen.origin,),
    ).fetchall()
    before = parse_note(rows[0][0]) if rows else None
    if before is None:
        (logs,) = db.execute("SELECT count(DISTINCT origin) FROM witness").fetchone()
        if logs >= limits.AUDIT_WITNESS_LOGS:
            raise RefusedError(
                f"checkpoints of {logs} other logs are kept here already",
                hint="the table 'witness' of audit.sqlite has them; remove old ones",
            )
    db.execute(
        "INSERT OR IGNORE INTO witness VALUES (?, ?, ?, ?, ?)",
        (peer, seen.origin, seen.size, time.time_ns(), note.whole),
    )
    db.execute(
        "DELETE FROM witness WHERE origin = ?1 AND size NOT IN ("
        "SELECT size FROM witness WHERE origin = ?1 ORDER BY size DESC LIMIT ?2)"
        " AND size != (SELECT min(size) FROM witness WHERE origin = ?1)",
        (seen.origin, limits.AUDIT_WITNESSED),
    )
    return before


def held_at(db: sqlite3.Connection, origin: str, size: int) -> Note | None:
    """The checkpoint that is kept of a log at this size.  Raises sqlite3.Error."""
    row = db.execute(
        "SELECT note FROM witness WHERE origin = ? AND size = ?", (origin, size)
    ).fetchone()
    return None if row is None else parse_note(row[0])


def newest_origin(db: sqlite3.Connection, peer: str) -> str:
    """The log that the peer spoke of last, "" if of none.  Raises sqlite3.Error."""
    row = db.execute(
        "SELECT origin FROM witness WHERE peer = ? ORDER BY time_ns DESC LIMIT 1",
        (peer,),
    ).fetchone()
    return "" if row is None else str(row[0])


def held_notes(db: sqlite3.Connection, peer: str = "") -> list[tuple[str, int, str]]:
    """All that is held: whose, when it came (ns since 1970), and the note.

    Newest last; ``peer`` keeps to one.  Raises sqlite3.Error.
    """
    return db.execute(
        "SELECT peer, time_ns, note FROM witness WHERE ?1 = '' OR peer = ?1 "
        "ORDER BY peer, origin, size",
        (peer,),
    ).fetchall()
