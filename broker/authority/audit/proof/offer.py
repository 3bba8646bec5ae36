"""A checkpoint that is offered to a witness, and its fate.

The authority makes an offer; host and viewer send it over the link and report its fate.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from broker.authority.audit.proof.note import Note


class WitnessFate(enum.Enum):
    """Outcome of a checkpoint that was received."""

    KEPT = "kept"
    UNSIGNED = "unsigned"
    """No key that is known here signed it: its certificates are missing."""
    UNPROVED = "unproved"
    """No proof came with it that leads from the newest checkpoint held."""
    CHANGED = "changed"
    """The proof is wrong: the held checkpoint is not of the beginning of that log."""
    BACK = "back"
    """The checkpoint has fewer events than the newest checkpoint held."""
    FORKED = "forked"
    """The checkpoint has another root at the same size."""


@dataclass(frozen=True)
class WitnessOffer:
    """A checkpoint of a peer's log, and the proofs that came with it."""

    note: Note
    since: int = 0
    proof: Sequence[bytes] = ()
    keys: Sequence[Note] = ()
    """Certificates of its keys, in order, from the first one unknown here."""


@dataclass(frozen=True)
class WitnessAnswer:
    """The fate of an offer, and the checkpoint that is held here."""

    fate: WitnessFate
    before: Note | None
    """The newest checkpoint held of that log."""
    key: int
    """The number of the newest key that is known, -1: none."""
    restarted: str = ""
    """The log that this peer had before, where it had another one."""
