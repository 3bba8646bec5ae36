"""Verification of a whole log: every event, every hash, every signature.

Reads the database as it is, trusting nothing in it: bodies are hashed again,
columns compared with the bodies, the tree built again, and its root compared
with every checkpoint that was signed.  Two things remain to be trusted: the
log's first key (its name, the *origin*, identifies it) and that the current key
was not given away; a checkpoint that was kept elsewhere needs neither.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

import msgspec

from broker.authority.audit.proof.chain import Chain, ChainProblem, read_chain
from broker.authority.audit.proof.ed25519 import is_signed_by
from broker.authority.audit.proof.keys import SigningKey
from broker.authority.audit.proof.note import Note, origin_of, parse_note
from broker.authority.audit.proof.seal import says_end
from broker.core.decoding import UNREADABLE
from broker.core.errors import IntegrityError, RefusedError
from broker.core.escape import printable
from broker.ipc.audit import schema
from broker.ipc.audit.database import COLUMNS, foreign_objects, row_of
from broker.ipc.audit.nodes import Nodes, split
from broker.ipc.audit.tree import BLOCK, STEP, Growing

MOST_PROBLEMS = 100
"""Problems that are reported; all are counted."""

_CHUNK = 4096
_HIGHEST = 63
"""No tree of events with 64-bit numbers is higher; a changed log may say so."""
_SELECT = (
    f"SELECT {', '.join(COLUMNS)}, CAST(body AS BLOB), leaf "  # noqa: S608
    "FROM event ORDER BY sequence"
)


@dataclass
class VerificationReport:
    """The findings."""

    origin: str = ""
    first_key: str = ""
    """In the form that verifiers of notes take; compare it with your own record."""
    size: int = 0
    """Events that the log should have, those removed by retention included."""
    checked: int = 0
    """Events whose bodies are there, and were read."""
    removed: int = 0
    """Events whose bodies retention has removed."""
    keys: int = 0
    sealed: int = 0
    """Size at the last change of keys: not even a thief of today's key can
    have changed earlier events unseen."""
    checkpoints: int = 0
    """Signed checkpoints that were compared, all kinds together."""
    against: int = 0
    """The compared checkpoints that were kept elsewhere."""
    uncompared: int = 0
    """Kept elsewhere and not compared: the events that they cover were removed."""
    uncovered: int = 0
    """Events after the last checkpoint: nothing proves them yet."""
    count: int = 0
    """The number of all problems."""
    problems: list[ChainProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.count

    def add(self, first: int, last: int, what: str) -> None:
        """Add a problem."""
        self.count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(ChainProblem(first, last, what))


@dataclass(frozen=True)
class _Expected:
    label: str
    root: bytes
    elsewhere: bool = False
    """Whether it was kept elsewhere."""


class _Reader:
    """Builds the tree again from the rows of the database."""

    def __init__(
        self,
        db: sqlite3.Connection,
        report: VerificationReport,
        expected: dict[int, list[_Expected]],
    ) -> None:
        self._db = db
        self._report = report
        self._expected = expected
        self._subtrees: dict[tuple[int, int], bytes] = {
            (height, number): hash_
            for height, number, hash_ in db.execute(
                "SELECT height, number, hash FROM subtree"
            )
        }
        self._pruned: dict[int, bytes | None] = dict(
            db.execute("SELECT block, leaves FROM pruned")
        )
        self._said: list[schema.LogPruned] = []
        self._used: set[int] = set()
        self._tree = Growing()
        self._whole = True
        """Whether the tree is still that of the whole log."""
        self._good = 0
        """The largest size at which all was as it was signed."""
        self._told = 0
        """Problems that were reported before that size."""

    def run(self) -> None:
        """Read and compare all events."""
        self._compare()
        rows = self._db.execute(_SELECT)
        while chunk := rows.fetchmany(_CHUNK):
            for row in chunk:
                self._row(row)
        self._report.size = self._tree.size
        for size in sorted(self._expected):
            if size > self._tree.size:
                # Without a root in between, it is unknown which ones went.
                first = self._good if self._whole else self._tree.size
                self._report.add(
                    first + 1,
                    size,
                    f"all or some are missing: the log contains {self._tree.size} events, "
                    f"{self._expected[size][0].label} covers {size}",
                )
                break
        for height, number in self._subtrees:
            if not 0 <= height <= _HIGHEST:
                self._report.add(
                    0, 0, f"a node of the tree has an invalid height: {height}"
                )
                continue
            first, last = (number << height) + 1, (number + 1) << height
            if self._whole or last > self._tree.size:
                self._report.add(
                    first,
                    last,
                    "the stored tree contains an unexpected node",
                )
        self._check_pruned()

    def _row(self, row: tuple[object, ...]) -> None:
        """Verify one row of the log: its number, columns and hash."""
        number = row[0]
        assert isinstance(number, int)
        if number <= self._tree.size:
            self._report.add(number, number, "inserted")
            return
        if number != self._tree.size + 1:
            self._gap(number)
        body: bytes = row[-2]  # type: ignore[assignment]
        report = self._report
        found = sha256(b"\0" + body).digest()
        if found != row[-1]:
            report.add(number, number, "the body or the hash was changed")
        event = _decode(body)
        if event != row[:-2]:
            self._differs(number, event, row[:-2])
        elif row[2] == "audit.pruned":
            self._take_removal(body)
        report.checked += 1
        self._grow(0, found)

    def _take_removal(self, body: bytes) -> None:
        """Record what an event of retention says; ignore any other body."""
        # guard: a removal that cannot be read
        with contextlib.suppress(*UNREADABLE):
            said = schema.decode(body)
            if isinstance(said, schema.LogPruned):
                self._said.append(said)

    def _differs(
        self, number: int, event: tuple[object, ...] | None, row: tuple[object, ...]
    ) -> None:
        """Report which columns beside an event's body differ from it."""
        if event is None:
            self._report.add(number, number, "the body is not an event")
            return
        pairs = zip(COLUMNS, event, row, strict=True)
        names = " and ".join(name for name, one, two in pairs if one != two)
        self._report.add(number, number, f"{names} differs from the body")

    def _gap(self, number: int) -> None:
        """Advance to an event's number; report missing events."""
        tree = self._tree
        while tree.size + 1 < number:
            block, inside = divmod(tree.size, BLOCK)
            if inside or block not in self._pruned or tree.size + BLOCK >= number:
                break
            self._push_pruned(block)
        if tree.size + 1 < number:
            self._report.add(tree.size + 1, number - 1, "missing")
            self._whole = False
            tree.size = number - 1

    def _push_pruned(self, block: int) -> None:
        """Add a removed block to the tree by its stored hashes."""
        self._used.add(block)
        self._report.removed += BLOCK
        first = self._tree.size + 1
        leaves = self._pruned[block]
        if leaves is not None and len(leaves) == BLOCK * 32:
            for leaf in split(leaves):
                self._grow(0, leaf)
            return
        hash_ = self._subtrees.get((STEP, block))
        if hash_ is None or leaves is not None:
            self._report.add(
                first, first + BLOCK - 1, "the events and their hashes were removed"
            )
            self._whole = False
            self._tree.size += BLOCK
            return
        for size in range(first, first + BLOCK - 1):
            self._expected.pop(size, None)  # unknown from here on
        self._grow(STEP, hash_)

    def _grow(self, height: int, hash_: bytes) -> None:
        """Add a hash to the tree, and compare it at signed sizes."""
        tree = self._tree
        if not self._whole:
            # The tree cannot be built any more; numbers still can be followed.
            tree.size += 1 << height
            return
        for done in tree.push(height, hash_):
            stored = self._subtrees.pop((done.height, done.number), None)
            if stored != done.hash:
                size = tree.size
                self._report.add(
                    size - (1 << done.height) + 1,
                    size,
                    "their part of the tree has a different hash",
                )
        if tree.size in self._expected:
            self._compare()

    def _compare(self) -> None:
        """Compare the tree's root with the checkpoints of this size."""
        size = self._tree.size
        wanted = self._expected.pop(size, [])
        root = self._tree.root() if wanted else b""
        for one in wanted:
            self._report.checkpoints += 1
            self._report.against += one.elsewhere
            if one.root == root:
                self._good = max(self._good, size)
                self._told = self._report.count
            elif self._told == self._report.count or one.elsewhere:
                self._report.add(
                    self._good + 1,
                    size,
                    f"changed, inserted or replaced: {one.label} has a different root hash",
                )

    def _check_pruned(self) -> None:
        """Check that removals of blocks are recorded, and nothing else."""
        for block in sorted(self._pruned):
            first, last = block * BLOCK + 1, (block + 1) * BLOCK
            if block not in self._used:
                self._report.add(first, last, "recorded as removed, but still present")
                continue
            said = [one for one in self._said if last <= one.last]
            if not said:
                self._report.add(
                    first, last, "removed, but no event records the removal"
                )
            # guard: hashes that were to stay
            elif self._pruned[block] is None and not _hashes_may_go(first, said):
                what = "their hashes are missing, but the event records that they were kept"
                self._report.add(first, last, what)


def _hashes_may_go(first: int, said: Sequence[schema.LogPruned]) -> bool:
    """Return whether the recorded removals allow a block to lose its hashes.

    A removal for the log's size takes the hashes of all before it, too.  Where
    the event that removed this block was itself removed since (each names the
    first that was still there), nothing is known of it any more.
    """
    return any(not one.leaves for one in said) or first < min(o.first for o in said)


def verify(
    db: sqlite3.Connection,
    *,
    keys: Sequence[SigningKey],
    copy: bool = False,
    against: Sequence[tuple[str, Note]] = (),
    origin: str = "",
) -> VerificationReport:
    """Check a log; ``db`` is open for reading.

    ``keys`` are those of the key file (``KeyFile.any``), before and after the log
    was opened: it may change meanwhile.  ``copy`` says that none exists because
    this is a copy.  ``against`` are checkpoints that were kept
    elsewhere, each with a name for people; ``origin`` is the log's name as it
    was noted down.  Raises sqlite3.Error when it cannot be read.
    """
    again = partial(_verified, db, keys=keys, copy=copy, against=against, origin=origin)
    try:
        return again()
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
        # Text that is not one: it is read as it is, which is slower.
        db.text_factory = _text
        return again()


def _verified(
    db: sqlite3.Connection,
    *,
    keys: Sequence[SigningKey],
    copy: bool,
    against: Sequence[tuple[str, Note]],
    origin: str,
) -> VerificationReport:
    """Verify a whole log, and return the report."""
    report = VerificationReport()
    for name in foreign_objects(db):
        report.add(0, 0, f"the database was changed: {printable(name, 80)}")
    chain, notes = _checkpoints(db, report)
    report.origin, report.first_key = chain.origin, chain.first_key
    report.keys, report.sealed = len(chain.keys), chain.sealed
    for problem in chain.problems:
        report.add(problem.first, problem.last, problem.what)
    expected = dict(_expected(chain, notes, report))
    if origin and origin != chain.origin:
        report.add(0, 0, f"this is not the log {origin}")
    for name, note in against:
        _add_against(chain, name, note, expected, report)
    reader = _Reader(db, report, expected)
    heads = [note for kind, note in notes if kind == "head"]
    reader.run()
    # guard: checkpoints that were not compared are not counted
    _tell_uncompared(len(against), report)
    _check_end(chain, heads, keys, report)
    _check_key(chain, keys, report, copy=copy, covered=bool(against))
    return report


def verify_end(
    db: sqlite3.Connection, keys: Sequence[SigningKey]
) -> VerificationReport:
    """Check only the log's end: keys, head, and the root that it signs.

    The check of a broker at its start; milliseconds, whatever the log's size.
    Raises sqlite3.Error when it cannot be read.
    """
    report = VerificationReport()
    chain, notes = _checkpoints(db, report)
    report.origin, report.keys, report.sealed = (
        chain.origin,
        len(chain.keys),
        chain.sealed,
    )
    for problem in chain.problems:
        report.add(problem.first, problem.last, problem.what)
    (report.size,) = db.execute(
        "SELECT coalesce(max(sequence), 0) FROM event"
    ).fetchone()
    heads = [note for kind, note in notes if kind == "head"]
    _check_end(chain, heads, keys, report)
    _check_key(chain, keys, report, copy=False, covered=False)
    try:
        root = Nodes(db).root(report.size)
    except (IntegrityError, RefusedError) as error:
        report.add(0, 0, error.message)
    else:
        if any(head.checkpoint.root != root for head in heads):
            report.add(
                0, 0, f"the end, at {report.size} events, differs from the signed log"
            )
    return report


def _checkpoints(
    db: sqlite3.Connection, report: VerificationReport
) -> tuple[Chain, list[tuple[str, Note]]]:
    """Return the chain of keys, and all checkpoints with their kinds."""
    notes: list[tuple[str, Note]] = []
    rows = db.execute("SELECT size, kind, note FROM checkpoint ORDER BY size, kind")
    for size, kind, text in rows:
        try:
            note = parse_note(text)
        except RefusedError as error:
            report.add(0, 0, f"the checkpoint '{kind}' at {size}: {error.message}")
            continue
        if note.checkpoint.size != size:
            report.add(
                0,
                0,
                f"the checkpoint '{kind}' at {size} covers a different number of events",
            )
        notes.append((kind, note))
    return read_chain(note for kind, note in notes if kind.startswith("key ")), notes


def _expected(
    chain: Chain, notes: Sequence[tuple[str, Note]], report: VerificationReport
) -> Iterator[tuple[int, list[_Expected]]]:
    """Yield the roots that each size must have, by the signed checkpoints."""
    by_size: dict[int, list[_Expected]] = {}
    certified = {key.index for key in chain.keys}
    for _kind, note in notes:
        checkpoint = note.checkpoint
        change = checkpoint.change
        if change is not None:
            signed = change.index in certified
            label = f"the certificate of key {change.index}"
        else:
            signed = chain.signer_of(note) is not None
            label = f"the checkpoint at {checkpoint.size}"
        if not signed or checkpoint.origin != chain.origin:
            if chain.keys and not chain.problems:
                report.add(
                    0,
                    0,
                    f"{label} is not signed by the key that was in use at the time",
                )
            continue
        by_size.setdefault(checkpoint.size, []).append(
            _Expected(label, checkpoint.root)
        )
    yield from by_size.items()


def _add_against(
    chain: Chain,
    name: str,
    note: Note,
    expected: dict[int, list[_Expected]],
    report: VerificationReport,
) -> None:
    """Add a checkpoint from elsewhere to those that the log must satisfy."""
    checkpoint = note.checkpoint
    if checkpoint.origin != chain.origin:
        report.add(0, 0, f"{name} belongs to another log, {checkpoint.origin}")
        return
    if chain.keys and origin_of(chain.keys[0].public) != checkpoint.origin:
        return  # the chain's own problem, reported already
    signer = chain.signer_of(note)
    change = checkpoint.change
    certified = change is not None and any(
        key.index == change.index and key.public == change.key for key in chain.keys
    )
    if signer is None and not certified:
        report.add(
            0,
            0,
            f"{name} is not signed by a key that the log had at {checkpoint.size} events",
        )
    label = f"the copy kept elsewhere ({name})"
    expected.setdefault(checkpoint.size, []).insert(
        0, _Expected(label, checkpoint.root, elsewhere=True)
    )


def _tell_uncompared(given: int, report: VerificationReport) -> None:
    """Add checkpoints from elsewhere that could not be compared to the report.

    If none could be compared, the verification fails.
    """
    report.uncompared = given - report.against
    if not report.uncompared or not report.good:
        return  # the other problems are the reason
    text = (
        f"{report.uncompared} of the {given} checkpoints kept elsewhere were not "
        "compared: retention removed the events at their ends, with their hashes"
    )
    if report.against:
        report.warnings.append(text)
    else:
        report.add(0, 0, f"{text}; keep newer checkpoints")


def _check_end(
    chain: Chain,
    heads: Sequence[Note],
    keys: Sequence[SigningKey],
    report: VerificationReport,
) -> None:
    """Check that the newest key signed the log's newest event as the end.

    A published checkpoint does not count: it stays valid when more follows.
    """
    if not chain.keys:
        return
    newest = chain.keys[-1]
    current = [key for key in keys if key.public == newest.public]
    for head in heads:
        if head.checkpoint.size == report.size and is_signed_by(head, newest.public):
            # guard: a head is no checkpoint, in verify
            if all(says_end(head, key) for key in current):
                return
            report.add(
                0,
                0,
                "the end was cut off: the remaining end is a published checkpoint, not a signed head",
            )
            return
    last = max((h.checkpoint.size for h in heads), default=0)
    if last >= report.size:
        if not heads or last == report.size:
            report.add(0, 0, "the end is not signed with the newest key")
        return  # a head of a larger size was reported already
    report.add(
        last + 1,
        report.size,
        "not signed: these events were added after the last commit",
    )


def _check_key(
    chain: Chain,
    keys: Sequence[SigningKey],
    report: VerificationReport,
    *,
    copy: bool,
    covered: bool,
) -> None:
    """Compare the signing key with the newest key of the log."""
    if not chain.keys:
        return
    newest = chain.keys[-1]
    if not keys:
        if copy or covered:
            report.warnings.append(
                "the signing key is missing, so an older copy of the whole log "
                "cannot be detected"
            )
        else:
            report.add(
                0, 0, "the signing key is missing, so the end cannot be verified"
            )
    elif all(key.public != newest.public for key in keys):
        report.add(
            0,
            0,
            f"the end was cut off, or the log is an older copy: the key file has key "
            f"{keys[-1].index}, the log ends with key {newest.index}",
        )
    else:
        _check_newest([k for k in keys if k.public == newest.public], report)


def _check_newest(keys: Sequence[SigningKey], report: VerificationReport) -> None:
    """Check that the log is as long as its key's file says that it was.

    The file is read before the log and again after it was opened, and the log
    grows meanwhile: the lower size is the one that must be reached.
    """
    had = min(key.newest or 0 for key in keys)
    # guard: the key knows the newest size, in verify
    if report.size < had:
        report.add(
            report.size + 1,
            had,
            "missing: the end was cut off, or the log is an older copy; the key file "
            f"covers {had} events",
        )


def _text(raw: bytes) -> str:
    """Decode text from the database; invalid Unicode does not raise an error."""
    return raw.decode("utf-8", "surrogateescape")


def _decode(body: bytes) -> tuple[object, ...] | None:
    """Return the columns that a body should have; None when it is not an event."""
    with contextlib.suppress(*UNREADABLE):
        return row_of(schema.decode(body))
    # Not of our version: read as a later one's.
    try:
        fields = msgspec.json.decode(body, type=dict[str, object])
    # guard: bodies that are nested without an end
    except UNREADABLE:
        return None
    zero: dict[str, object] = {"sequence": 0, "time_ns": 0}
    return tuple(fields.get(name, zero.get(name, "")) for name in COLUMNS)
