"""Proofs that an event is in a log, for readers who do not have the log.

A proof is one JSON object: ``event`` (the body, byte for byte), ``proof`` (in
the format of c2sp.org/tlog-proof: index, hashes, checkpoint) and ``keys``
(the checkpoints by which the log's keys certify each other, from the first
one to that which signed).  ``shims/vitrail_audit_check.py`` checks it with
nothing but Python's standard library, and shares no code with us.
"""

from __future__ import annotations

import base64
import sqlite3

import msgspec

from broker.authority.audit.proof.ed25519 import is_signed_by
from broker.authority.audit.proof.note import Note, parse_note
from broker.core.errors import IntegrityError, RefusedError, SetupError
from broker.ipc.audit.nodes import Nodes
from broker.ipc.audit.tree import Node, range_root

FORMAT = "c2sp.org/tlog-proof@v1"


class InclusionProof(msgspec.Struct, frozen=True):
    """The proof in its exported form."""

    event: str
    proof: str
    keys: list[str]


def _without(db: sqlite3.Connection, number: int) -> SetupError:
    """Return the error of an event that the log does not have, or no longer has."""
    ((newest,),) = db.execute(
        "SELECT coalesce(max(n), 0) FROM (SELECT max(sequence) AS n FROM event UNION ALL "
        "SELECT max(size) FROM checkpoint WHERE kind = 'head')"
    )
    if number <= newest:
        return SetupError(
            f"cannot prove event {number}: the event was removed from the log",
            hint="to check that only retention removed events, run 'brokerctl audit "
            "verify'",
        )
    return SetupError(
        f"event {number} does not exist: the newest event is {newest}",
        hint="to list the newest events, run 'brokerctl audit -n 10'",
    )


def prove(
    db: sqlite3.Connection, number: int, against: Note | None = None
) -> InclusionProof:
    """Return the proof that event ``number`` is in the log.

    It leads to the newest signed head, or to ``against``, a checkpoint that
    was kept elsewhere.

    Raises SetupError when there is no such event, RefusedError when retention
    removed the needed hashes or the checkpoint is older than the event,
    IntegrityError when the log is not whole, sqlite3.Error.
    """
    row = db.execute("SELECT body FROM event WHERE sequence = ?", (number,)).fetchone()
    if row is None:
        raise _without(db, number)
    note = against or _head(db)
    size = note.checkpoint.size
    if number > size:
        raise RefusedError(
            f"event {number} is newer than the checkpoint, which covers {size} events",
            hint=("to use the newest checkpoint, omit --against" if against else ""),
        )
    nodes = Nodes(db)
    if nodes.root(size) != note.checkpoint.root:
        raise IntegrityError(
            f"the first {size} events differ from the signed log",
            hint="to find the differences, run 'brokerctl audit verify'",
        )
    hashes = inclusion_proof(number - 1, size, nodes)
    lines = [FORMAT, f"index {number - 1}"]
    lines += [base64.b64encode(hash_).decode() for hash_ in hashes]
    return InclusionProof(
        row[0], "\n".join(lines) + f"\n\n{note.whole}", _keys(db, note)
    )


def _head(db: sqlite3.Connection) -> Note:
    """Return the newest signed head.  Raises IntegrityError without one."""
    row = db.execute(
        "SELECT note FROM checkpoint WHERE kind = 'head' ORDER BY size DESC"
    ).fetchone()
    if row is None:
        raise IntegrityError(
            "the log has no signed head",
            hint="to see details, run 'brokerctl audit verify'",
        )
    return parse_note(row[0])


def _keys(db: sqlite3.Connection, note: Note) -> list[str]:
    """Read the log's key changes, up to the key that signed the note.

    Raises IntegrityError for a note of another log.
    """
    rows = db.execute(
        "SELECT note FROM checkpoint WHERE substr(kind, 1, 4) = 'key '"
        " ORDER BY CAST(substr(kind, 5) AS INTEGER)"
    )
    found: list[str] = []
    for (text,) in rows:
        found.append(text)
        change = parse_note(text).checkpoint.change
        if change is not None and is_signed_by(note, change.key):
            return found
    raise IntegrityError(
        "the checkpoint is not signed by a key of this log",
        hint="name a checkpoint of this log, or run 'brokerctl audit verify'",
    )


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """Compute PATH(index, D[size]) of RFC 6962, section 2.1.1.

    Raises ValueError when there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves does not contain leaf {index}")
    begin, end = 0, size
    path: list[bytes] = []
    while end - begin > 1:
        middle = begin + (1 << (end - begin - 1).bit_length() - 1)
        if index < middle:
            path.append(range_root(middle, end, node))
            end = middle
        else:
            path.append(range_root(begin, middle, node))
            begin = middle
    return path[::-1]
