"""The memory of a sandbox's programs: its first process, and all that descend from it.

The host runs it for boxes and containers.  The programs are hostile, so each status does a
bounded amount of work for a sandbox, in files of proc(5) that the kernel prints at once:
``stat`` and ``statm``.  It prints ``status`` more slowly, by 65536 groups if a program has
so many, and walks the pages of a process for ``smaps_rollup``.  A read may still wait
while a large process ends, so these reads have a thread of their own.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from broker.core.limits.machines import PROGRAM_FILES, PROGRAM_SECONDS
from broker.core.process_status import ProcessFigures, walls_of

_PROC: Final = Path("/proc")
_PAGE: Final = resource.getpagesize()
_READ_BYTES: Final = 1 << 16
_DIRECTORY: Final = os.O_DIRECTORY | os.O_CLOEXEC


def figures_of_programs(first: int) -> ProcessFigures:
    """Return the memory of a process and its descendants, and the jail of the first.

    Zeros if it has ended.  Only memory that is not of a file and not shared is counted.
    Of a sandbox with thousands of threads, or that is slow to read, a part is counted.
    """
    ends = time.monotonic() + PROGRAM_SECONDS
    files = iter(range(PROGRAM_FILES))
    seen: set[int] = set()
    listed, waiting, memory = {first}, [first], 0
    # guard: a sandbox of many programs makes no status slow
    while waiting and next(files, None) is not None and time.monotonic() < ends:
        pid = waiting.pop()
        try:
            # Its files are this process's: once the number is that of another, they fail.
            process = os.open(_PROC / str(pid), os.O_PATH | _DIRECTORY)
        except OSError:
            continue  # it has ended
        try:
            # guard: no process of another sandbox is counted
            if pid != first and _parent(process) not in seen:
                continue
            seen.add(pid)
            memory += _own_memory(process)
            for child in _children(process, files):
                if child not in listed and len(listed) < PROGRAM_FILES:
                    listed.add(child)
                    waiting.append(child)
        except (OSError, LookupError, ValueError):
            continue  # it has ended
        finally:
            os.close(process)
    return ProcessFigures(first, memory, walls_of(first))


def _read(name: str, directory: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, _READ_BYTES)
    finally:
        os.close(fd)


def _parent(process: int) -> int:
    """Return the parent's pid; the name before it is the process's to choose."""
    return int(_read("stat", process).rpartition(b")")[2].split()[1])


def _own_memory(process: int) -> int:
    """Return the bytes that are resident and neither of a file nor shared."""
    _, resident, shared = map(int, _read("statm", process).split()[:3])
    return max(0, resident - shared) * _PAGE


def _children(process: int, files: Iterator[int]) -> Iterator[int]:
    """Yield the children of a process, which are those of each thread."""
    tasks = os.open("task", os.O_RDONLY | _DIRECTORY, dir_fd=process)
    try:
        with os.scandir(tasks) as threads:
            for thread, _ in zip(threads, files, strict=False):
                yield from _children_of_thread(f"{thread.name}/children", tasks)
    finally:
        os.close(tasks)


def _children_of_thread(name: str, tasks: int) -> list[int]:
    try:
        # A number that is cut at the end is that of no child, which its parent shows.
        return [int(word) for word in _read(name, tasks).split()]
    except OSError:
        return []  # it has ended
