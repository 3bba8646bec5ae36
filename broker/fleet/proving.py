"""Whether a batch is what its log has signed.

Sans-IO: what the store knows of the log and a machine's batch in, columns out.
Nothing of a machine is believed but what follows from a signature of a key of that log,
each certified by the one before, from the first one on, which is the log's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from broker.authority.audit.proof.chain import Chain, read_chain
from broker.authority.audit.proof.note import Note, parse_note
from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.postgres import EventRow, ProvedEvents
from broker.ipc.audit.ingest import SignedBatch
from broker.ipc.audit.nodes import split
from broker.ipc.audit.tree import HASH_BYTES, Growing, leaf_hash, verify_consistency

_LOG = re.compile("[0-9a-f]{32}")
_NOTES = 2 * audit_limits.SHIP_BATCH_NOTES


@dataclass(frozen=True)
class Known:
    """The part of a log that the store already has."""

    last: int = 0
    peaks: bytes = b""
    """The tree's left edge; b"" where it is not known."""
    keys: Sequence[str] = ()
    """The certificates of those of its keys that the batch needs: the newest ones, and
    those of its checkpoints' times."""


class _Event(msgspec.Struct):
    sequence: int
    time_ns: int
    kind: str
    sandbox: str = ""
    service: str = ""
    verdict: str = ""
    rule: str = ""
    broker: str = ""


def prove(untrusted: SignedBatch, known: Known) -> ProvedEvents:
    """Return the batch's events as rows of the database.  Raises RefusedError.

    Its form is checked.
    """
    chain = _chain(untrusted, known)
    if not untrusted.bodies:
        return ProvedEvents()
    broker, rows = _rows(untrusted)
    last = untrusted.first + len(untrusted.bodies) - 1
    if last <= known.last:  # it came before; the database compares it
        return ProvedEvents(untrusted.first, broker, rows)
    tree = _start(untrusted, known)
    before = b"".join(tree.peaks)
    for body in untrusted.bodies[tree.size + 1 - untrusted.first :]:
        tree.append(leaf_hash(body.encode()))
    _check_root(untrusted, tree, chain)
    edge = b"".join(tree.peaks)
    return ProvedEvents(untrusted.first, broker, rows, before, edge)


def check_form(untrusted: SignedBatch) -> None:
    """Check a batch as far as the store is not needed; raises RefusedError."""
    if not _LOG.fullmatch(untrusted.log):
        raise RefusedError("invalid name of a log")
    fits = 0 < len(untrusted.machine) <= 255 and untrusted.machine.isprintable()
    if not fits:
        raise RefusedError("invalid name of a machine")
    if len(untrusted.bodies) > audit_limits.SHIP_BATCH_EVENTS:
        raise RefusedError("too many events in one batch")
    # guard: an empty batch carries no event number
    is_one = 0 < untrusted.first < 1 << 62 if untrusted.bodies else not untrusted.first
    if not is_one:
        raise RefusedError("invalid number of an event")
    if len(untrusted.notes) > _NOTES or len(untrusted.keys) > _NOTES:
        raise RefusedError("too many checkpoints in one batch")
    if not all(0 <= one.size < 1 << 62 for one in untrusted.notes):
        raise RefusedError("invalid size of a log")
    if len(untrusted.hashes) > audit_limits.LINK_PROOF_HASHES:
        raise RefusedError("too many hashes in one batch")


def _chain(untrusted: SignedBatch, known: Known) -> Chain:
    """Verify the batch's checkpoints; return the log's chain of keys."""
    notes = [parse_note(one.note) for one in untrusted.notes]
    before = [parse_note(text) for text in known.keys]
    changes: dict[int, Note] = {}
    for note in [*before, *notes, *map(parse_note, untrusted.keys)]:
        change = note.checkpoint.change
        # A key of a log is not certified twice.
        if change and changes.setdefault(change.index, note).text != note.text:
            raise RefusedError(f"the log has two certificates of key {change.index}")
    # guard: keys that were followed are not verified again
    chain = read_chain([n for n in changes.values() if n not in before], before)
    if chain.problems:
        raise RefusedError(chain.problems[0].what)
    # guard: a log is named by its first key
    if not chain.origin.endswith(f"/{untrusted.log}"):
        raise RefusedError("the keys belong to another log")
    for one, note in zip(untrusted.notes, notes, strict=True):
        size, change = note.checkpoint.size, note.checkpoint.change
        kind = "kept" if change is None else f"key {change.index}"
        if (one.size, one.kind) != (size, kind) or note.checkpoint.head:
            raise RefusedError("a checkpoint does not match its description")
        # A checkpoint is signed by a key of its log.
        if change is None and chain.signer_of(note) is None:
            raise RefusedError(f"no key of this log signed the checkpoint at {size}")
    return chain


def _start(untrusted: SignedBatch, known: Known) -> Growing:
    """Return the log's Merkle tree before the batch's first new event.

    From stored peaks, or from those in the batch.  Raises RefusedError.
    """
    at = untrusted.first - 1
    if at <= known.last and (known.peaks or not known.last):
        return Growing(known.last, split(known.peaks))
    # What the machine says of events that are not here follows from its signature.
    try:
        peaks = bytes.fromhex(untrusted.before)
    except ValueError as error:
        raise RefusedError("invalid edge of a tree") from error
    if len(peaks) != HASH_BYTES * at.bit_count():
        raise RefusedError("invalid edge of a tree")
    return Growing(at, split(peaks))


def _check_root(untrusted: SignedBatch, tree: Growing, chain: Chain) -> None:
    """Check that a signed checkpoint covers the batch's events.

    Raises RefusedError.
    """
    note = parse_note(untrusted.proof)
    checkpoint = note.checkpoint
    # guard: what proves events is signed, a first key's certificate too
    if chain.signer_of(note) is None:
        raise RefusedError("no key of this log signed the checkpoint of these events")
    try:
        hashes = [bytes.fromhex(text) for text in untrusted.hashes]
    except ValueError as error:
        raise RefusedError("the hashes of the proof are invalid") from error
    # guard: the store refuses events that their log has not signed
    if checkpoint.size < tree.size or not verify_consistency(
        tree.size, tree.root(), checkpoint.size, checkpoint.root, hashes
    ):
        raise RefusedError("the events differ from those that the log has signed")


def _rows(untrusted: SignedBatch) -> tuple[str, list[EventRow]]:
    """Return the broker that recorded the events, and each one's database row."""
    broker = ""
    rows: list[EventRow] = []
    decode = msgspec.json.Decoder(_Event).decode
    for number, body in enumerate(untrusted.bodies, untrusted.first):
        try:
            event = decode(body)
        except UNREADABLE as error:
            raise RefusedError(f"event {number} is invalid: {error}") from error
        if event.sequence != number or abs(event.time_ns) >= 1 << 63:
            raise RefusedError(f"event {number} has another number or an invalid time")
        broker = broker or event.broker
        texts = [event.kind, event.sandbox, event.service, event.verdict, event.rule]
        rows.append((event.time_ns, [*texts, body]))
    return broker, rows
