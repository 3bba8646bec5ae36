"""Whether a batch is what its log has signed.

Sans-IO: what the store knows of the log and a machine's batch in, columns out.
Nothing of a machine is believed but what follows from a signature of a key of that log,
each certified by the one before, from the first one on, which is the log's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from broker.authority.audit.proof.chain import Chain, read_chain
from broker.authority.audit.proof.note import Note, parse_note
from broker.core.errors import RefusedError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit.ingest import SignedBatch
from broker.ipc.audit.nodes import split
from broker.ipc.audit.tree import HASH_BYTES, Growing, leaf_hash, verify_consistency

_LOG = re.compile("[0-9a-f]{32}")
_NOTES = 2 * audit_limits.SHIP_BATCH_NOTES


@dataclass(frozen=True)
class Known:
    """What the store has of a log."""

    last: int = 0
    peaks: bytes = b""
    """The tree's left edge; b"" where it is not known."""
    keys: Sequence[str] = ()
    """The certificates of its keys."""


class _Event(msgspec.Struct):
    sequence: int
    time_ns: int
    kind: str
    sandbox: str = ""
    service: str = ""
    verdict: str = ""
    rule: str = ""
    broker: str = ""


@dataclass
class Columns:
    """A proved batch, as the database takes it."""

    first: int
    broker: str = ""
    times: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    sandboxes: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    before: bytes = b""
    edge: bytes = b""


def prove(untrusted: SignedBatch, known: Known) -> Columns:
    """Return the batch's columns.  Raises RefusedError."""
    _check_form(untrusted)
    chain = _chain(untrusted, known)
    if not untrusted.bodies:
        return Columns(0)
    columns = _columns(untrusted)
    last = untrusted.first + len(untrusted.bodies) - 1
    if last <= known.last:
        return columns  # it came before; the database compares it
    tree = _start(untrusted, known)
    columns.before = b"".join(tree.peaks)
    for body in untrusted.bodies[tree.size + 1 - untrusted.first :]:
        tree.append(leaf_hash(body.encode()))
    _check_root(untrusted, tree, chain)
    columns.edge = b"".join(tree.peaks)
    return columns


def _check_form(untrusted: SignedBatch) -> None:
    if not _LOG.fullmatch(untrusted.log):
        raise RefusedError("not the name of a log")
    fits = 0 < len(untrusted.machine) <= 255 and untrusted.machine.isprintable()
    if not fits:
        raise RefusedError("not the name of a machine")
    if len(untrusted.bodies) > audit_limits.SHIP_BATCH_EVENTS:
        raise RefusedError("too many events in one batch")
    if untrusted.bodies and not 0 < untrusted.first < 1 << 62:
        raise RefusedError("not the number of an event")
    if len(untrusted.notes) > _NOTES or len(untrusted.keys) > _NOTES:
        raise RefusedError("too many checkpoints in one batch")
    if len(untrusted.hashes) > audit_limits.LINK_PROOF_HASHES:
        raise RefusedError("too many hashes")


def _chain(untrusted: SignedBatch, known: Known) -> Chain:
    """The log's keys; each checkpoint of the batch is signed by one of them."""
    notes = [parse_note(one.note) for one in untrusted.notes]
    fresh = [*notes, *map(parse_note, untrusted.keys)]
    changes: dict[int, Note] = {}
    for note in [*map(parse_note, known.keys), *fresh]:
        change = note.checkpoint.change
        # A key of a log is not certified twice.
        if change and changes.setdefault(change.index, note).text != note.text:
            raise RefusedError(f"another certificate of key {change.index}")
    chain = read_chain(changes.values())
    if chain.problems:
        raise RefusedError(chain.problems[0].what)
    # guard: a log is named by its first key
    if not chain.origin.endswith(f"/{untrusted.log}"):
        raise RefusedError("its keys are those of another log")
    for one, note in zip(untrusted.notes, notes, strict=True):
        size, change = note.checkpoint.size, note.checkpoint.change
        kind = "kept" if change is None else f"key {change.index}"
        if (one.size, one.kind) != (size, kind) or note.checkpoint.head:
            raise RefusedError("a checkpoint is not what it is said to be")
        # A checkpoint is signed by a key of its log.
        if change is None and chain.signer_of(note) is None:
            raise RefusedError(f"no key of this log signed the checkpoint at {size}")
    return chain


def _start(untrusted: SignedBatch, known: Known) -> Growing:
    """The tree before the first new event."""
    at = untrusted.first - 1
    if at <= known.last and (known.peaks or not known.last):
        return Growing(known.last, split(known.peaks))
    # What the machine says of events that are not here follows from its signature.
    try:
        peaks = bytes.fromhex(untrusted.before)
    except ValueError as error:
        raise RefusedError("not an edge of a tree") from error
    if len(peaks) != HASH_BYTES * at.bit_count():
        raise RefusedError("not an edge of a tree")
    return Growing(at, split(peaks))


def _check_root(untrusted: SignedBatch, tree: Growing, chain: Chain) -> None:
    note = parse_note(untrusted.proof)
    checkpoint = note.checkpoint
    first_key = checkpoint.change is not None and checkpoint.change.index == 0
    if chain.signer_of(note) is None and not first_key:
        raise RefusedError("no key of this log signed what is to prove the events")
    try:
        hashes = [bytes.fromhex(text) for text in untrusted.hashes]
    except ValueError as error:
        raise RefusedError("not hashes") from error
    # guard: events are what their log has signed
    if checkpoint.size < tree.size or not verify_consistency(
        tree.size, tree.root(), checkpoint.size, checkpoint.root, hashes
    ):
        raise RefusedError("the events are not those that the log has signed")


def _columns(untrusted: SignedBatch) -> Columns:
    columns = Columns(untrusted.first, bodies=untrusted.bodies)
    decode = msgspec.json.Decoder(_Event).decode
    for number, body in enumerate(untrusted.bodies, untrusted.first):
        try:
            event = decode(body)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise RefusedError(f"event {number} is not one: {error}") from error
        if event.sequence != number or abs(event.time_ns) >= 1 << 63:
            raise RefusedError(f"event {number} has another number or no time")
        columns.broker = columns.broker or event.broker
        columns.times.append(event.time_ns)
        columns.kinds.append(_text(event.kind))
        columns.sandboxes.append(_text(event.sandbox))
        columns.services.append(_text(event.service))
        columns.verdicts.append(_text(event.verdict))
        columns.rules.append(_text(event.rule))
    return columns


def _text(text: str) -> str:
    """PostgreSQL's text has no zero character."""
    return text.replace("\0", "\\x00")
