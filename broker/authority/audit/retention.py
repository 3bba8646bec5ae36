"""Removing old events: their bodies go, the tree and every proof stay valid.

Events go in blocks of 256, the oldest first, so the rest is always the
log's end.  Of a block that was removed for its age its leaf hashes are kept:
a holder of a copy of an event can still prove that it was in the log.  A log
that is too large loses them, too; then a block is one hash.

The authority runs this on its schedule; ``brokerctl audit gc`` runs it if no broker has
the log.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from broker.authority.audit.proof.seal import WITNESSED
from broker.ipc.audit.tree import BLOCK, STEP

_KEPT_BLOCKS = 2
"""The newest ones are never removed, however large or old they are."""
_AT_ONCE = 64
"""Blocks in one transaction, so that a decision waits for milliseconds only."""
_UNSHIPPED = 2
"""Limit of a log that a receiver has not received yet, in times the largest size."""
_FILL = 0.9
"""Part of the largest size to which a log that exceeds it is reduced."""


# Unshipped events stay, up to twice the log's size. A dead receiver must not lose
# events that retention would have kept, and must not fill the disk, since a full disk
# denies everything in mode `required`. So age never removes events that a configured
# receiver has not received, and size does only at twice `max_megabytes`; then the gap
# is recorded, in the cursor and in the database.
@dataclass(frozen=True)
class RetentionPlan:
    """Which blocks go now."""

    first: int
    end: int
    leaves: bool
    """Whether their leaf hashes are kept."""

    @property
    def events(self) -> tuple[int, int]:
        """The first and the last event that go."""
        return self.first * BLOCK + 1, self.end * BLOCK


def used_bytes(db: sqlite3.Connection) -> int:
    """Return the bytes that the log uses in its file; free pages are reused.

    Raises sqlite3.Error.
    """
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


# A log that is too large loses even its hashes. Retention by age keeps the leaf hash of
# every event. Under a flood of allowed streams (600 events a second) these alone are
# 1.6 GB a day, and in mode `required` a full disk denies everything. So retention by
# size keeps one hash for 256 events, and at twice the size goes over the heads of
# receivers that have not caught up.
def plan(
    db: sqlite3.Connection,
    size: int,
    *,
    before_ns: int | None,
    most: int | None,
    shipped: int | None = None,
) -> RetentionPlan | None:
    """Return the next removal of old or excess events; None if none exists.

    Events of before ``before_ns``, and the oldest ones while the log takes more
    than ``most`` bytes.  ``shipped`` is the last event that every receiver has;
    later ones stay, however old, until the log takes twice ``most``.  None: there
    are no receivers.  Raises sqlite3.Error.
    """
    (oldest,) = db.execute("SELECT min(sequence) FROM event").fetchone()
    if oldest is None:
        return None
    first = (oldest - 1) >> STEP
    last = (size >> STEP) - _KEPT_BLOCKS
    had = last if shipped is None else min(last, shipped >> STEP)
    if first >= last:
        return None
    if most is not None:
        used = used_bytes(db)
        end = last if used > _UNSHIPPED * most else had
        if used > most and first < end:
            excess = (used - _FILL * most) / used
            many = max(1, int((last - first) * excess))
            return RetentionPlan(
                first, min(first + min(many, _AT_ONCE), end), leaves=False
            )
    if before_ns is None:
        return None
    end = first
    while end < min(first + _AT_ONCE, had):
        (newest,) = db.execute(
            "SELECT max(time_ns) FROM event WHERE sequence > ? AND sequence <= ?",
            (end << STEP, (end + 1) << STEP),
        ).fetchone()
        if newest is None or newest >= before_ns:
            break
        end += 1
    return RetentionPlan(first, end, leaves=True) if end > first else None


def remove(db: sqlite3.Connection, what: RetentionPlan) -> None:
    """Delete the events of a plan from the database, and keep the hashes for proofs.

    Runs inside a transaction. Raises sqlite3.Error.
    """
    provable = _witnessed_blocks(db)
    for block in range(what.first, what.end):
        bounds = block << STEP, (block + 1) << STEP
        leaves = None
        if what.leaves or block in provable:
            rows = db.execute(
                "SELECT leaf FROM event WHERE sequence > ? AND sequence <= ?"
                " ORDER BY sequence",
                bounds,
            )
            leaves = b"".join(leaf for (leaf,) in rows)
        db.execute("INSERT INTO pruned VALUES (?, ?)", (block, leaves))
        db.execute("DELETE FROM event WHERE sequence > ? AND sequence <= ?", bounds)
    if not what.leaves:
        blocks = db.execute(
            "SELECT block FROM pruned WHERE block < ? AND leaves IS NOT NULL",
            (what.end,),
        ).fetchall()
        for (block,) in blocks:
            if block not in provable:
                db.execute("UPDATE pruned SET leaves = NULL WHERE block = ?", (block,))


def _witnessed_blocks(db: sqlite3.Connection) -> set[int]:
    """Return the blocks that contain the end of a checkpoint which a witness holds.

    Without their leaf hashes no proof could begin there, and an honest log that
    was not connected for long would look like a rewritten log.
    """
    rows = db.execute(
        "SELECT size FROM checkpoint WHERE substr(kind, 1, ?) = ?",
        (len(WITNESSED), WITNESSED),
    )
    # guard: a witness's checkpoint stays provable
    return {size >> STEP for (size,) in rows if size % BLOCK}
