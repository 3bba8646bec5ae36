"""The data of ``brokerctl top`` at one moment."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from broker.cli.audit.events import as_message, shown_target
from broker.cli.quick.status import memory_of
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError, VitrailError
from broker.core.escape import printable
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.control.api import (
    Nothing,
    PendingQuestion,
    Status,
    WindowsRequest,
)
from broker.ipc.control.blocking import BlockingClient
from broker.ipc.control.methods import PENDING, STATUS, WINDOWS

_EVENTS = 30
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ListedWindow:
    """A window of a sandbox; the title is the application's, escaped."""

    number: int
    title: str
    focused: bool


@dataclass(frozen=True)
class NetworkRates:
    """The flows of a sandbox to hosts outside, with bytes a second."""

    flows: int
    rate_from_sandbox: float
    rate_to_sandbox: float


@dataclass(frozen=True)
class SnapshotRow:
    """A sandbox; ``cpu`` is the share of one processor, ``memory`` bytes."""

    name: str
    label: str
    colour: str
    up: float
    cpu: float
    memory: int
    streams: int
    programs: tuple[str, ...]
    windows: tuple[ListedWindow, ...]
    network: NetworkRates | None
    """None: its flows are not decided."""


@dataclass(frozen=True)
class WaitingQuestion:
    """A question that waits for an answer."""

    id: int
    text: str


@dataclass(frozen=True)
class Snapshot:
    """The data of the screen."""

    rows: tuple[SnapshotRow, ...]
    questions: tuple[WaitingQuestion, ...]
    events: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, object]:
        """The snapshot for programs."""
        return asdict(self)


class Cpu:
    """Processor time of processes, as a share since the last look."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}
        self._at = time.monotonic()

    def shares(self, pids: list[int]) -> dict[int, float]:
        """Return each process's share of one processor, 1.0 for all of it."""
        now = time.monotonic()
        span, self._at = now - self._at, now
        used = {pid: seconds for pid in pids if (seconds := _used(pid)) is not None}
        shares = {
            pid: max(0.0, (seconds - self._before[pid]) / span)
            for pid, seconds in used.items()
            if pid in self._before and span > 0
        }
        self._before = used
        return shares


def _used(pid: int) -> float | None:
    """Return a process's processor time in seconds (proc(5), stat)."""
    try:
        # The name may be any bytes.
        # guard: the name of a process ends no screen
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def take(client: BlockingClient, cpu: Cpu) -> Snapshot:
    """Query the broker and the log.  Raises VitrailError if the broker does not answer."""
    status = client.call(STATUS, Nothing())
    windows: dict[str, list[ListedWindow]] = {}
    questions: tuple[WaitingQuestion, ...] = ()
    with suppress(RefusedError):  # a host has no screen and no dialogs
        found = client.call(WINDOWS, WindowsRequest())
        for one in found.windows:
            window = ListedWindow(one.window, printable(one.title), one.focused)
            windows.setdefault(one.sandbox, []).append(window)
        pending = client.call(PENDING, Nothing())
        questions = tuple(
            WaitingQuestion(q.id, printable(_question_text(q), 300))
            for q in pending.questions
        )
    return Snapshot(
        _rows(status, windows, cpu), questions, _events(), _warnings(status)
    )


def _question_text(question: PendingQuestion) -> str:
    """Return a question's text, with all that a one-key answer allows.

    That is the default target, the argument and the details.
    """
    target = question.default_target
    argument = question.argument.removeprefix("+")
    parts = [
        f"{question.sandbox}: {question.words}",
        f"→ {shown_target(target)}" if target else "",
        *(f"({part})" for part in (argument, *question.details) if part),
    ]
    return " ".join(filter(None, parts))


def _rows(
    status: Status, windows: dict[str, list[ListedWindow]], cpu: Cpu
) -> tuple[SnapshotRow, ...]:
    """Return the screen's rows of sandboxes."""
    shares = cpu.shares([p.pid for p in status.processes])
    memory = memory_of((p.sandbox, p.memory) for p in status.processes)
    now = time.time()
    return tuple(
        SnapshotRow(
            name=s.name,
            label=printable(s.label, 60),
            colour=s.color,
            up=max(0.0, now - s.since),
            cpu=sum(
                shares.get(p.pid, 0.0) for p in status.processes if p.sandbox == s.name
            ),
            memory=memory.get(s.name, 0),
            streams=sum(stream.sandbox == s.name for stream in status.streams),
            programs=tuple(printable(p.name, 60) for p in s.programs),
            windows=tuple(windows.get(s.name, ())),
            network=NetworkRates(**msgspec.structs.asdict(s.network))
            if s.network
            else None,
        )
        for s in status.sandboxes
    )


def _events() -> tuple[str, ...]:
    """Return the newest events, newest first; none if there is no log yet."""
    try:
        with open_log(offline_paths().audit) as log:
            found = log.find(Filters(), last=_EVENTS, newest_first=True)
            return tuple(
                f"{time.strftime('%H:%M:%S', time.localtime(one.time_ns / 1e9))} "
                f"{as_message(one).plain}"
                for one in found
            )
    except VitrailError:
        return ()


def _warnings(status: Status) -> tuple[str, ...]:
    found = [*status.policy.problems, *status.warnings]
    return tuple(printable(warning) for warning in found)
