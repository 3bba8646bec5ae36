"""Sources of events: this user's log, a copy of a log, or a fleet's store."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import rich_click as click

from broker.cli.audit.event_text import EventOptions, is_fleet, store_path
from broker.cli.run.connect import offline_paths
from broker.core.errors import IntegrityError
from broker.core.escape import printable
from broker.core.parts.absent import needed
from broker.ipc.audit.counts import Counts
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.query import Log, open_log

_CURSOR = re.compile(r"i=(\d{1,18});h=([0-9a-f]{32})")
_HASH = 32


class Source(Protocol):
    """A source of events."""

    def filters(self, asked: EventOptions) -> Filters | None:
        """Return the filters in this source's terms; None: nothing can match."""
        ...

    def find(
        self,
        filters: Filters,
        *,
        cursor: str = "",
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield the events that match filters, from ``cursor`` on; see ``Log.find``."""
        ...

    def cursor(self, found: Found) -> str:
        """Where to continue after this event."""
        ...

    def follow(
        self, filters: Filters, *, shown: Found | None, cursor: str
    ) -> AsyncGenerator[Found, None]:
        """Yield events that are recorded from now on."""
        ...

    def counts(self, filters: Filters, top: int) -> Counts:
        """Count what matches; of each field the ``top`` most frequent values."""
        ...


@dataclass
class LocalSource:
    """One log."""

    log: Log
    own: bool
    """Of this machine, so that its boot 0 is the running one."""
    path: Path = Path()
    """Of its file."""
    began: int = 0
    """The newest event when the question was asked."""

    def filters(self, asked: EventOptions) -> Filters | None:
        """Also finds out which boot is meant."""
        if asked.boot in {"", "all"}:
            return asked.filters
        boot = self._boot(asked.boot)
        return replace(asked.filters, boot=boot) if boot else None

    def _boot(self, word: str) -> str:
        """Return the boot that a word names."""
        boots = [boot.boot for boot in self.log.boots()]
        if len(word) >= 32:
            plain = word.replace("-", "")
            return next((b for b in boots if b.replace("-", "") == plain), "")
        number = int(word)
        if self.own and number <= 0:
            now = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            boots = [*(boot for boot in boots if boot != now), now]
        index = number - 1 if number > 0 else len(boots) - 1 + number
        return boots[index] if 0 <= index < len(boots) else ""

    def find(
        self,
        filters: Filters,
        *,
        cursor: str = "",
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield the events of this user's log that match filters, after ``cursor``."""
        self.began = self.log.newest()
        after = self._after(cursor) if cursor else 0
        return self.log.find(filters, after=after, last=last, newest_first=newest_first)

    def cursor(self, found: Found) -> str:
        """Its number and its hash, so that a changed log is noticed."""
        return f"i={found.sequence};h={self.log.digest(found.sequence)[:_HASH]}"

    def _after(self, cursor: str) -> int:
        """Return the event number of a cursor, after checking its hash."""
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise click.UsageError(
                f"{printable(cursor, 80)!r} is not a cursor of a log"
            )
        sequence, digest = int(match[1]), match[2]
        newest = self.log.newest()
        if sequence > newest:
            raise IntegrityError(
                f"the cursor names event {sequence}, but the log ends at event "
                f"{newest}",
                hint="use a cursor of this log; if it is one, the log was truncated "
                "or rolled back: run 'brokerctl audit verify'",
            )
        there = self.log.digest(sequence)
        # An event that retention has removed cannot be compared.
        if there and there[:_HASH] != digest:
            raise IntegrityError(
                f"event {sequence} is not the event that the cursor names",
                hint="use a cursor of this log; if it is one, the log was changed: "
                "run 'brokerctl audit verify'",
            )
        return sequence

    def follow(
        self, filters: Filters, *, shown: Found | None, cursor: str
    ) -> AsyncGenerator[Found, None]:
        """Yield this log's events that are recorded from now on."""
        del cursor  # the events after it have been shown
        after = max(self.began, shown.sequence if shown is not None else 0)
        return self.log.follow(filters, after=after)

    def counts(self, filters: Filters, top: int) -> Counts:
        """Count what matches."""
        return self.log.counts(filters, top)


@contextmanager
def open_source(asked: EventOptions) -> Iterator[Source]:
    """Open the log or store that ``--store`` names.

    Raises SetupError when it is not there, UpstreamError when it fails.
    """
    if is_fleet(asked.store):
        with needed("reading a fleet's database"):
            from broker.cli.fleet.fleet_database import open_fleet

        with open_fleet(asked.store) as fleet:
            yield fleet
        return
    own = not asked.store
    path = offline_paths().audit if own else store_path(asked.store)
    with open_log(path) as log:
        yield LocalSource(log, own, path)
