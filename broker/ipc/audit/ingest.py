"""What a machine's shipper and a fleet's ingest service say to each other, in JSON.

``POST /v1/batch`` has a ``SignedBatch`` (gzip), ``GET /v1/position/LOG`` nothing; both
are answered by a ``Position``, or by a ``Refusal`` and a status of 400 and more.
"""

from __future__ import annotations

import msgspec

BATCH_BYTES = 8 << 20
"""Of one batch, unpacked; a shipper sends events of 1 MiB, escaped, and checkpoints."""


class SignedNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed checkpoint of the log (c2sp.org/tlog-checkpoint)."""

    size: int
    kind: str
    """``kept``, or ``key N`` when it certifies a key."""
    note: str


class SignedBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Events ``first`` and on, and what proves them."""

    log: str
    """The end of its checkpoints' origin, 32 hex digits."""
    machine: str
    first: int = 0
    bodies: list[str] = []
    before: str = ""
    """The left edge of the tree before ``first``, hex."""
    notes: list[SignedNote] = []
    proof: str = ""
    """A checkpoint of the last event or of a later size."""
    hashes: list[str] = []
    """That the last event's size is a beginning of it (RFC 6962, 2.1.2), hex."""
    keys: list[str] = []


class Position(msgspec.Struct, forbid_unknown_fields=True):
    """The part of a log that the store already has."""

    last: int
    leaf: str


class Refusal(msgspec.Struct, forbid_unknown_fields=True):
    """Why not."""

    error: str
    hint: str = ""
