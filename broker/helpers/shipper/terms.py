"""The shipped items and the interface of a receiver.

The shipper and brokerctl use them, and a fleet's ingest service for what it stores.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from broker.core.escape import printable
from broker.ipc.audit.ingest import SignedNote

Fields = dict[str, object]

_NAMESPACE = uuid.UUID("c64f7a1e-2f0e-5a8c-9a53-0d1f6b3c9b7e")


@dataclass(frozen=True)
class ShippedItem:
    """One event as it is in the log."""

    sequence: int
    time_ns: int
    kind: str
    body: str
    """The JSON, byte for byte as it was recorded."""
    leaf: bytes
    """Its hash in the log's tree (RFC 6962, 2.1)."""
    fields: Fields = field(repr=False)

    def text(self, name: str) -> str:
        """A field as text, "" when it does not apply."""
        value = self.fields.get(name)
        return "" if value is None else str(value)


@dataclass(frozen=True)
class BatchProof:
    """The log's signed end, and that the batch's end is a beginning of it."""

    note: str
    """A signed checkpoint of the batch's end, or of a later size."""
    hashes: Sequence[bytes]
    """That the batch's end is a beginning of it (RFC 6962, 2.1.2)."""
    keys: Sequence[str]
    """Certificates of keys between them."""


@dataclass(frozen=True)
class Batch:
    """Events in the order of their numbers, without a gap between them.

    There may be none, when there are only checkpoints.
    """

    log: bytes
    """The log's name, 16 bytes, as in its checkpoints' origin: another log
    counts from 1 again."""
    machine: str
    items: Sequence[ShippedItem]
    missing: int = 0
    """So many events before the first one are gone: retention removed them, or
    the log is not whole."""
    notes: Sequence[SignedNote] = ()
    """Checkpoints of sizes up to the last event that the receiver then has."""
    before: bytes = b""
    edge: bytes = b""
    """The hashes of the log's left edge (``tree.Growing.peaks``), one after the other,
    before the first event and after the last one; b"" where they are not known."""
    proof: BatchProof | None = None
    """What proves the events to who asks for it."""

    @property
    def first(self) -> int:
        """The number of the first event."""
        return self.items[0].sequence

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self.items[-1].sequence


class Target(Protocol):
    """A receiver.  Its methods block and are called in a thread, one at a time.

    ``proves``: whether its batches need a ``BatchProof``.  ``waits``: whether events are
    collected for it.  ``beats``: whether it takes an empty batch as a sign of life.

    They raise UpstreamError when the receiver is dead or slow (the batch comes
    again), SetupError when a user has to mend something (so it does then),
    IntegrityError when the receiver has other events under these numbers.
    """

    proves: bool = False
    waits: bool = False
    beats: bool = False

    def position(self, log: bytes) -> tuple[int, str] | None:
        """Return the last number of this log that the receiver surely has.

        With it the hash of that event as hex, "" where it does not know that.
        None: it cannot say, and the cursor on disk is believed.
        """
        ...

    def send(self, batch: Batch) -> None:
        """Deliver a batch; when this returns, the receiver has it."""
        ...

    def close(self) -> None:
        """Let go of connections; it may be used again."""
        ...

    def interrupt(self) -> None:
        """Make what blocks in the other thread fail soon; from any thread."""
        ...


def record_id(log: bytes, sequence: int) -> str:
    """A UUID that is the same whenever this event is sent."""
    return str(uuid.uuid5(_NAMESPACE, f"{log.hex()}/{sequence}"))


def note_id(log: bytes, sealed: SignedNote) -> str:
    """The same for a checkpoint."""
    return str(uuid.uuid5(_NAMESPACE, f"{log.hex()}/{sealed.size}/{sealed.kind}"))


def summary(item: ShippedItem) -> str:
    """Return an event in a line for people who look at it elsewhere."""
    words = [printable(item.kind, 40)]
    names = ("sandbox", "service", "argument", "object", "verdict", "outcome")
    words += [printable(item.text(n), 100) for n in names if item.text(n)]
    line = " ".join(words)
    if item.text("reason"):
        line += f": {printable(item.text('reason'), 400)}"
    if item.text("rule"):
        line += f" ({printable(item.text('rule'), 200)})"
    return line


BAD_ENDS = (".refused", ".failed", ".died", ".hop-failed", ".gap", ".conflict")
"""Endings of the kinds that a user should look at."""


def is_bad(item: ShippedItem) -> bool:
    """Return whether a user should look at it: refused, denied, failed."""
    return item.kind.endswith(BAD_ENDS) or item.text("verdict") == "deny"
