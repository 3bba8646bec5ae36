"""The memory of a sandbox's programs: its first process, and all that descend from it.

They are hostile, so each status does a bounded amount of work for a sandbox, and reads
counters that the kernel has ready (proc_pid_status(5)).  For the exact sum, of
smaps_rollup, the kernel would walk the pages of each process, and wait for a process
that is changing its memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from broker.core.limits.machines import PROGRAM_FILES
from broker.core.process_status import ProcessFigures, status_fields, walls_of

_PROC: Final = Path("/proc")
_COUNTED: Final = ("RssAnon", "RssShmem")
"""Without mapped files: all processes map the same libraries."""
_CHILDREN_BYTES: Final = 1 << 16


def figures_of_programs(first: int) -> ProcessFigures:
    """Return the memory of a process and its descendants, and the jail of the first.

    Zeros if it has ended.  Of a sandbox with thousands of threads a part is counted.
    """
    files = iter(range(PROGRAM_FILES))
    seen: set[int] = set()
    waiting, memory = [first], 0
    # guard: a sandbox of many programs makes no status slow
    while waiting and next(files, None) is not None:
        pid = waiting.pop()
        try:
            fields = status_fields(pid)
            parent = int(fields["PPid"][0])
        except (OSError, LookupError, ValueError):
            continue  # it has ended
        # The number of a process that has ended may be that of another one by now.
        # guard: no process of another sandbox is counted
        if pid in seen or (pid != first and parent not in seen):
            continue
        seen.add(pid)
        memory += sum(int(fields[name][0]) << 10 for name in _COUNTED if name in fields)
        waiting += _children(pid, files)
    return ProcessFigures(first, memory, walls_of(first))


def _children(pid: int, files: Iterator[int]) -> Iterator[int]:
    """Yield the children of a process, which are those of each thread (proc(5))."""
    try:
        with os.scandir(_PROC / f"{pid}/task") as threads:
            for _, thread in zip(files, threads, strict=False):
                yield from _children_of_thread(f"{thread.path}/children")
    except OSError:
        return  # it has ended


def _children_of_thread(path: str) -> list[int]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- no Path for each thread
            # A number that is cut at the end is that of no child, which its parent shows.
            return [int(word) for word in file.read(_CHILDREN_BYTES).split()]
    except OSError:
        return []  # it has ended
