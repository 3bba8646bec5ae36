"""Shipping: read, send, and only then move the cursor.

One task for each receiver, each with its reader of the log, so that a
slow one does not delay the others.  A receiver that fails is asked again, ever more
seldom; its cursor stays where it is, and retention keeps the unsent events.

The shipper in its jail runs it; ``brokerctl audit ship`` runs it once in the
foreground.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from broker.core.errors import IntegrityError, SetupError, UpstreamError, VitrailError
from broker.core.limits import audit as audit_limits
from broker.core.parts.absent import needed
from broker.core.paths import Paths
from broker.core.stderr_log import log_exception, log_stderr
from broker.helpers.shipper.config import (
    AnyTarget,
    IngestTarget,
    JournaldTarget,
    JsonlTarget,
    OtlpTarget,
    PostgresTarget,
    ShipConfig,
)
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.edges import edge, grown, proof_of, tree_at
from broker.helpers.shipper.local_receivers import (
    LocalTarget,
    ask_for_receiver,
    open_receiver,
)
from broker.helpers.shipper.receiver_lock import locked
from broker.helpers.shipper.saved_cursor import save_cursor
from broker.helpers.shipper.terms import BAD_ENDS, Batch, ShippedItem, Target
from broker.ipc.audit.filters import Found
from broker.ipc.audit.ingest import SignedNote
from broker.ipc.audit.query import Log, open_log
from broker.ipc.audit.tree import Growing, leaf_hash
from broker.ipc.in_thread import in_thread

_AGAIN_SECONDS = 1.0
_BEAT_SECONDS = 3600.0
"""After so long without events a fleet's store gets a sign of life."""


def make_target(
    config: AnyTarget, machine: str = "", door: socket.socket | None = None
) -> Target:
    """Create the receiver that a piece of configuration means.

    ``door``: in a jail, what opens a receiver of this machine.
    Raises SetupError if a package that it needs is not installed.
    """
    # Each is loaded only when it is used: it may be of a package that is not installed.
    with needed(f"shipping to '{config.name}'"):
        match config:
            case PostgresTarget():
                from broker.helpers.shipper.postgres import Postgres

                return Postgres(config.address, plaintext=config.plaintext)
            case OtlpTarget():
                from broker.helpers.shipper.otlp import Otlp

                return Otlp(config)
            case IngestTarget():
                from broker.helpers.shipper.ingest import Ingest

                return Ingest(config, machine)
            case JournaldTarget():
                from broker.helpers.shipper.journald import Journald

                return Journald(config.socket, _opening(config, door))
            case JsonlTarget():
                from broker.helpers.shipper.jsonl import Jsonl

                return Jsonl(Path(config.path), _opening(config, door))


def _opening(config: LocalTarget, door: socket.socket | None) -> Callable[[], int]:
    if door is None:
        return partial(open_receiver, config)
    return partial(ask_for_receiver, door)


@dataclass(frozen=True)
class ShipperPaths:
    """Paths of a log and of its shipping cursors, and its machine's name."""

    log: Path
    cursors: Path
    machine: str
    batch_seconds: float = 0.0
    """For so long events are collected before they are sent."""
    doors: Mapping[str, socket.socket] = field(default_factory=dict)
    """In a jail: of each receiver of this machine, what opens it."""


def place_of(paths: Paths, config: ShipConfig) -> ShipperPaths:
    """This user's log."""
    return ShipperPaths(
        paths.audit, paths.shipping, config.called(), config.batch_seconds
    )


class Shipper:
    """Sends one log to one receiver."""

    def __init__(
        self,
        place: ShipperPaths,
        name: str,
        where: str,
        make: Callable[[], Target],
        *,
        per_second: float = 0.0,
    ) -> None:
        self._place = place
        self._make = make
        self._target: Target | None = None
        self._per_second = per_second
        self._log: Log | None = None
        self._file: os.stat_result | None = None
        self._open = ExitStack()
        self._synced = False
        self._sent = 0
        """Events since it was made."""
        self._seen = -1
        self._tree: Growing | None = None
        """The log's tree up to the cursor; None: not known yet."""
        self._looked = 0
        """The last event that was looked at, whether it is urgent."""
        self._beat = False
        """Whether a sign of life is due."""
        self._cursor = load_cursor(place.cursors, name)
        self._cursor.target = where

    # -- the loop -------------------------------------------------------------------

    async def once(self) -> int:
        """Ship what there is now, and return how many events that was.

        Checkpoints go with them and are not counted.

        Raises UpstreamError, SetupError or IntegrityError at the first failure.  Writes
        the cursor's file after each batch that a receiver has taken.
        """
        try:
            while step := await self._in_time():
                await self._pace(step)
        except VitrailError as error:
            self._failed(error)
            raise
        finally:
            self._close()
        return self._sent

    async def follow(self, stop: trio.Event) -> None:
        """Send until ``stop`` is set; then send the remaining events, and end."""
        pause = 1.0
        try:
            while True:
                try:
                    sent = await self._in_time()
                except VitrailError as error:
                    self._failed(error)
                    # Full jitter: all machines have lost it in the same second.
                    with trio.move_on_after(random.uniform(0, pause)):  # noqa: S311
                        await stop.wait()
                    pause = min(2 * pause, audit_limits.SHIP_RETRY_SECONDS)
                    sent = 0
                else:
                    pause = 1.0
                    await (self._pace(sent) if sent else self._wait(stop))
                if stop.is_set() and not sent and not self._changed_now():
                    return
        finally:
            self._close()

    async def _in_time(self) -> int:
        """Ship a batch in a thread, within a time limit; return its size.

        Raises VitrailError.
        """
        done: int | VitrailError = 0
        hurried = False

        async def hurry() -> None:
            nonlocal hurried
            await trio.sleep(audit_limits.SHIP_STEP_SECONDS)
            hurried = True
            while True:
                if self._target is not None:
                    self._target.interrupt()
                await trio.sleep(_AGAIN_SECONDS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry)
            try:
                done = await in_thread(self._step, abandon_on_cancel=True)
            except VitrailError as error:
                done = error
            except Exception as error:  # noqa: BLE001
                # An answer that we did not think of is this receiver's affair alone.
                log_exception(error)
                what = type(error).__name__
                done = UpstreamError(f"unexpected error ({what}); see the broker's log")
            nursery.cancel_scope.cancel()
        if not isinstance(done, VitrailError):
            return done
        if hurried:
            raise UpstreamError(
                f"the receiver did not accept a batch within {audit_limits.SHIP_STEP_SECONDS:g} s"
            ) from done
        raise done

    async def _pace(self, sent: int) -> None:
        if self._per_second:
            await trio.sleep(sent / self._per_second)

    async def _wait(self, stop: trio.Event) -> None:
        """Wait until events or a sign of life are to be sent.

        The connection to a target that collects batches is closed meanwhile.
        """
        target = self._target
        collects = target is not None and target.waits and self._place.batch_seconds > 0
        if collects:
            assert target is not None
            target.close()
        due = beat = float("inf")
        if target is not None and target.beats:
            beat = trio.current_time() + _BEAT_SECONDS
        while not stop.is_set():
            now = trio.current_time()
            if self._changed():
                if not collects or self._log is None:
                    return
                if due == float("inf"):
                    due = now + random.uniform(0.5, 1) * self._place.batch_seconds  # noqa: S311
                if now >= due or self._urgent(self._log):
                    return
            if now >= beat:
                self._beat = True
                return
            with trio.move_on_after(audit_limits.SHIP_LOOK_SECONDS):
                await stop.wait()

    def _urgent(self, log: Log) -> bool:
        """Return whether the new events are many, or one of them must not wait."""
        newest, sent = log.newest(), self._cursor.sequence
        if newest - sent >= audit_limits.SHIP_BATCH_EVENTS:
            return True
        after, self._looked = max(self._looked, sent), newest
        ends = " OR ".join("kind LIKE ?" for _ in BAD_ENDS)
        found = log.rows(
            f"SELECT 1 FROM event WHERE sequence > ? AND ({ends} "  # noqa: S608
            'OR body LIKE \'%"verdict":"deny"%\') LIMIT 1',
            [after, *(f"%{end}" for end in BAD_ENDS)],
        )
        return bool(found)

    def _changed_now(self) -> bool:
        """Return whether there is something left that can be sent at the end."""
        return not self._cursor.problem and self._changed()

    def _changed(self) -> bool:
        """Return whether another file is in the log's place."""
        if self._log is None:
            return True
        try:
            same = self._file and os.path.samestat(self._place.log.stat(), self._file)
        except OSError:
            same = False
        if not same:
            self._let_go()  # moved away, and perhaps a new one begun
            return True
        return self._log.version() != self._seen

    def _failed(self, error: VitrailError) -> None:
        """Record and report a failure; the same problem is reported once."""
        self._let_go()
        text = str(error)
        if self._cursor.problem != text:
            self._cursor.problem, self._cursor.since = text, time.time()
            log_stderr(f"vitrail: cannot ship to '{self._cursor.name}': {text}")
            self._save_quietly()

    def _save_quietly(self) -> None:
        """Write the cursor's file; an error goes to standard error."""
        try:
            save_cursor(self._place.cursors, self._cursor)
        except UpstreamError as error:
            log_stderr(f"vitrail: {error}")

    def _let_go(self) -> None:
        self._synced = False
        self._tree = None
        self._log = None
        self._open.close()

    def _close(self) -> None:
        self._let_go()
        if self._target is not None:
            self._target.close()

    # -- one batch (in a worker thread) ----------------------------------------------

    def _step(self) -> int:
        """Ship the next batch and return its size, 0 when there is nothing."""
        log = self._log or self._reader()
        self._log = log
        self._seen = log.version()
        if not self._synced:
            if not self._synchronise(log):
                return 0
            self._synced = True
        batch = self._next(log)
        if batch is None:
            self._recovered()
            return 0
        target = self._receiver()
        if target.proves and batch.items:
            batch = replace(batch, proof=proof_of(log, batch.last))
        target.send(batch)
        self._delivered(batch)
        return len(batch.items) or len(batch.notes)

    def _delivered(self, batch: Batch) -> None:
        """Advance the cursor past a batch that the receiver has accepted.

        Writes the cursor's file.
        """
        cursor = self._cursor
        if batch.missing:
            log_stderr(
                f"vitrail: '{cursor.name}' will not receive {batch.missing} events before {batch.first}: they were removed from the log"
            )
        cursor.missing += batch.missing
        self._sent += len(batch.items)
        if batch.items:
            last = batch.items[-1]
            cursor.sequence, cursor.leaf = last.sequence, last.leaf.hex()
            cursor.time_ns = last.time_ns
        for sealed in batch.notes:
            if sealed.size > cursor.noted:
                cursor.noted, cursor.noted_kinds = sealed.size, []
            cursor.noted_kinds.append(sealed.kind)
        # guard: a sign of life is due until it is taken
        self._beat = False
        cursor.shipped = time.time()
        cursor.problem, cursor.since = "", 0.0
        save_cursor(self._place.cursors, cursor)

    def _receiver(self) -> Target:
        if self._target is None:
            self._target = self._make()
        return self._target

    def _recovered(self) -> None:
        """Take the receiver's problem out of the cursor, and write its file."""
        if self._cursor.problem:
            self._cursor.problem, self._cursor.since = "", 0.0
            save_cursor(self._place.cursors, self._cursor)

    def _reader(self) -> Log:
        """Open the log's file for reading."""
        log = self._open.enter_context(open_log(self._place.log))
        self._file = self._place.log.stat()
        return log

    def _synchronise(self, log: Log) -> bool:
        """Find out where to go on; False when the log is empty."""
        cursor = self._cursor
        identity = log.identity()
        newest = log.newest()
        if not newest:
            return False
        if not identity:
            raise SetupError(
                "the audit log has no checkpoint, so receivers cannot identify it",
                hint="to create the first checkpoint, start a broker: 'brokerctl run SANDBOX'",
            )
        if cursor.log != identity:
            # Another log was begun here; it counts from 1 again.
            cursor.log, cursor.sequence, cursor.leaf = identity, 0, ""
            cursor.noted, cursor.noted_kinds = -1, []
        _compare(log, newest, cursor.sequence, cursor.leaf)
        has = self._receiver().position(bytes.fromhex(identity))
        if has is not None and has[0] != cursor.sequence:
            # A crash came between its answer and our cursor, or it has lost some.
            _compare(log, newest, *has)
            if has[0] < cursor.sequence:
                cursor.noted, cursor.noted_kinds = -1, []
            cursor.sequence = has[0]
            cursor.leaf = has[1] or log.digest(has[0])
        return True

    def _next(self, log: Log) -> Batch | None:
        """Read the next batch after the cursor; None if there is nothing new."""
        items: list[ShippedItem] = []
        size = 0
        after = self._cursor.sequence
        for row in log.read(after, audit_limits.SHIP_BATCH_EVENTS):
            size += len(row[3])
            hole = bool(items) and row[0] != items[-1].sequence + 1
            if hole or (items and size > audit_limits.SHIP_BATCH_BYTES):
                break
            items.append(_item(*row))
        notes = self._notes(log, items[-1].sequence if items else after)
        if not items and not notes and not self._beat:
            return None
        log_id, machine = bytes.fromhex(self._cursor.log), self._place.machine
        if not items:
            return Batch(log_id, machine, items, notes=notes)
        first = items[0].sequence
        tree = self._tree
        if tree is None or tree.size != first - 1:
            tree = tree_at(log, first - 1)
        self._tree = None if tree is None else grown(tree, items)
        return Batch(
            log_id,
            machine,
            items,
            missing=first - after - 1,
            notes=notes,
            before=edge(tree),
            edge=edge(self._tree),
        )

    def _notes(self, log: Log, upto: int) -> list[SignedNote]:
        """Return the checkpoints that the receiver lacks, none beyond ``upto``."""
        cursor = self._cursor
        fresh = [
            SignedNote(*row)
            for row in log.notes(cursor.noted, upto)
            if row[0] > cursor.noted or row[1] not in cursor.noted_kinds
        ]
        return fresh[: audit_limits.SHIP_BATCH_NOTES]


def _item(
    sequence: int, time_ns: int, kind: str, body: str, leaf: bytes
) -> ShippedItem:
    """Return an event to be shipped.  Raises IntegrityError for a changed one."""
    fields = Found(sequence, time_ns, kind, "", body).fields()
    computed = leaf_hash(body.encode())
    if leaf and leaf != computed:
        raise IntegrityError(
            f"event {sequence} was changed after it was recorded",
            hint="run 'brokerctl audit verify'; later events are not shipped",
        )
    return ShippedItem(sequence, time_ns, kind, body, computed, fields)


def _compare(log: Log, newest: int, sequence: int, leaf: str) -> None:
    """Raise IntegrityError when the log is not the log that was shipped before."""
    if sequence > newest:
        raise IntegrityError(
            f"event {sequence} was shipped, but the log ends at {newest}",
            hint="run 'brokerctl audit verify'; the log was truncated or rolled back",
        )
    there = log.digest(sequence) if sequence else ""
    if there and leaf and there != leaf:
        raise IntegrityError(
            f"event {sequence} differs from the one that was shipped",
            hint="run 'brokerctl audit verify'; the log was changed",
        )


# -- all receivers ------------------------------------------------------------------


def _shipper(place: ShipperPaths, config: AnyTarget) -> Shipper:
    """Return the shipper to a receiver."""
    journald = isinstance(config, JournaldTarget)
    return Shipper(
        place,
        config.name,
        config.where(),
        partial(make_target, config, place.machine, place.doors.get(config.name)),
        per_second=audit_limits.SHIP_JOURNALD_PER_SECOND if journald else 0.0,
    )


# The log is shipped by a separate process. A receiver's library, its passwords and its
# answers are not for the process that decides. The shipper reads the log as any other
# reader, so it can be killed, hang or be missing, and nothing waits for it. It is not
# jailed: it needs the network and the log, and no sandbox speaks to it.
async def ship_once(
    place: ShipperPaths,
    targets: Sequence[AnyTarget],
    told: Callable[[str, int | VitrailError], None],
) -> None:
    """Send new events to each; ``told`` receives their number, or the failure."""

    async def one(config: AnyTarget) -> None:
        try:
            with locked(place.cursors, config.name):
                told(config.name, await _shipper(place, config).once())
        except VitrailError as error:
            told(config.name, error)

    async with trio.open_nursery() as nursery:
        for config in targets:
            nursery.start_soon(one, config)


async def ship_for_ever(
    place: ShipperPaths, targets: Sequence[AnyTarget], stop: trio.Event
) -> None:
    """Send to each as events are recorded, until ``stop`` is set.

    A receiver that cannot be started (a package is missing, another machine
    ships to it) is reported and tried again.
    """

    async def one(config: AnyTarget) -> None:
        said = ""
        while not stop.is_set():
            try:
                with locked(place.cursors, config.name):
                    await _shipper(place, config).follow(stop)
            except VitrailError as error:
                if str(error) != said:
                    said = str(error)
                    log_stderr(f"vitrail: cannot ship to '{config.name}': {said}")
                with trio.move_on_after(audit_limits.SHIP_RETRY_SECONDS):
                    await stop.wait()

    async with trio.open_nursery() as nursery:
        for config in targets:
            nursery.start_soon(one, config)
