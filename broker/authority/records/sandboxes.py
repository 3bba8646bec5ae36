"""The records in force in a running broker, and finding one by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.records.changes import Stamp
from broker.authority.records.kept import keep_records, mended
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.core.stderr_log import log_stderr
from broker.ipc.audit import schema
from broker.ipc.in_thread import in_thread
from policy.records.loader import load_records, search_path, with_last_good
from policy.records.model import RecordSet

_LINES = 64
_LINE_CHARACTERS = 200
"""Files or problems in one event, and how much of each: below
``limits.AUDIT_EVENT_BYTES`` whatever the characters are."""


_PROBLEM_CHARACTERS = 1000
"""Of one problem with a record; a path in it may hold any byte."""


class Records:
    """The records as they were read last."""

    def __init__(self, paths: Paths, shipped: Path | None, log: EventLog) -> None:
        self._paths = paths
        self._shipped = shipped
        self._log = log
        self._changing = trio.Lock()
        self._asked = self._answered = 0
        """Calls of ``reload`` so far, and those that a reading has answered."""
        self._stamp: Stamp | None = self._look()
        self.now = mended(self._read(), paths)
        self.pending: RecordSet | None = None
        """Records that are read and not on record yet.  They take away already."""
        self.tightened: Callable[[], None] = _nothing_live
        """Called when ``pending`` is set: cut the operations that it denies."""

    def _read(self) -> RecordSet:
        return load_records(self._directories, shipped=self._shipped)

    @property
    def _directories(self) -> tuple[Path, ...]:
        return search_path(self._paths.runtime, self._paths.config)

    def _look(self) -> Stamp:
        shipped = () if self._shipped is None else (self._shipped,)
        return Stamp([*self._directories, *shipped])

    async def reload(self) -> None:
        """Read again if a file has changed: once for all who wait, in a thread.

        A host announces leases as fast as it likes, and each asks for this.  Two
        hundred records take 0.3 s to read; meanwhile all else continues.

        A record with a mistake keeps its previous content.  Raises
        UpstreamError when the change could not be recorded: then the old ones
        are in force still, and everything that the new ones deny is denied, too.
        """
        self._asked = mine = self._asked + 1
        # Read inside: an older reading must never come into force later.
        async with self._changing:
            # guard: one reading for all who wait
            if self._answered >= mine:
                return
            answers, stamp = self._asked, self._look()
            # guard: records that have not changed are not read
            if not stamp.same(self._stamp) or self.pending is not None:
                await self._read_again(stamp)
            self._answered = answers

    async def _read_again(self, stamp: Stamp) -> None:
        """Read the records' files and bring them into force.

        Raises UpstreamError as ``reload``.
        """
        # guard: records are read beside all else
        read = await in_thread(self._read)
        fresh = with_last_good(read, self.now)
        if fresh.digest != self.now.digest or fresh.problems != self.now.problems:
            # A stricter set does not wait for the log; see authz.rules.
            self.pending = fresh
            self.tightened()
            await self._record_set_loaded(fresh)
            self.now = fresh
            self._keep()
        self.pending = None
        self._stamp = stamp

    async def record(self) -> None:
        """Record the records in force in the log.  Raises UpstreamError."""
        await self._record_set_loaded(self.now)
        self._keep()

    def _keep(self) -> None:
        """Write the records in force to files, for a restart."""
        try:
            keep_records(self.now, self._paths)
        except OSError as error:
            log_stderr(f"vitrail: cannot save the records for a restart: {error}")

    async def _record_set_loaded(self, found: RecordSet) -> None:
        """Write the events of a new set of records before it takes effect."""
        files = [str(record.source) for record in found.records.values()]
        await self._log.require(
            schema.PolicyLoaded(
                policy=found.digest, files=_shown(files), rules=len(found.records)
            )
        )
        if found.problems:
            problems = [f"{p.where}: {p.message}" for p in found.problems]
            await self._log.note(
                schema.PolicyRefused(problems=_shown(problems), policy=found.digest)
            )


def _nothing_live() -> None:
    """Nothing is permitted by the records yet."""


def _shown(lines: list[str]) -> list[str]:
    """As many as fit into an event, as text: a path may hold any byte."""
    kept = [printable(line, _LINE_CHARACTERS) for line in lines[:_LINES]]
    return kept if len(lines) <= _LINES else [*kept, f"and {len(lines) - _LINES} more"]


def problem_lines(records: RecordSet) -> list[str]:
    """Problems with records, as text that a terminal can show."""
    lines = [f"{p.where}: {p.message}" for p in records.problems]
    return [printable(line, _PROBLEM_CHARACTERS) for line in lines]
