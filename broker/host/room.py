"""Whether this machine has the memory for one more sandbox.

A guest's memory is taken when the guest writes to it, so the memory that is available now is
promised to machines that run already: each start for a sandbox leaves room for what
the earlier ones have not touched yet, and a floor for the user's own programs.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.launch_changes import LaunchChanges
from broker.core.names import SandboxName
from broker.host.vmm.parent.memory_pressure import available_bytes, total_bytes


@dataclass(eq=False)
class Promise:
    """The memory of a machine that was started for a sandbox, in bytes."""

    size: int
    pid: int | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    def keep(self, pid: int | None, ended: trio.Event) -> None:
        """It runs, until ``ended``; ``pid``: the process that has its memory."""
        self.pid, self.ended = pid, ended

    def untouched(self) -> int:
        """Bytes that it may still take; all where that cannot be read."""
        return max(0, self.size - (resident_bytes(self.pid) if self.pid else 0))


class Room:
    """``memory_mib``: of a record's machine, None if no record starts one."""

    def __init__(
        self,
        memory_mib: Callable[[SandboxName, LaunchChanges], int | None],
        *,
        available: Callable[[], int] = available_bytes,
        total: Callable[[], int] = total_bytes,
    ) -> None:
        self._memory_mib = memory_mib
        self._available = available
        self._total = total
        self._promises: list[Promise] = []

    @contextmanager
    def promised(
        self,
        record: SandboxName,
        changes: LaunchChanges,
        progress: Callable[[str], None],
        *,
        for_sandbox: bool,
    ) -> Iterator[Promise]:
        """Reserve the memory of one start while the block runs.

        The user is warned of the shortage.  Raises RefusedError for a sandbox's
        request then, and for a machine that is larger than this one.
        """
        promise = Promise((self._memory_mib(record, changes) or 0) << 20)
        short = self._short(promise.size)
        if short:
            # guard: a sandbox starts nothing where memory is short
            if for_sandbox:
                raise RefusedError(
                    f"cannot start '{record}' for another sandbox: {short}",
                    hint="to see what uses the memory, run 'brokerctl top'",
                )
            progress(f"{short}: the kernel may swap or end programs")
        total = self._total()
        # guard: no machine is larger than this one
        if 0 < total < promise.size:
            raise RefusedError(
                f"cannot start '{record}' with {promise.size >> 20} MiB of memory: this machine has {total >> 20} MiB",
                hint="pass a smaller --memory, or set a smaller memory in [launch] of the record",
            )
        if for_sandbox:
            self._promises.append(promise)
        try:
            yield promise
        except BaseException:
            promise.ended.set()
            raise

    def _short(self, size: int) -> str:
        """Return why there is not enough memory for a machine; empty if there is."""
        self._promises = [one for one in self._promises if not one.ended.is_set()]
        # guard: memory that is promised is not free
        promised = sum(one.untouched() for one in self._promises)
        free = self._available() - promised - limits.MACHINE_FREE_BYTES
        if not size or free >= size:
            return ""
        return f"this machine has less free memory than {size >> 20} MiB for the sandbox and {limits.MACHINE_FREE_BYTES >> 20} MiB in reserve"


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the memory that a process has taken; 0 if that cannot be read."""
    try:
        return int((proc / f"{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0
