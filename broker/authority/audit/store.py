"""The audit log's one writer: recorded before it takes effect.

``record`` returns when the event is on the disk.  The database is SQLite in
WAL mode with ``synchronous=FULL``: NORMAL does not flush at a commit, so a
power cut could take back a decision whose stream had already flowed.  One
flush for each event would be too dear, so calls that come while a commit
runs share the next one.

There is no writer task.  The first caller that finds no commit in progress commits
for all that wait, and passes the duty to the first of those who came
meanwhile: nothing to start, to stop, or to lose events when it dies.

The authority opens it; ``brokerctl audit gc`` opens it if no broker runs.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from broker.authority.audit.names import Namer
from broker.authority.audit.names_key import load_namer
from broker.authority.audit.proof.offer import WitnessAnswer, WitnessOffer
from broker.authority.audit.proof.seal import Seal, open_seal
from broker.authority.audit.proof.witness import hold_note
from broker.authority.audit.retention import plan, remove
from broker.authority.audit.settings import AuditSettings
from broker.core.authority_report import AuditStatus
from broker.core.errors import InternalError, UpstreamError, VitrailError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit import schema
from broker.ipc.audit.database import (
    Files,
    load_tree,
    lock_log,
    open_database,
    row_of,
    transaction,
)
from broker.ipc.audit.nodes import Nodes
from broker.ipc.audit.tree import Growing, consistency_proof, leaf_hash
from broker.ipc.in_thread import in_thread

_T = TypeVar("_T")

# Encoded in place of the number, which is known when the commit begins; as long
# as any, so that what fits now fits then.  Kind, version and sequence are the
# first fields, so the first place where it occurs is the right one.
_NO_NUMBER = 1 << 62
_PLACE = str(_NO_NUMBER).encode()
_LAST_QUESTION = """
    SELECT coalesce(max(body ->> 'question'), 0) FROM event
    WHERE kind = 'question.asked' AND json_valid(body)"""
_INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(eq=False)
class _Entry:
    event: schema.Event
    head: bytes
    """The event's JSON before its number; ``tail`` is the rest after it."""
    tail: bytes
    also: list[_Entry]
    """The entries that are committed with it, after it."""
    done: trio.Event = field(default_factory=trio.Event)
    leads: bool = False
    sequence: int = 0
    error: VitrailError | None = None


class Store:
    """An open audit log; made by ``open_store``."""

    def __init__(self, opened: _Opened, path: Path, broker: str) -> None:
        self._db = opened.db
        self._tree = opened.tree
        self._seal = opened.seal
        self.namer = opened.namer
        self.last_question = opened.last_question
        """The number of the last question of earlier brokers."""
        self._files = Files(path)
        self._grown = trio.Event()
        self._path = path
        self._broker = broker
        self._boot = _boot_id()
        self._pending: deque[_Entry] = deque()
        self._committing = False
        self._closed = False
        self._room = trio.Semaphore(audit_limits.AUDIT_WAITING)
        self._thread = trio.CapacityLimiter(1)
        self._events = self._commits = self._failures = 0

    def statistics(self) -> AuditStatus:
        """Return the log's counters for ``brokerctl status``."""
        return AuditStatus(
            events=self._events,
            commits=self._commits,
            failures=self._failures,
            waiting=len(self._pending),
        )

    async def record(self, event: schema.Event, *also: schema.Event) -> int:
        """Write events to disk in one commit; return the first one's sequence number.

        ``also`` follow it in the same commit: all of them are on disk, or none.
        Cancelled before its turn, it is not written; after that, it is
        written although the caller no longer learns of it.

        Raises UpstreamError when the store fails (disk full, gone): the
        operation must then not happen.
        """
        if self._closed:
            raise InternalError("an event came after the audit log was closed")
        entry = self._stamped(event, *also)
        async with self._room:
            self._pending.append(entry)
            await self._commit_in_turn(entry)
        if entry.error is not None:
            # Several callers share the error; each gets a separate traceback.
            raise type(entry.error)(
                entry.error.message, hint=entry.error.hint
            ) from entry.error
        return entry.sequence

    def _stamped(self, event: schema.Event, *also: schema.Event) -> _Entry:
        """Return the event's entry with its number, times, broker, and hashed names."""
        stamped = msgspec.structs.replace(
            self.namer.apply(event),
            version=schema.VERSION,
            sequence=_NO_NUMBER,
            time_ns=time.time_ns(),
            monotonic_ns=time.monotonic_ns(),
            boot=self._boot,
            broker=self._broker,
        )
        # Too large is found here, and not in others' commit.
        head, _, tail = schema.encode(stamped).partition(_PLACE)
        return _Entry(stamped, head, tail, [self._stamped(one) for one in also])

    async def _commit_in_turn(self, entry: _Entry) -> None:
        """Wait until an entry is committed; commit all pending ones in one's turn.

        The caller whose turn it is commits all pending entries.
        """
        if self._committing:
            try:
                await entry.done.wait()
            except trio.Cancelled:
                if entry in self._pending:
                    self._pending.remove(entry)
                # The turn may have come between the cancellation and this line, and
                # all others wait for the one who has it.
                # guard: a cancelled writer passes on its turn at the log
                if entry.leads:
                    self._pass_on()
                raise
            if not entry.leads:
                return
        self._committing = True
        try:
            # A cancellation waits for the disk, not the other way round:
            # others' events are in this commit.
            with trio.CancelScope(shield=True):
                await self._commit()
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._committing = bool(self._pending)
        if self._pending:
            self._pending[0].leads = True
            self._pending[0].done.set()

    async def _commit(self) -> None:
        """Commit a batch of pending entries, and wake those who wait for them."""
        size = min(len(self._pending), audit_limits.AUDIT_BATCH)
        batch = [self._pending.popleft() for _ in range(size)]
        try:
            first = await in_thread(self._write, batch, limiter=self._thread)
        except Exception as error:  # noqa: BLE001
            # Whatever it is: those who wait must be notified, or they would wait
            # forever.
            self._failures += 1
            problem = UpstreamError(
                f"cannot write the audit log: {error}",
                hint=f"check whether the disk of {self._path} is full or read-only; the broker denies what must be recorded until it can write the log",
            )
            for entry in batch:
                entry.error = problem
                entry.done.set()
            return
        self._commits += 1
        self._events += size + sum(len(entry.also) for entry in batch)
        self._grown.set()
        self._grown = trio.Event()
        for entry in batch:
            entry.sequence = first
            first += 1 + len(entry.also)
            entry.done.set()

    def _write(
        self, batch: Sequence[_Entry], besides: Callable[[], None] | None = None
    ) -> int:
        """Commit events in the worker thread; return the first one's number.

        ``besides`` does something more in the same transaction.
        """
        db = self._db
        tree = self._tree.copy()
        subtrees: list[tuple[int, int, bytes]] = []
        rows = []
        for entry in (one for first in batch for one in (first, *first.also)):
            number = tree.size + 1
            body = b"%b%d%b" % (entry.head, number, entry.tail)
            leaf = leaf_hash(body)
            subtrees += [(s.height, s.number, s.hash) for s in tree.append(leaf)]
            rows.append((number, *row_of(entry.event)[1:], body.decode(), leaf))
        with transaction(db):
            if besides is not None:
                besides()
            db.executemany(_INSERT, rows)
            if subtrees:
                db.executemany("INSERT INTO subtree VALUES (?, ?, ?)", subtrees)
            self._seal.sign_head(tree)
            # Before the commit, so that events written into a removed file are
            # not reported as durable; after it, the removal may be a moment old.
            self._files.check()
        self._files.check()
        first = self._tree.size + 1
        self._tree = tree
        self._seal.committed()
        return first

    # -- sealing ----------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many events there are; also the newest one's number."""
        return self._tree.size

    @property
    def origin(self) -> str:
        """The log's name in checkpoints."""
        return self._seal.key.origin

    async def wait_beyond(self, size: int) -> None:
        """Wait until there are more events than that."""
        while self._tree.size <= size:
            await self._grown.wait()

    async def checkpoint(self) -> str:
        """Sign the log as it is now for others to keep; returns the note.

        Raises UpstreamError when the disk refuses.
        """
        return await self._in_turn(lambda: self._seal.keep_checkpoint(self._tree))

    async def evolve(self) -> str:
        """Change to a new signing key; returns the note that certifies it.

        Raises UpstreamError when the disk refuses; the old key stays.
        """
        return await self._in_turn(lambda: self._seal.evolve(self._tree))

    async def root_at(self, size: int) -> bytes:
        """Return the tree's root at an earlier size of the log.

        Raises IntegrityError or RefusedError where that is not known any
        more, UpstreamError when the log cannot be read.
        """
        return await self._in_turn(lambda: Nodes(self._db).root(size))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log at ``new`` events begins with that of ``old``.

        Raises as ``root_at``.
        """
        return await self._in_turn(lambda: consistency_proof(old, new, Nodes(self._db)))

    async def hold(self, peer: str, offer: WitnessOffer) -> WitnessAnswer:
        """Store a checkpoint of another log, if it is signed and proved.

        Raises RefusedError as ``witness.hold_note``, UpstreamError when the disk
        refuses.
        """
        return await self._in_turn(lambda: hold_note(self._db, peer, offer))

    async def certificates(self, begin: int, most: int) -> list[str]:
        """The notes that certify this log's keys, from number ``begin`` on.

        Raises UpstreamError when the log cannot be read.
        """
        return await self._in_turn(lambda: self._seal.certificates(begin, most))

    async def witnessed(self, peer: str, note: str) -> None:
        """Remember the checkpoint that a witness holds, so that it stays provable.

        Raises UpstreamError when the disk refuses.
        """
        await self._in_turn(lambda: self._seal.keep_witnessed(peer, note))

    async def prune(
        self, *, before_ns: int | None, most: int | None, shipped: int | None = None
    ) -> int:
        """Remove old events, record that in the log, and return how many were removed.

        Those of before ``before_ns`` (UTC, nanoseconds), and the oldest ones
        while the log takes more than ``most`` bytes; see ``retention.plan``.
        Raises UpstreamError when the disk refuses.
        """
        removed = 0
        while gone := await self._in_turn(
            lambda: self._prune(before_ns, most, shipped)
        ):
            removed += gone
            self._grown.set()
            self._grown = trio.Event()
            await trio.lowlevel.checkpoint()
        return removed

    def _prune(
        self, before_ns: int | None, most: int | None, shipped: int | None
    ) -> int:
        """Plan and carry out a removal of old events; return how many were removed."""
        found = plan(
            self._db,
            self._tree.size,
            before_ns=before_ns,
            most=most,
            shipped=shipped,
        )
        if found is None:
            return 0
        first, last = found.events
        reason = "their age" if found.leaves else "the log's size"
        said = schema.LogPruned(
            first=first, last=last, leaves=found.leaves, reason=reason
        )
        self._write([self._stamped(said)], lambda: remove(self._db, found))
        return last - first + 1

    async def _in_turn(self, step: Callable[[], _T]) -> _T:
        """Run a step in the store's thread, between commits."""
        if self._closed:
            raise InternalError("the audit log was closed")
        try:
            # A cancellation waits for the thread; its work is not undone.
            return await in_thread(step, limiter=self._thread)
        except (sqlite3.Error, OSError) as error:
            self._failures += 1
            raise UpstreamError(
                f"cannot read or write the audit log: {error}",
                hint=f"check whether the disk of {self._path} is full or read-only",
            ) from error

    async def aclose(self) -> None:
        """Close the database; used by ``open_store``."""
        self._closed = True
        with trio.CancelScope(shield=True):
            await in_thread(self._close, limiter=self._thread)

    def _close(self) -> None:
        try:
            self._db.close()
        finally:
            self._seal.close()


@dataclass(frozen=True)
class _Opened:
    db: sqlite3.Connection
    version: int
    """The schema's version before the database was opened."""
    tree: Growing
    seal: Seal
    namer: Namer
    last_question: int


@asynccontextmanager
async def open_store(
    path: Path, *, broker: str = "local", settings: AuditSettings | None = None
) -> AsyncIterator[Store]:
    """Open the audit log for writing; create or migrate it where needed.

    ``broker`` is the role that is in every event.  One writer at a time.

    Raises SetupError when another broker writes it, when it was written by a
    newer version, or when it is not our database; IntegrityError when it
    differs from the signed log; UpstreamError when the disk refuses.
    """
    settings = settings or AuditSettings()
    lock = lock_log(path)
    try:
        opened = await in_thread(_open, path, settings)
        store = Store(opened, path, broker)
        try:
            if opened.version == 1:
                taken = schema.LogMigrated(from_version=1, events=store.size)
                await store.record(taken)
            yield store
        finally:
            await store.aclose()
    finally:
        os.close(lock)


def _open(path: Path, settings: AuditSettings) -> _Opened:
    """Open the database for writing, its tree, its seal and the key of names."""
    db, version = open_database(path)
    try:
        tree = load_tree(db)
        seal = open_seal(db, tree, path)
        return _Opened(
            db,
            version,
            tree,
            seal,
            load_namer(
                settings.names, path, clipboard_digest=settings.clipboard_digest
            ),
            db.execute(_LAST_QUESTION).fetchone()[0],
        )
    except (sqlite3.Error, OSError) as error:
        db.close()
        raise UpstreamError(f"cannot open the audit log: {error}") from error
    except BaseException:
        db.close()
        raise


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
