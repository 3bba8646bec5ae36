"""Compare the events in a fleet's store with each machine's signatures.

The machine's checkpoints are in the store beside its events, and were there
before the machine's log could be changed after them.  So the tree of
the store's events must have the roots that the machine signed; if it has not,
either the store was changed, or the machine sent something else than it
signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.authority.audit.proof.chain import Chain, read_chain
from broker.authority.audit.proof.ed25519 import is_signed_by
from broker.authority.audit.proof.note import Note, parse_note
from broker.cli.audit.proof.verify import VerificationReport
from broker.core.errors import RefusedError
from broker.ipc.audit.nodes import split
from broker.ipc.audit.tree import HASH_BYTES, Growing, leaf_hash


@dataclass(frozen=True)
class ShippedLog:
    """One log of those that are shipped to a store."""

    number: int
    name: str
    """The end of its checkpoints' origin, hex."""
    machine: str
    role: str = "-"
    """The role of the database that has made it; a name has one."""


@dataclass
class Checked:
    """The result: the report, and the tree at the last checkpoint that fits."""

    report: VerificationReport
    proven: Growing


def compare(
    name: str,
    notes: Iterable[str],
    events: Iterable[tuple[int, str | None, bytes]],
    *,
    frontiers: Mapping[int, bytes] | None = None,
    start: Growing | None = None,
) -> Checked:
    """Compare a log's events in a store with its checkpoints.

    ``name`` is the log's, as it is in the store; ``events`` are number, body (None:
    it was removed) and hash, in the order of their numbers.  ``frontiers`` are left
    edges of the tree by size: believed as far as a checkpoint follows from them.
    ``start`` is the tree that was proved before; ``events`` then begin after it.
    """
    report = VerificationReport()
    parsed = _parsed(notes, report)
    chain = read_chain(note for note in parsed if note.checkpoint.change is not None)
    for problem in chain.problems:
        report.add(problem.first, problem.last, problem.what)
    report.origin, report.first_key = chain.origin, chain.first_key
    report.keys, report.sealed = len(chain.keys), chain.sealed
    if chain.origin and not chain.origin.endswith(f"/{name}"):
        report.add(0, 0, f"the checkpoints belong to the log {chain.origin}")
    expected: dict[int, list[bytes]] = {}
    for note in parsed:
        size = note.checkpoint.size
        if _signed(note, chain):
            expected.setdefault(size, []).append(note.checkpoint.root)
        else:
            report.add(
                0,
                0,
                f"the checkpoint at {size} events is not signed by a key of this log",
            )
    tree = Growing() if start is None else start.copy()
    reader = _Reader(report, expected, frontiers or {}, tree)
    reader.read(events)
    return Checked(report, reader.proven)


def _parsed(notes: Iterable[str], report: VerificationReport) -> list[Note]:
    """Parse signed checkpoints; report those that are malformed."""
    found: list[Note] = []
    for text in notes:
        try:
            found.append(parse_note(text))
        except RefusedError as error:
            report.add(
                0, 0, f"the store contains an invalid checkpoint: {error.message}"
            )
    return found


def _signed(note: Note, chain: Chain) -> bool:
    return chain.signer_of(note) is not None or (
        # The first certificate is signed by the key that it certifies.
        note.checkpoint.change is not None
        and any(is_signed_by(note, key.public) for key in chain.keys)
    )


class _Reader:
    """Builds the tree again, and compares it wherever the machine has signed it."""

    def __init__(
        self,
        report: VerificationReport,
        expected: Mapping[int, list[bytes]],
        frontiers: Mapping[int, bytes],
        tree: Growing,
    ) -> None:
        self._report, self._expected, self._frontiers = report, expected, frontiers
        self._tree = tree
        self._unproved = 0
        """The size of an edge that was believed so far; a checkpoint must follow."""
        self.proven = tree.copy()
        self._good = tree.size
        """The last event that a checkpoint covers, or that was proved before."""

    def read(self, events: Iterable[tuple[int, str | None, bytes]]) -> None:
        """Read events in order into the tree, and compare it with the checkpoints."""
        report = self._report
        report.size = self._tree.size
        for number, body, leaf in events:
            if number != self._tree.size + 1 and not self._skip(number - 1):
                return
            report.size = number
            self._tree.append(_leaf(number, body, leaf, report))
            if not self._fits(number):
                return
        self._say_end()

    def _skip(self, size: int) -> bool:
        """Continue at an edge of the tree; False if none is known."""
        tree = _edge(size, self._frontiers.get(size, b""))
        first = self._tree.size + 1
        if tree is None or size < first:
            # guard: missing events are a problem
            _missing(first, size, self._report, "; later events cannot be compared")
            return False
        if first == 1:
            # A day that was dropped.  What the edge says is proved by the next root.
            self._report.removed += size
            self._report.warnings.append(
                f"events 1 to {size} are not in the store; only the stored hashes of their "
                "tree are compared with the next checkpoint"
            )
        else:
            # guard: events that are missing in the middle are a problem
            _missing(first, size, self._report)
        self._tree, self._good = tree, size
        self._unproved = size
        return True

    def _fits(self, number: int) -> bool:
        """Return whether the tree has the signed roots at this size; report if not."""
        roots = self._expected.get(number, ())
        self._report.checkpoints += len(roots)
        if any(root != self._tree.root() for root in roots):
            what = "at least one event differs from what the machine signed"
            if self._unproved and self._good == self._unproved:
                what += ", or the stored hashes of earlier events do"
            self._report.add(self._good + 1, number, what)
            return False  # each later root differs, too
        if roots:
            self._good = number
            self.proven = self._tree.copy()
        # An edge is the tree's while its events are there.
        kept = self._frontiers.get(number, b"")
        if kept and kept != b"".join(self._tree.peaks):
            self._report.add(
                number,
                number,
                "the stored hashes of the tree differ from the local ones",
            )
        return True

    def _say_end(self) -> None:
        """Report missing and uncovered events after all events were compared."""
        report, good = self._report, self._good
        largest = max(self._expected, default=0)
        if largest > report.size:
            # Without a root in between, it is unknown which ones went.
            report.add(
                good + 1,
                largest,
                f"all or some are missing: the store contains {report.size} events, a "
                f"checkpoint covers {largest}",
            )
        report.uncovered = report.size - max(self.proven.size, self._unproved)
        # guard: events without a checkpoint are a problem
        if report.size and self.proven.size <= self._unproved:
            report.add(1, report.size, "no checkpoint covers any of these events")
        elif report.uncovered:
            report.warnings.append(
                f"no checkpoint covers events {good + 1} to {report.size} yet"
            )


def _edge(size: int, peaks: bytes) -> Growing | None:
    """Return the tree of a stored edge, or None if it is invalid."""
    if not peaks or len(peaks) != HASH_BYTES * size.bit_count():
        return None
    return Growing(size, split(peaks))


def _leaf(
    number: int, body: str | None, leaf: bytes, report: VerificationReport
) -> bytes:
    """Return the hash of an event, computed from its body if the store has it."""
    if body is None:
        report.removed += 1
        return leaf
    report.checked += 1
    computed = leaf_hash(body.encode())
    if computed != leaf:
        report.add(number, number, "the event differs from the shipped event")
    return computed


def _missing(first: int, last: int, report: VerificationReport, then: str = "") -> None:
    report.add(
        first, last, f"neither the events nor their hashes are in the store{then}"
    )
