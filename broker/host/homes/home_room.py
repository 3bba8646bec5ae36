"""Stopping a machine before the disk that holds its home is full, until there is room.

QEMU would stop the machine itself, at the failed write (``werror=enospc``), but as by
QMP's ``stop``: vhost-device-vsock (0.3) carries nothing after that, and the guest's clock
is late.  SIGSTOP keeps both.  A guest that writes faster than we look still meets it.
A machine that writes nothing runs on, because another sandbox may have filled the disk.

The host watches each of its machines that have a home.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import trio

from broker.core import limits
from broker.core.stderr_log import log_stderr
from broker.ipc.in_thread import NoThreadError, in_thread


class StoppableMachine(Protocol):
    """A machine whose VMM can be stopped for a reason."""

    @property
    def ending(self) -> bool:
        """Whether it is being ended, or has ended."""
        ...

    def stop_for(self, shortage: str) -> None:
        """Stop its VMM, for this reason; "": let it run."""
        ...


class HomeSpace(NamedTuple):
    """A look at a home's disk."""

    device: int
    """Number of its file system."""
    free: int
    """Bytes that are free there for the user."""
    size: int
    """Bytes that the disk occupies."""


class HomeRooms:
    """The file systems of homes, each with the reserves of its machines."""

    def __init__(self) -> None:
        self._reserves: defaultdict[int, list[int]] = defaultdict(list)

    async def watch(
        self, machine: StoppableMachine, disk: Path, report: Callable[[str], None]
    ) -> None:
        """Stop a machine that fills the file system of ``disk``, until it ends.

        ``report`` receives the reason each time, and "" when the machine runs again.  If
        ``disk`` cannot be examined, the machine runs on; the broker's log says so.
        """
        space = await _examine(machine, disk)
        if space is None:
            return
        # A sandbox that is started on an almost full disk can make room itself.
        reserve = min(limits.HOME_RESERVE_BYTES, space.free // 2)
        reserves = self._reserves[space.device]
        reserves.append(reserve)
        try:
            await self._watch(machine, disk, report, reserves)
        finally:
            reserves.remove(reserve)

    async def _watch(
        self,
        machine: StoppableMachine,
        disk: Path,
        report: Callable[[str], None],
        reserves: Sequence[int],
    ) -> None:
        shortage, size = "", 0
        while not machine.ending:
            space = await _examine(machine, disk)
            previous = shortage
            # guard: a machine with a small reserve stops no other one
            reserve = min(reserves)
            enough = reserve + reserve // 2
            # guard: a machine that writes nothing is not stopped
            writes = space is not None and space.size > size
            if space is None or space.free >= enough:
                shortage = ""
            elif space.free < reserve and writes:
                shortage = f"its home's file system ({disk.parent}) has {space.free >> 20} MiB left: the sandbox is stopped until {(enough >> 20) + 1} MiB are free"
            if bool(shortage) != bool(previous) and not machine.ending:
                # guard: a machine stops before the disk of its home is full
                machine.stop_for(shortage)
                report(shortage)
            if space is None:
                return
            size = space.size
            await trio.sleep(_seconds(space.free - reserve, stopped=bool(shortage)))


async def _examine(machine: StoppableMachine, disk: Path) -> HomeSpace | None:
    """Look at a machine's disk; None if that fails, or if the machine ends before."""
    while not machine.ending:
        try:
            return await in_thread(_space, disk)
        except NoThreadError:
            await trio.sleep(limits.HOME_ROOM_SECONDS[-1])
        except OSError as error:
            log_stderr(f"cannot examine the file system of {disk}: {error}")
            return None
    return None


def _seconds(size: int, *, stopped: bool) -> float:
    """Return the time in which a guest cannot write ``size`` bytes."""
    shortest, longest = limits.HOME_ROOM_SECONDS
    if stopped:
        return longest
    return min(longest, max(shortest, size / limits.HOME_BYTES_PER_SECOND))


def _space(path: Path) -> HomeSpace:
    status, file = os.statvfs(path), path.stat()
    free = status.f_bavail * status.f_frsize
    return HomeSpace(file.st_dev, free, file.st_blocks * 512)
