"""A fleet's store, and archives, compared with what their machines have signed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from broker.authority.audit.proof.note import Note, parse_note
from broker.cli.audit.proof.proven import Proven
from broker.cli.audit.proof.shipped import Checked, ShippedLog, compare
from broker.cli.audit.proof.verify import VerificationReport
from broker.cli.audit.query.archive import EventArchive, open_archive
from broker.cli.fleet.fleet_database import Fleet, open_fleet
from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from broker.ipc.audit.tree import Growing

Found = tuple[ShippedLog, VerificationReport]
_PARALLEL = 8
"""So many logs are worth the start of processes."""


def verify_fleet(
    address: str,
    machines: Sequence[str],
    kept: Sequence[tuple[str, Note]],
    state: Proven | None = None,
    jobs: int = 0,
) -> list[Found]:
    """Verify the logs in a fleet's store against what each machine signed.

    ``kept`` are checkpoints from elsewhere, of any of the logs; ``state`` says how far
    each log was proved before, and is moved on.
    """
    with open_fleet(address) as fleet:
        logs = fleet.logs(machines)
        if not logs:
            raise SetupError(
                "the database does not contain a log of "
                f"{', '.join(map(printable, machines)) or 'any machine'}",
                hint="use one of the machines that have shipped a log: "
                + ", ".join(known)
                if (known := [printable(name) for name in fleet.machines()])
                else "to ship a log, run 'brokerctl audit ship --once' on a machine",
            )
        notes = [note.whole for _, note in kept]
        starts = _starts(logs, state)
        workers = min(jobs or os.cpu_count() or 1, len(logs))
        if workers < 2 or len(logs) < _PARALLEL:
            work = partial(_verify_one, fleet, notes)
            return _moved(logs, map(work, logs, starts), state)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        apart = partial(_verify_apart, address, notes)
        chunk = 1 + len(logs) // workers // 4
        return _moved(logs, pool.map(apart, logs, starts, chunksize=chunk), state)


def _verify_apart(
    address: str, kept: Sequence[str], log: ShippedLog, start: Growing | None
) -> Checked:
    with open_fleet(address) as fleet:
        return _verify_one(fleet, kept, log, start)


def _verify_one(
    store: Fleet | EventArchive,
    kept: Sequence[str],
    log: ShippedLog,
    start: Growing | None,
) -> Checked:
    """Compare one log's events in the store with its checkpoints."""
    began = 0 if start is None else start.size
    return compare(
        log.name,
        [*_later(store.notes(log), began), *_of(log.name, kept)],
        store.leaves(log, began),
        frontiers=store.frontiers(log),
        start=start,
    )


def verify_archive(
    store: str, kept: Sequence[tuple[str, Note]], state: Proven | None = None
) -> list[Found]:
    """Verify the logs in files of JSON lines."""
    notes = [note.whole for _, note in kept]
    with open_archive(store) as archive:
        logs = archive.logs()
        work = partial(_verify_one, archive, notes)
        return _moved(logs, map(work, logs, _starts(logs, state)), state)


def _starts(logs: Sequence[ShippedLog], state: Proven | None) -> list[Growing | None]:
    return [None if state is None else state.of(log.name) for log in logs]


def _moved(
    logs: Sequence[ShippedLog], done: Iterable[Checked], state: Proven | None
) -> list[Found]:
    """Store how far each good log is proved; return the reports."""
    found = []
    for log, checked in zip(logs, done, strict=True):
        if state is not None and checked.report.good:
            state.move(log.name, checked.proven)
        found.append((log, checked.report))
    return found


def _later(notes: Sequence[str], began: int) -> list[str]:
    """Omit checkpoints that were compared before, but keep all keys."""
    return [text for text in notes if _is_needed(text, began)]


def _is_needed(text: str, began: int) -> bool:
    try:
        found = parse_note(text).checkpoint
    except RefusedError:
        return True  # for the report: it is that log's problem, and of no other
    return found.change is not None or found.size > began


def _of(name: str, kept: Sequence[str]) -> list[str]:
    return [text for text in kept if text.partition("\n")[0].endswith(f"/{name}")]


def fleet_notes(address: str, machines: Sequence[str]) -> list[str]:
    """The checkpoints that the store has of these machines' logs."""
    with open_fleet(address) as fleet:
        return [note for log in fleet.logs(machines) for note in fleet.notes(log)]
