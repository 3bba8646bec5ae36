"""A fleet's store as a source of events."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import rich_click as click

from broker.authority.audit.proof.note import Note, parse_note
from broker.cli.audit.event_text import Asked
from broker.cli.audit.proof.proven import Proven
from broker.cli.audit.proof.shipped import Checked, compare
from broker.cli.audit.proof.verify import Report
from broker.cli.audit.query.archive import open_archive
from broker.cli.audit.query.fleet_database import Fleet, FleetLog, open_fleet
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.ipc.audit.counts import Counts
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.filters import Found as FoundEvent
from broker.ipc.audit.tree import Growing


@dataclass
class FleetSource:
    """All machines' events."""

    fleet: Fleet

    def filters(self, asked: Asked) -> Filters | None:
        """As they were asked."""
        return asked.filters

    def find(
        self,
        filters: Filters,
        *,
        cursor: str = "",
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[FoundEvent]:
        """Yield what matches and has arrived after ``cursor``."""
        try:
            return self.fleet.find(
                filters, cursor=cursor, last=last, newest_first=newest_first
            )
        except ValueError as error:
            raise click.UsageError(
                f"no cursor of a fleet's store: {printable(cursor, 80)!r}"
            ) from error

    def cursor(self, found: FoundEvent) -> str:
        """Everything that had arrived when the question was asked."""
        del found
        return self.fleet.horizon

    def follow(
        self, filters: Filters, *, shown: FoundEvent | None, cursor: str
    ) -> AsyncGenerator[FoundEvent, None]:
        """Yield what arrives from now on."""
        del shown, cursor
        return self.fleet.follow(filters, cursor=self.fleet.horizon)

    def counts(self, filters: Filters, top: int) -> Counts:
        """Count what matches."""
        return self.fleet.counts(filters, top)


@contextmanager
def open_fleet_source(address: str) -> Iterator[FleetSource]:
    """Open a fleet's store; raises SetupError and UpstreamError."""
    with open_fleet(address) as fleet:
        yield FleetSource(fleet)


Found = tuple[FleetLog, Report]
_PARALLEL = 8
"""So many logs are worth the start of processes."""


def verify_fleet(
    address: str,
    machines: Sequence[str],
    kept: Sequence[tuple[str, Note]],
    state: Proven | None = None,
    jobs: int = 0,
) -> list[Found]:
    """Compare what the store has with what each machine signed: log and report.

    ``kept`` are checkpoints from elsewhere, of any of the logs; ``state`` says how far
    each log was proved before, and is moved on.
    """
    with open_fleet(address) as fleet:
        logs = fleet.logs(machines)
        if not logs:
            raise SetupError(
                "no such machine ships to this database",
                hint=f"there are: {', '.join(map(printable, fleet.machines())) or 'none'}",
            )
    notes = [note.whole for _, note in kept]
    starts = [None if state is None else state.of(log.name) for log in logs]
    workers = min(jobs or os.cpu_count() or 1, len(logs))
    if workers < 2 or len(logs) < _PARALLEL:
        done = [*map(partial(_verify_one, address, notes), logs, starts)]
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            work = partial(_verify_one, address, notes)
            done = [
                *pool.map(work, logs, starts, chunksize=1 + len(logs) // workers // 4)
            ]
    return _moved(list(zip(logs, done, strict=True)), state)


def _verify_one(
    address: str, kept: Sequence[str], log: FleetLog, start: Growing | None
) -> Checked:
    with open_fleet(address) as fleet:
        began = 0 if start is None else start.size
        return compare(
            log.name,
            [*_later(fleet.notes(log), began), *_of(log.name, kept)],
            fleet.leaves(log, began),
            frontiers=fleet.frontiers(log),
            start=start,
        )


def verify_archive(
    store: str, kept: Sequence[tuple[str, Note]], state: Proven | None = None
) -> list[Found]:
    """The same of files with JSON lines."""
    notes = [note.whole for _, note in kept]
    found: list[tuple[FleetLog, Checked]] = []
    with open_archive(store) as archive:
        for number, (name, machine) in enumerate(archive.logs()):
            start = None if state is None else state.of(name)
            began = 0 if start is None else start.size
            checked = compare(
                name,
                [*_later(archive.notes(name), began), *_of(name, notes)],
                archive.leaves(name, began),
                start=start,
            )
            found.append((FleetLog(number, name, machine, "-"), checked))
    return _moved(found, state)


def _moved(
    found: Sequence[tuple[FleetLog, Checked]], state: Proven | None
) -> list[Found]:
    for log, checked in found:
        if state is not None and checked.report.good:
            state.move(log.name, checked.proven)
    return [(log, checked.report) for log, checked in found]


def _later(notes: Sequence[str], began: int) -> list[str]:
    """Without those that were compared before; the keys are needed from the first on."""
    parsed = ((text, parse_note(text).checkpoint) for text in notes)
    return [t for t, note in parsed if note.change is not None or note.size > began]


def _of(name: str, kept: Sequence[str]) -> list[str]:
    return [text for text in kept if text.partition("\n")[0].endswith(f"/{name}")]


def fleet_notes(address: str, machines: Sequence[str]) -> list[str]:
    """The checkpoints that the store has of these machines' logs."""
    with open_fleet(address) as fleet:
        return [note for log in fleet.logs(machines) for note in fleet.notes(log)]
