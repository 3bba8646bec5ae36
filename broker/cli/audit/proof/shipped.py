"""Check of a fleet's store against a machine's signatures: the store as a witness.

The machine's checkpoints are in the store beside its events, and were there
before the machine's log could be changed behind them.  So the tree of
the store's events must have the roots that the machine signed; if it has not,
either the store was changed, or the machine sent something else than it
signed.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.authority.audit.proof.note import Note, parse_note
from broker.cli.audit.proof.chain import Chain, read_chain
from broker.cli.audit.proof.verify import Report
from broker.core.errors import RefusedError
from broker.ipc.audit.tree import Growing, leaf_hash


def check(
    name: str,
    notes: Iterable[str],
    events: Iterable[tuple[int, str | None, bytes]],
) -> Report:
    """Compare a log's events with its checkpoints.

    ``name`` is the log's, as it is in the store; ``events`` are number, body (None:
    it was removed) and hash, in the order of their numbers.
    """
    report = Report()
    parsed = _parsed(notes, report)
    chain = read_chain(note for note in parsed if note.checkpoint.change is not None)
    for problem in chain.problems:
        report.add(problem.first, problem.last, problem.what)
    report.origin, report.first_key = chain.origin, chain.first_key
    report.keys, report.sealed = len(chain.keys), chain.sealed
    if chain.origin and not chain.origin.endswith(f"/{name}"):
        report.add(0, 0, f"its checkpoints are those of {chain.origin}")
    expected: dict[int, list[bytes]] = {}
    for note in parsed:
        size = note.checkpoint.size
        if _signed(note, chain):
            expected.setdefault(size, []).append(note.checkpoint.root)
        else:
            report.add(0, 0, f"a checkpoint at {size} that no key of this log signed")
    _read(events, expected, report)
    return report


def _parsed(notes: Iterable[str], report: Report) -> list[Note]:
    found: list[Note] = []
    for text in notes:
        try:
            found.append(parse_note(text))
        except RefusedError as error:
            report.add(0, 0, f"a checkpoint in the store: {error.message}")
    return found


def _signed(note: Note, chain: Chain) -> bool:
    return chain.signer_of(note) is not None or (
        # The first certificate is signed by the key that it certifies.
        note.checkpoint.change is not None
        and any(note.signed_by(key.public) for key in chain.keys)
    )


def _read(
    events: Iterable[tuple[int, str | None, bytes]],
    expected: dict[int, list[bytes]],
    report: Report,
) -> None:
    tree = Growing()
    good = 0
    for number, body, leaf in events:
        if number != tree.size + 1:
            # guard: missing events are a problem
            _missing(tree.size + 1, number - 1, report)
            break
        report.size = number
        tree.append(_leaf(number, body, leaf, report))
        roots = expected.get(number, ())
        report.checkpoints += len(roots)
        if any(root != tree.root() for root in roots):
            report.add(good + 1, number, "one of them is not what the machine signed")
            break  # each later root differs, too
        if roots:
            good = number
    else:
        _say_end(good, max(expected, default=0), report)


def _leaf(number: int, body: str | None, leaf: bytes, report: Report) -> bytes:
    """Return an event's hash; of one whose body is there, computed again."""
    if body is None:
        report.removed += 1
        return leaf
    report.checked += 1
    computed = leaf_hash(body.encode())
    if computed != leaf:
        report.add(number, number, "it differs from the shipped event")
    return computed


def _missing(first: int, last: int, report: Report) -> None:
    report.add(
        first,
        last,
        "not in the store, nor their hashes: no event after them can be compared",
    )


def _say_end(good: int, largest: int, report: Report) -> None:
    """Say what the last checkpoint covers, where all that is there was compared."""
    if largest > report.size:
        # Without a root in between, it is unknown which ones went.
        report.add(
            good + 1,
            largest,
            f"missing, all or some: the store has {report.size}, a checkpoint speaks "
            f"of {largest}",
        )
    # guard: events without a checkpoint are a problem
    if report.size and not good:
        report.add(1, report.size, "no checkpoint covers any of them")
    elif good < report.size:
        report.warnings.append(
            f"events {good + 1} to {report.size} are covered by no checkpoint yet"
        )
