"""The keys of a log, from its first one on: each certified by the one before.

Pure: checkpoints in, keys and their problems out.

brokerctl checks a log by this, and a fleet's ingest service what machines ship; the
authority does not run it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from broker.authority.audit.proof.ed25519 import is_signed_by
from broker.authority.audit.proof.note import ED25519, Note, key_id, origin_of


@dataclass(frozen=True)
class ChainProblem:
    """Something that is not as it was written.

    ``first`` and ``last`` are the events that it is about, both 0 for the log
    as a whole.
    """

    first: int
    last: int
    what: str

    @property
    def where(self) -> str:
        """Return which events the problem concerns, as text for the user."""
        if not self.last:
            return "the log"
        if self.first == self.last:
            return f"event {self.first}"
        return f"events {self.first} to {self.last}"


@dataclass(frozen=True)
class Key:
    """A key and the size from which on it signed."""

    index: int
    public: bytes
    size: int


@dataclass
class Chain:
    """All keys of a log; ``keys`` ends where the chain is broken."""

    origin: str = ""
    keys: list[Key] = field(default_factory=list)
    problems: list[ChainProblem] = field(default_factory=list)

    def signer_of(self, note: Note) -> Key | None:
        """Return the key that signed a checkpoint, if it was a key of its time."""
        size = note.checkpoint.size
        for place, key in enumerate(self.keys):
            after = self.keys[place + 1 : place + 2]
            in_time = key.size <= size and (not after or size <= after[0].size)
            if in_time and is_signed_by(note, key.public):
                return key
        return None

    @property
    def sealed(self) -> int:
        """The size at the last change of keys: no key of before exists."""
        return self.keys[-1].size if self.keys else 0

    @property
    def first_key(self) -> str:
        """The first key as verifiers of notes take it."""
        return verifier_key(self.origin, self.keys[0].public) if self.keys else ""


def verifier_key(name: str, key: bytes) -> str:
    """Return a public key as verifiers of notes take it: name, id, type and key."""
    coded = base64.b64encode(ED25519 + key).decode()
    return f"{name}+{key_id(name, key).hex()}+{coded}"


def read_chain(changes: Iterable[Note], known: Iterable[Note] = ()) -> Chain:
    """Verify the chain of a log's keys from the first one; stop at the first mistake.

    Those of ``known`` were followed before, and are some of the log's: ``changes`` come
    after the last of them.
    """
    notes = [note for note in changes if note.checkpoint.change is not None]
    notes.sort(key=_index)
    chain = Chain()
    for note in sorted(known, key=_index):
        chain.origin = note.checkpoint.origin
        _append(chain, note)
    if not notes and not chain.keys:
        chain.problems.append(ChainProblem(0, 0, "the log has no signing key"))
        return chain
    chain.origin = chain.origin or notes[0].checkpoint.origin
    begin = chain.keys[-1].index + 1 if chain.keys else 0
    for expected, note in enumerate(notes, begin):
        wrong = _wrong(chain.keys, chain.origin, expected, note)
        if wrong:
            size = note.checkpoint.size
            first = chain.sealed + 1
            place = (first, size) if size >= first else (0, 0)
            chain.problems.append(ChainProblem(*place, wrong))
            break
        _append(chain, note)
    return chain


def _append(chain: Chain, note: Note) -> None:
    change = note.checkpoint.change
    assert change is not None
    chain.keys.append(Key(change.index, change.key, note.checkpoint.size))


def _index(note: Note) -> int:
    change = note.checkpoint.change
    return -1 if change is None else change.index


def _wrong(keys: Sequence[Key], origin: str, expected: int, note: Note) -> str:
    """Return the problem of the next change of keys, "" for none."""
    checkpoint = note.checkpoint
    change = checkpoint.change
    assert change is not None
    if change.index != expected:
        return f"the certificate of key {expected} is missing"
    if checkpoint.origin != origin:
        return f"the certificate of key {expected} belongs to another log"
    if not keys:
        if origin_of(change.key) != origin:
            return "the log's first key does not match its name"
        signer = change.key
    else:
        signer = keys[-1].public
        if checkpoint.size < keys[-1].size:
            return f"key {expected} is certified at a smaller size than the last key"
    if not is_signed_by(note, signer):
        return f"the certificate of key {expected} is not signed by the previous key"
    return ""
