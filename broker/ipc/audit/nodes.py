"""The tree of a log on disk: any node of it, and the roots of earlier sizes.

Reads at most 256 hashes for a node, whatever the log's size.

The authority, the shipper, brokerctl and a fleet's ingest service read nodes by this,
to make or to check a proof.
"""

from __future__ import annotations

import sqlite3

from broker.core.errors import IntegrityError, RefusedError
from broker.ipc.audit.tree import BLOCK, HASH_BYTES, STEP, node_hash, range_root


class Nodes:
    """Knows the hash of any perfect subtree of a log; see ``tree.Node``.

    Raises IntegrityError where what should be there is not, RefusedError for
    what retention has removed, sqlite3.Error when it cannot be read.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._block = -1
        self._leaves: list[bytes] = []

    def __call__(self, height: int, number: int) -> bytes:
        """Return a node's hash: that height's ``number``-th from the left."""
        if height < STEP:
            first = number << height
            leaves = self._leaves_of(first >> STEP)
            begin = first & (BLOCK - 1)
            row = leaves[begin : begin + (1 << height)]
            if len(row) != 1 << height:
                raise _missing(f"event {first + len(row) + 1}")
            return _folded(row)
        stored = height // STEP * STEP
        count = 1 << (height - stored)
        first = number * count
        rows = self._db.execute(
            "SELECT hash FROM subtree WHERE height = ? AND number >= ? AND number < ?"
            " ORDER BY number",
            (stored, first, first + count),
        ).fetchall()
        if len(rows) != count:
            raise _missing(f"a subtree from event {(first << stored) + 1} on")
        return _folded([hash_ for (hash_,) in rows])

    def _leaves_of(self, block: int) -> list[bytes]:
        if block != self._block:
            self._leaves = self._read(block)
            self._block = block
        return self._leaves

    def _read(self, block: int) -> list[bytes]:
        """Read the leaf hashes of a block of events, from events or pruned blocks."""
        first = block << STEP
        rows = self._db.execute(
            "SELECT leaf FROM event WHERE sequence > ? AND sequence <= ?"
            " ORDER BY sequence",
            (first, first + BLOCK),
        ).fetchall()
        if rows:
            return [leaf for (leaf,) in rows]
        kept = self._db.execute(
            "SELECT leaves FROM pruned WHERE block = ?", (block,)
        ).fetchone()
        if kept is None:
            raise _missing(f"event {first + 1}")
        if kept[0] is None:
            raise RefusedError(
                f"events {first + 1} to {first + BLOCK} and their hashes were removed because the log was too large"
            )
        return split(kept[0])

    def root(self, size: int) -> bytes:
        """The root of the tree of the first ``size`` events."""
        return range_root(0, size, self)


def split(leaves: bytes) -> list[bytes]:
    """Return the hashes in a row, which has those of one block."""
    return [
        leaves[begin : begin + HASH_BYTES]
        for begin in range(0, len(leaves), HASH_BYTES)
    ]


def _folded(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row = [node_hash(row[n], row[n + 1]) for n in range(0, len(row), 2)]
    return row[0]


def _missing(what: str) -> IntegrityError:
    return IntegrityError(
        f"{what} is not in the audit log",
        hint="for details, run 'brokerctl audit verify'",
    )
