"""Processor time of sandboxes: the kernel's counters, sampled twice while the list is shown."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from broker.ipc.in_thread import in_thread

if TYPE_CHECKING:
    from broker.cli.manager.verb_runner import Work

SECONDS: Final = 3.0
"""Between two samples."""
_TOO_LONG: Final = 4 * SECONDS
"""Between two samples of a list that was hidden meanwhile: the share would be of then."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")

Roots = Mapping[str, frozenset[int]]
"""The processes of each sandbox; their descendants are the sandbox's, too."""


class ProcessTime(NamedTuple):
    """A process's parent, and the ticks of itself and of its children that have ended."""

    parent: int
    ticks: int


def parse_stat(untrusted_stat: bytes) -> ProcessTime:
    """Return the figures of a ``/proc/PID/stat``, whose name may be any bytes.

    Raises ValueError, IndexError.
    """
    # The name may contain anything, a parenthesis, too; the figures contain none.
    fields = untrusted_stat.rpartition(b")")[2].split()
    return ProcessTime(int(fields[1]), sum(map(int, fields[11:15])))


def read_times() -> dict[int, ProcessTime]:
    """Return the figures of all processes of this machine (proc_pid_stat(5))."""
    found = {}
    for name in os.listdir(_PROC):  # noqa: PTH208 -- no Path for each of its processes
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 -- as above
                found[int(name)] = parse_stat(file.read())
        except OSError:
            continue  # it has ended, or is another user's
    return found


class ProcessorLoad:
    """The share of one processor that each sandbox used between two samples."""

    def __init__(self) -> None:
        self._at = float("-inf")
        self._before: dict[str, int] = {}

    def sample(
        self, roots: Roots, times: Mapping[int, ProcessTime], now: float
    ) -> dict[str, int]:
        """Return the percents of sandboxes that were in the sample before, too."""
        used = _ticks_of(roots, times)
        span = now - self._at
        shares = {
            # A process whose parent is none of ours takes its ticks with it.
            name: max(0, round(100 * (ticks - self._before[name]) / _TICKS / span))
            for name, ticks in used.items()
            if name in self._before and 0 < span <= _TOO_LONG
        }
        self._at, self._before = now, used
        return shares


def _ticks_of(roots: Roots, times: Mapping[int, ProcessTime]) -> dict[str, int]:
    """Return the ticks of each sandbox's processes and their descendants."""
    below: dict[int, list[int]] = {}
    for pid, one in times.items():
        below.setdefault(one.parent, []).append(pid)
    found = {}
    for name, pids in roots.items():
        seen: set[int] = set()
        waiting = list(pids)
        while waiting:
            pid = waiting.pop()
            if pid in times and pid not in seen:
                seen.add(pid)
                waiting += below.get(pid, ())
        found[name] = sum(times[pid].ticks for pid in seen)
    return found


class LoadSampler:
    """Samples while a widget is drawn and ``roots`` returns any sandbox.

    ``show`` gets the percents.  ``widget`` is GTK's.
    """

    def __init__(
        self,
        widget: Any,
        work: Work,
        roots: Callable[[], Roots],
        show: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._widget = widget
        self._work = work
        self._roots = roots
        self._show = show
        self._load = ProcessorLoad()
        self._waits = False

    def follow(self) -> None:
        """Sample with the next frame, unless a sample is awaited already."""
        if not self._waits and self._roots():
            self._waits = True
            # A compositor asks a hidden window for no frame, and a page that is not in
            # the window has none: then nothing is sampled.
            self._widget.add_tick_callback(self._frame)

    def _frame(self, _widget: Any, _clock: Any) -> bool:
        self._work(self._take)
        return False  # once

    async def _take(self) -> None:
        times = await in_thread(read_times)
        self._show(self._load.sample(self._roots(), times, time.monotonic()))
        await trio.sleep(SECONDS)
        self._waits = False
        self.follow()
