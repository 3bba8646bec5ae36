"""Sealing: signed checkpoints, their times, and the table ``checkpoint``.

* ``head``: one row, signed again inside every commit, so the log's end is
  always under a signature and never ahead of it;
* ``kept``: checkpoints that were published since the key changed last.  Their
  text differs from a head's: with equal texts, an attacker who deletes the events
  after a published checkpoint would have the signed head of a shorter log;
* ``witnessed PEER``: the newest checkpoint that the peer is known to hold;
* ``key N``: one for each key of the log, the first at its beginning.  The key
  changes at each start, too, so that no head of an earlier run is valid.

All of this runs in the store's one thread.

The authority seals, and ``brokerctl audit gc`` if no broker runs; ``brokerctl audit
verify`` uses ``says_end`` alone.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from broker.authority.audit.proof.ed25519 import is_signed_by
from broker.authority.audit.proof.keys import KeyFile, SigningKey
from broker.authority.audit.proof.note import Checkpoint, KeyChange, Note, parse_note
from broker.core.errors import IntegrityError, RefusedError
from broker.ipc.audit.database import transaction
from broker.ipc.audit.tree import Growing

_INSERT = "INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?)"
WITNESSED = "witnessed "
_HINT = "to see the problem, run 'brokerctl audit verify'; to begin a new log, move audit.sqlite and audit.key away"


class Seal:
    """Signs for one open log; made by ``open_seal``."""

    def __init__(self, db: sqlite3.Connection, file: KeyFile, key: SigningKey) -> None:
        self._db = db
        self._file = file
        self.key = key
        self._head = -1
        """Size of the head on disk, -1: none."""
        self._signed = -1
        """Size of the head in the transaction that runs."""
        self._unnoted = False
        """Whether the key's file does not know the head on disk."""

    def sign_head(self, tree: Growing) -> None:
        """Replace the signed head by one for this tree, in the transaction that runs.

        Raises OSError when the newest size of the commit before could not be
        noted, and still cannot: no more than one commit is ever unknown to the
        key's file.
        """
        if self._unnoted:
            # guard: a size that was not noted stops the next commit
            self._file.record_newest(self._head)
            self._unnoted = False
        if self._head >= 0:
            last = "DELETE FROM checkpoint WHERE size = ? AND kind = 'head'"
            self._db.execute(last, (self._head,))
        signed = self._signed_note(tree, head=True)
        row = (tree.size, "head", time.time_ns(), signed)
        self._db.execute(_INSERT, row)
        self._signed = tree.size

    def _signed_note(self, tree: Growing, *, head: bool) -> str:
        note = Checkpoint(self.key.origin, tree.size, tree.root(), head=head)
        return note.signed(self.key.private, self.key.public)

    def committed(self) -> None:
        """Record the newest signed size, after the transaction of ``sign_head``.

        If the disk refuses it, the next ``sign_head`` fails instead of this: the
        events are committed, and an error here would report events as lost that
        are in the log.
        """
        self._head = self._signed
        try:
            # guard: the newest size follows each commit
            self._file.record_newest(self._head)
        except OSError:
            self._unnoted = True

    def close(self) -> None:
        """Sync the key's file, which has the newest size of the log, and close it.

        Raises OSError.
        """
        try:
            self._file.flush()
        finally:
            self._file.close()

    def keep_checkpoint(self, tree: Growing) -> str:
        """Sign a checkpoint of the log as it is now, store it, and return it.

        Raises sqlite3.Error, or OSError from the key's file.
        """
        # A published log must not be longer than the key's file records.
        self._file.flush()
        note = self._signed_note(tree, head=False)
        row = (tree.size, "kept", time.time_ns(), note)
        self._db.execute("INSERT OR IGNORE INTO checkpoint VALUES (?, ?, ?, ?)", row)
        (kept,) = self._db.execute(
            "SELECT note FROM checkpoint WHERE size = ? AND kind = 'kept'",
            (tree.size,),
        ).fetchone()
        return str(kept)

    def certificates(self, begin: int, most: int) -> list[str]:
        """Return the notes that certify keys, from number ``begin`` on.

        Raises sqlite3.Error.
        """
        rows = self._db.execute(
            "SELECT note FROM checkpoint WHERE substr(kind, 1, 4) = 'key '"
            " AND CAST(substr(kind, 5) AS INTEGER) >= ?"
            " ORDER BY CAST(substr(kind, 5) AS INTEGER) LIMIT ?",
            (begin, most),
        )
        return [note for (note,) in rows]

    def keep_witnessed(self, peer: str, note: str) -> None:
        """Keep the newest checkpoint that a peer holds, in place of the one before.

        Raises sqlite3.Error.
        """
        kind = f"{WITNESSED}{peer}"
        size = parse_note(note).checkpoint.size
        with transaction(self._db):
            self._db.execute("DELETE FROM checkpoint WHERE kind = ?", (kind,))
            self._db.execute(_INSERT, (size, kind, time.time_ns(), note))

    def evolve(self, tree: Growing) -> str:
        """Change to a next key and erase this one; return the signed note.

        The next key is on disk before it is certified, and this one is erased
        after that, so a crash anywhere leaves one of the two in force.

        Raises sqlite3.Error or UpstreamError; this key is then still in force.
        """
        old, new = self.key, self.key.next(tree.size)
        self._file.keep(old)
        self._file.stage(new)
        change = KeyChange(new.index, new.public)
        note = Checkpoint(old.origin, tree.size, tree.root(), change)
        signed = note.signed(old.private, old.public)
        row = tree.size, _kind(new.index), time.time_ns(), signed
        try:
            with transaction(self._db) as db:
                db.execute(_INSERT, row)
                # This one covers them; without the removal they would accumulate.
                db.execute("DELETE FROM checkpoint WHERE kind = 'kept'")
                self.key = new
                self.sign_head(tree)
        except BaseException:
            self.key = old
            raise
        self._head = self._signed
        self._file.adopt()
        return signed


def _kind(index: int) -> str:
    # Two changes may be at one size, when a log slept in between.
    return f"key {index}"


def open_seal(db: sqlite3.Connection, tree: Growing, path: Path) -> Seal:
    """Begin or continue signing a log; an existing log gets its next key.

    Raises IntegrityError when log and key do not fit together: one of them was
    changed, rolled back or removed; then nothing may be sealed.  UpstreamError,
    sqlite3.Error or OSError when the disk refuses.
    """
    file = KeyFile(path)
    last = _last_change(db)
    key = _settled(file, last)
    if last is None and key is not None:
        raise IntegrityError(
            "the audit log has a key, but its checkpoints are missing", hint=_HINT
        )
    if last is None or last.change is None:
        return _begin(db, tree, file)
    index, public, origin = last.change.index, last.change.key, last.origin
    if key is None:
        if (index, last.size, last.root) == (0, tree.size, tree.root()):
            # A crash between the first certificate and its key file; nothing
            # was recorded since, so nothing can have been changed.
            return _begin(db, tree, file)
        raise IntegrityError("the audit log's key is missing", hint=_HINT)
    if (key.index, key.public, key.origin) != (index, public, origin):
        raise IntegrityError(
            f"the audit log's key is number {key.index}, but the log's last key is number {index}: one of them is an older copy, or belongs to another log",
            hint=_HINT,
        )
    seal = Seal(db, file, key)
    _check_head(db, tree, seal)
    file.follow()
    try:
        # guard: a new key at each start
        seal.evolve(tree)
    except BaseException:
        file.close()
        raise
    return seal


def _settled(file: KeyFile, last: Checkpoint | None) -> SigningKey | None:
    """Return the key in force, also after a crash in the middle of a change.

    The log decides: a next key that it certifies is in force, another is not.  Writes
    the key's files: the staged key replaces the old one, or is erased.
    """
    staged = file.staged()
    change = None if last is None else last.change
    if staged is None:
        return file.load()
    if change == KeyChange(staged.index, staged.public):
        file.adopt()
        return staged
    file.discard()
    return file.load()


def _begin(db: sqlite3.Connection, tree: Growing, file: KeyFile) -> Seal:
    """Create the first key, certified by itself, and the log's first checkpoint.

    The log first: a key without checkpoints would mean that they were removed.
    """
    key = SigningKey.first(tree.size)
    change = KeyChange(0, key.public)
    note = Checkpoint(key.origin, tree.size, tree.root(), change)
    signed = note.signed(key.private, key.public)
    seal = Seal(db, file, key)
    with transaction(db):
        db.execute("DELETE FROM checkpoint")
        db.execute(_INSERT, (tree.size, _kind(0), time.time_ns(), signed))
        seal.sign_head(tree)
    seal._head = tree.size  # noqa: SLF001 -- its maker
    file.stage(key)
    file.adopt()
    return seal


def says_end(note: Note, key: SigningKey) -> bool:
    """Return whether a note that the key signed says that the log ends there."""
    # guard: a head is no checkpoint, at the start
    return note.checkpoint.head or key.newest is None


def _last_change(db: sqlite3.Connection) -> Checkpoint | None:
    """Read the checkpoint that records the newest change of the signing key."""
    rows = db.execute(
        "SELECT note FROM checkpoint WHERE substr(kind, 1, 4) = 'key '"
    ).fetchall()
    changes = [_parse(note).checkpoint for (note,) in rows]
    return max(changes, key=lambda c: c.change.index if c.change else -1, default=None)


def _parse(note: str) -> Note:
    try:
        return parse_note(note)
    except RefusedError as error:
        raise IntegrityError(
            f"a checkpoint of the audit log was changed: {error.message}", hint=_HINT
        ) from error


def _check_head(db: sqlite3.Connection, tree: Growing, seal: Seal) -> None:
    """Compare the log's end with the signed one, or we would seal a forgery."""
    # guard: the key knows the newest size, at the start
    if tree.size < (seal.key.newest or 0):
        raise IntegrityError(
            f"the audit log has {tree.size} events, but had {seal.key.newest}: it was truncated, or is an older copy",
            hint=_HINT,
        )
    row = db.execute(
        "SELECT note FROM checkpoint WHERE size = ? AND kind = 'head'", (tree.size,)
    ).fetchone()
    note = None if row is None else _parse(row[0])
    if (
        note is None
        or note.checkpoint.root != tree.root()
        or not is_signed_by(note, seal.key.public)
        or not says_end(note, seal.key)
    ):
        raise IntegrityError(
            f"the audit log's end, at {tree.size} events, differs from the signed log",
            hint=_HINT,
        )
    seal._head = tree.size  # noqa: SLF001 -- its maker
