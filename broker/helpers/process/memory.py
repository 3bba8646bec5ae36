"""The memory of a process, as the kernel counts it (proc_pid_smaps(5)).

The host and session children read it for ``brokerctl status``; brokers also call
``release_heap`` on themselves after their start.
"""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass
from pathlib import Path

from broker.core.process_status import ProcessFigures, walls_of

_PROC = Path("/proc")
_KIB = 1024


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes of physical memory."""

    resident: int = 0
    """All that is mapped (Rss)."""
    private: int = 0
    """The part that no other process has mapped."""
    proportional: int = 0
    """Shared pages divided by the number of processes that have them (Pss)."""


def release_heap() -> None:
    """Give pages that imports and the start have left free back to the kernel.

    Half a megabyte of a broker's process, between objects that stay (malloc_trim(3)).
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def read_memory(pid: int) -> ProcessMemory:
    """Read a process's ``smaps_rollup``; zeroes when it has ended or is not ours.

    The kernel walks every page of the process for it, and waits for a process that is
    changing its memory.
    """
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_bytes().decode("ascii")
    except OSError:
        return ProcessMemory()
    return parse_rollup(text)


def figures_of(pid: int) -> ProcessFigures:
    """Return a process's figures; nothing of an ended process.

    Waits as ``read_memory`` does.
    """
    return ProcessFigures(pid, read_memory(pid).proportional, walls_of(pid))


def parse_rollup(text: str) -> ProcessMemory:
    """Return the sizes, in bytes, from the text of a ``smaps_rollup`` (proc(5)).

    Sizes that are not there are 0: a kernel thread or a zombie has none.
    """
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB":
            sizes[name] = int(number) * _KIB
    private = sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0)
    return ProcessMemory(sizes.get("Rss", 0), private, sizes.get("Pss", 0))
