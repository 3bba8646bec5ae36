"""Checkpoints of other brokers' logs, kept in this one's file: it is their witness.

Everything that comes over the link is a peer's claim, and the peer may have been
taken over.  So of each peer and log the keys are kept, too, each certified by the one
before and the first one by the log's name; a checkpoint is kept only when such a
key signed it and a proof shows that the log begins with the part that is held
already (RFC 6962, 2.1.2).  Then nothing that is held can be pushed out by
something made up: the newest one always represents all before it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from broker.authority.audit.proof.ed25519 import is_signed_by
from broker.authority.audit.proof.note import Note, origin_of, parse_note
from broker.authority.audit.proof.offer import WitnessAnswer, WitnessFate, WitnessOffer
from broker.core.errors import RefusedError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit.database import transaction
from broker.ipc.audit.tree import verify_consistency


def hold_note(db: sqlite3.Connection, peer: str, offer: WitnessOffer) -> WitnessAnswer:
    """Store a peer's checkpoint if it is signed and continues the stored one.

    Of each log the first one and the newest ``audit_limits.AUDIT_WITNESSED`` are kept.

    Raises RefusedError for certificates that do not follow each other and for one
    log too many of this peer, sqlite3.Error; then nothing of it is kept.
    """
    with transaction(db):
        return _hold(db, peer, offer)


def _hold(db: sqlite3.Connection, peer: str, offer: WitnessOffer) -> WitnessAnswer:
    """Check a peer's checkpoint and store it if it extends the last one."""
    origin = offer.note.checkpoint.origin
    other = newest_origin(db, peer)
    _check_logs(db, peer, origin)
    key = _take_keys(db, peer, origin, offer.keys)
    signers = _keys(db, peer, origin)
    before = _newest(db, peer, origin) or _proved_old(db, peer, origin, signers)
    fate = _fate(offer, before, signers)
    if fate is WitnessFate.KEPT:
        _insert(db, peer, offer.note)
    restarted = other if other != origin and before is None else ""
    return WitnessAnswer(fate, before, key, restarted)


def _fate(
    offer: WitnessOffer, before: Note | None, signers: Sequence[bytes]
) -> WitnessFate:
    """Return the fate of an offered checkpoint: older, unsigned, unproved or held."""
    note = offer.note
    if before is not None and note.checkpoint.size < before.checkpoint.size:
        return (
            WitnessFate.BACK
        )  # for any signer: a log that was rolled back has new keys
    # guard: a witness asks for a signature
    if not any(is_signed_by(note, key) for key in signers):
        return WitnessFate.UNSIGNED
    if before is None:
        return WitnessFate.KEPT
    new, old = note.checkpoint, before.checkpoint
    if new.size == old.size:
        return WitnessFate.KEPT if new.root == old.root else WitnessFate.FORKED
    if old.size == 0:
        return WitnessFate.KEPT  # nothing is the beginning of everything
    if offer.since != old.size or not offer.proof:
        # guard: a witness asks for a proof
        return WitnessFate.UNPROVED
    sizes = old.size, old.root, new.size, new.root
    good = verify_consistency(*sizes, offer.proof)
    return WitnessFate.KEPT if good else WitnessFate.CHANGED


def _check_logs(db: sqlite3.Connection, peer: str, origin: str) -> None:
    """Raise RefusedError if a peer has too many logs."""
    rows = db.execute(
        "SELECT DISTINCT origin FROM witness_key WHERE peer = ?", (peer,)
    ).fetchall()
    logs = {found for (found,) in rows}
    # guard: a peer has few logs
    if origin not in logs and len(logs) >= audit_limits.AUDIT_WITNESS_LOGS:
        raise RefusedError(
            f"cannot store a checkpoint of a new log of this peer: {len(logs)} logs, the limit, are stored",
            hint="stop the broker, and delete the peer's old logs from the tables 'witness' and 'witness_key' of audit.sqlite",
        )


def _take_keys(
    db: sqlite3.Connection, peer: str, origin: str, keys: Sequence[Note]
) -> int:
    """Store certificates that follow the newest known one; return its number."""
    row = db.execute(
        "SELECT note FROM witness_key WHERE peer = ? AND origin = ? "
        "ORDER BY number DESC LIMIT 1",
        (peer, origin),
    ).fetchone()
    last = None if row is None else parse_note(row[0])
    for note in keys:
        number = _number(note)
        if last is not None and 0 <= number <= _number(last):
            continue  # known already
        _check_follows(origin, last, note)
        db.execute(
            "INSERT INTO witness_key VALUES (?, ?, ?, ?)",
            (peer, origin, number, note.whole),
        )
        last = note
    if last is None:
        return -1
    db.execute(
        "DELETE FROM witness_key WHERE peer = ? AND origin = ? AND number <= ?",
        (peer, origin, _number(last) - audit_limits.AUDIT_WITNESSED),
    )
    return _number(last)


def _number(note: Note) -> int:
    change = note.checkpoint.change
    return -1 if change is None else change.index


def _check_follows(origin: str, last: Note | None, note: Note) -> None:
    """Raise RefusedError unless the certificate is the one after ``last``."""
    change = note.checkpoint.change
    if change is None or note.checkpoint.origin != origin:
        raise RefusedError("the certificate is for a key of another log")
    if last is None:
        good = change.index == 0 and origin_of(change.key) == origin
        signer = change.key
    else:
        assert last.checkpoint.change is not None
        good = change.index == last.checkpoint.change.index + 1
        good &= note.checkpoint.size >= last.checkpoint.size
        signer = last.checkpoint.change.key
    # guard: a witness follows the keys
    if not good or not is_signed_by(note, signer):
        raise RefusedError(
            f"the certificate of key {change.index} does not follow the stored ones"
            if not good
            else f"the certificate of key {change.index} has an invalid signature"
        )


def _keys(db: sqlite3.Connection, peer: str, origin: str) -> list[bytes]:
    """Return the newest keys: a note may be signed by one from just before a change."""
    rows = db.execute(
        "SELECT note FROM witness_key WHERE peer = ? AND origin = ? "
        "ORDER BY number DESC LIMIT ?",
        (peer, origin, audit_limits.AUDIT_WITNESS_KEYS),
    ).fetchall()
    changes = [parse_note(text).checkpoint.change for (text,) in rows]
    return [change.key for change in changes if change is not None]


def _newest(db: sqlite3.Connection, peer: str, origin: str) -> Note | None:
    """Read the newest checkpoint that is held of a peer's log."""
    row = db.execute(
        "SELECT note FROM witness WHERE peer = ? AND origin = ? "
        "ORDER BY size DESC LIMIT 1",
        (peer, origin),
    ).fetchone()
    return None if row is None else parse_note(row[0])


def _proved_old(
    db: sqlite3.Connection, peer: str, origin: str, signers: Sequence[bytes]
) -> Note | None:
    """Return the newest note of before that a known key signed, and store it."""
    rows = db.execute(
        "SELECT note FROM witness_unproved WHERE peer = ? AND origin = ? "
        "ORDER BY size DESC",
        (peer, origin),
    ).fetchall()
    for (text,) in rows:
        note = parse_note(text)
        # guard: old notes are proved
        if any(is_signed_by(note, key) for key in signers):
            _insert(db, peer, note)
            return note
    return None


def _insert(db: sqlite3.Connection, peer: str, note: Note) -> None:
    """Write a peer's checkpoint into the table; keep the first and the newest ones."""
    seen = note.checkpoint
    db.execute(
        "INSERT OR IGNORE INTO witness VALUES (?, ?, ?, ?, ?)",
        (peer, seen.origin, seen.size, time.time_ns(), note.whole),
    )
    db.execute(
        "DELETE FROM witness WHERE peer = ?1 AND origin = ?2 AND size NOT IN ("
        "SELECT size FROM witness WHERE peer = ?1 AND origin = ?2"
        " ORDER BY size DESC LIMIT ?3)"
        " AND size != (SELECT min(size) FROM witness WHERE peer = ?1 AND origin = ?2)",
        (peer, seen.origin, audit_limits.AUDIT_WITNESSED),
    )


def newest_origin(db: sqlite3.Connection, peer: str) -> str:
    """Return the log that the peer sent checkpoints of last, "" if none.

    Raises sqlite3.Error.
    """
    row = db.execute(
        "SELECT origin FROM witness WHERE peer = ? ORDER BY time_ns DESC LIMIT 1",
        (peer,),
    ).fetchone()
    return "" if row is None else str(row[0])
