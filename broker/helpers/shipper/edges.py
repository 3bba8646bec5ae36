"""The tree of a shipped log: its left edge, and what proves a batch.

The shipper in its jail runs it, or ``brokerctl audit ship``; both only read the log.
"""

from __future__ import annotations

import sqlite3

from broker.core.errors import IntegrityError, RefusedError, UpstreamError
from broker.helpers.shipper.terms import BatchProof, ShippedItem
from broker.ipc.audit.query import Log
from broker.ipc.audit.tree import Growing, consistency_proof

_KEYS = 64
"""Certificates that go with one batch; a key lives for a quarter of an hour."""


def tree_at(log: Log, size: int) -> Growing | None:
    """Return the tree of the first ``size`` events; None: hashes were removed."""
    nodes = log.nodes()
    tree = Growing()
    try:
        for height in reversed(range(size.bit_length())):
            if size >> height & 1:
                tree.peaks.append(nodes(height, tree.size >> height))
                tree.size += 1 << height
    except (RefusedError, IntegrityError):
        return None
    except sqlite3.Error as error:
        raise UpstreamError(f"cannot read the audit log: {error}") from error
    return tree


def grown(tree: Growing, items: list[ShippedItem]) -> Growing:
    """The tree with the events after it."""
    after = tree.copy()
    for item in items:
        after.append(item.leaf)
    return after


def edge(tree: Growing | None) -> bytes:
    """Its left edge as bytes."""
    return b"" if tree is None else b"".join(tree.peaks)


def proof_of(log: Log, size: int) -> BatchProof:
    """Return what proves the first ``size`` events: a checkpoint, or the signed end.

    Raises UpstreamError if there is none yet, or hashes for it were removed.
    """
    rows = log.rows(
        "SELECT size, note FROM checkpoint WHERE size >= ? AND (kind = 'kept' OR "
        "kind = 'head' OR substr(kind, 1, 4) = 'key ') ORDER BY size, kind = 'head' "
        "LIMIT 1",
        [size],
    )
    if not rows:
        raise UpstreamError("the newest events have no signature yet")
    signed, note = rows[0]
    keys = log.rows(
        "SELECT note FROM checkpoint WHERE substr(kind, 1, 4) = 'key ' "
        "AND size BETWEEN ? AND ? ORDER BY CAST(substr(kind, 5) AS INTEGER) LIMIT ?",
        [size, signed, _KEYS],
    )
    try:
        hashes = consistency_proof(size, signed, log.nodes()) if size else []
    except (RefusedError, sqlite3.Error) as error:
        raise UpstreamError(f"cannot prove the events: {error}") from error
    return BatchProof(note, hashes, [text for (text,) in keys])
