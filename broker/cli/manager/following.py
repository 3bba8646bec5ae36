"""The state that the manager shows: the records, and the broker's reports."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from broker.cli.policy.records import read_records
from broker.cli.run.follow_broker import BrokerFollower
from broker.core.errors import RefusedError, VitrailError
from broker.core.paths import Paths
from broker.ipc.control import methods
from broker.ipc.control.api import (
    DeviceStatus,
    EventItem,
    GrantStatus,
    LockdownRequest,
    Nothing,
    PendingQuestion,
    ProcessStatus,
    SandboxStatus,
)
from broker.ipc.control.client import Client
from broker.ipc.in_thread import in_thread
from policy.records.loader import search_path
from policy.records.model import Record


@dataclass(frozen=True, slots=True)
class SandboxRow:
    """A line of the list: a record, or a sandbox that runs, with its record's name."""

    name: str
    record: str
    title: str
    colour: str
    state: str = "stopped"
    broken: str = ""
    """The error of its record; empty: none."""
    memory: int = 0
    """Bytes of all its processes on this machine."""
    processes: frozenset[int] = frozenset()
    """The broker's processes for it, and its first one."""
    status: SandboxStatus | None = None


@dataclass(frozen=True, slots=True)
class ManagerState:
    """All that the pages show at one moment; ``reachable`` False: no broker runs."""

    reachable: bool = False
    sandboxes: tuple[SandboxRow, ...] = ()
    questions: tuple[PendingQuestion, ...] = ()
    grants: tuple[GrantStatus, ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    locked: bool = False
    warnings: tuple[str, ...] = ()


def follower(
    paths: Paths,
    show: Callable[[ManagerState], Awaitable[None]],
    event: Callable[[EventItem], Awaitable[None]],
) -> BrokerFollower[ManagerState]:
    """Return what calls ``show`` with each new state and ``event`` with each event."""
    records = RecordRows(paths)

    async def look(asked: Client) -> ManagerState:
        return await state_of(asked, await in_thread(records.read))

    async def absent() -> ManagerState:
        return ManagerState(sandboxes=await in_thread(records.read))

    return BrokerFollower(paths, look, absent, show, event=event)


class RecordRows:
    """The rows of the user's records, whose files are read again when one has changed.

    The state is looked at after each event, and 200 records take 0.2 s.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._seen: frozenset[tuple[str, int, int, int]] | None = None
        self._rows: tuple[SandboxRow, ...] = ()

    def read(self) -> tuple[SandboxRow, ...]:
        """Return the rows as they are now."""
        # Looked at first: a file that changes meanwhile is read again the next time.
        found = frozenset(
            state
            for folder in search_path(self._paths.runtime, self._paths.config)
            for state in _files_in(folder)
        )
        if found != self._seen:
            self._rows = record_rows(self._paths)
            self._seen = found
        return self._rows


def _files_in(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield the state of each file of a directory, which may be absent."""
    try:
        entries = [*os.scandir(folder)]
    except OSError:
        return  # the reader reports it
    for entry in entries:
        with suppress(OSError):  # it has gone
            state = entry.stat()
            yield entry.path, state.st_ino, state.st_ctime_ns, state.st_size


def record_rows(paths: Paths) -> tuple[SandboxRow, ...]:
    """Return a row for each record of the user, also for those with errors."""
    found = read_records(paths)
    rows = [_row_of(record) for record in found.records.values()]
    rows += [
        SandboxRow(name, name, name, "", "error", problem.first_line())
        for name, problem in found.broken.items()
        if name not in found.records
    ]
    return tuple(sorted(rows, key=lambda row: row.name))


def _row_of(record: Record) -> SandboxRow:
    label = record.viewer.label
    return SandboxRow(record.name, record.name, label.name, label.colour)


async def state_of(asked: Client, records: tuple[SandboxRow, ...]) -> ManagerState:
    """Ask the broker once.  Raises its refusal, or UpstreamError if it has ended."""
    status = await asked.call(methods.STATUS, Nothing())
    lockdown = await asked.call(methods.LOCKDOWN, LockdownRequest())
    questions: list[PendingQuestion] = []
    grants: list[GrantStatus] = []
    devices: list[DeviceStatus] = []
    with suppress(RefusedError):  # a host has no dialogs
        questions = (await asked.call(methods.PENDING, Nothing())).questions
        grants = (await asked.call(methods.GRANT_LIST, Nothing())).grants
    with suppress(VitrailError):  # the devices' service need not be installed
        devices = (await asked.call(methods.DEVICES, Nothing())).devices
    return ManagerState(
        reachable=True,
        sandboxes=merged(records, status.sandboxes, status.processes),
        questions=tuple(questions),
        grants=tuple(grants),
        devices=tuple(devices),
        locked=lockdown.locked,
        warnings=(*status.warnings, *status.policy.problems),
    )


def merged(
    records: tuple[SandboxRow, ...],
    running: list[SandboxStatus],
    processes: list[ProcessStatus],
) -> tuple[SandboxRow, ...]:
    """Return the running sandboxes, then the records of which none runs.

    A record of several disposables has a row for each that runs, and stays startable: its
    own row remains.
    """
    memory: dict[str, int] = {}
    pids: dict[str, set[int]] = {one.name: {one.pid or 0} for one in running}
    for process in processes:
        memory[process.sandbox] = memory.get(process.sandbox, 0) + process.memory
        pids.setdefault(process.sandbox, set()).add(process.pid)
    rows = [
        SandboxRow(
            one.name,
            one.record or one.name,
            one.label,
            one.color,
            one.state,
            memory=memory.get(one.name, 0),
            processes=frozenset(pids[one.name] - {0}),
            status=one,
        )
        for one in sorted(running, key=lambda one: one.name)
    ]
    names = {row.name for row in rows}
    rows += [row for row in records if row.name not in names]
    return tuple(rows)


def without_numbers(row: SandboxRow) -> SandboxRow:
    """Return a row without what changes all the time, to see whether it changed."""
    return replace(row, memory=row.memory >> 22, processes=frozenset(), status=None)
