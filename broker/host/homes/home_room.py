"""Stopping a machine before the disk that holds its home is full, until there is room.

QEMU would stop the machine itself, at the failed write (``werror=enospc``), but as by
QMP's ``stop``: vhost-device-vsock (0.3) carries nothing after that, and the guest's clock
is late.  SIGSTOP keeps both.  A guest that writes faster than we look still meets it.

The host watches each of its machines that have a home.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

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


async def watch_room(
    machine: StoppableMachine, disk: Path, report: Callable[[str], None]
) -> None:
    """Stop a machine while the file system of ``disk`` is almost full, until it ends.

    ``report`` receives the reason each time, and "" when the machine runs again.  If
    ``disk`` cannot be examined, the machine runs on; the broker's log says so.
    """
    shortage = ""
    reserve = limits.HOME_RESERVE_BYTES
    first = True
    while not machine.ending:
        try:
            free = await in_thread(_free_bytes, disk)
        except NoThreadError:
            await trio.sleep(limits.HOME_ROOM_SECONDS[-1])
            continue
        except OSError as error:
            log_stderr(f"cannot examine the file system of {disk}: {error}")
            return
        if first:
            # A sandbox that is started on an almost full disk can make room itself.
            reserve, first = min(reserve, free // 2), False
        enough = reserve + reserve // 2
        previous = shortage
        if free < reserve:
            shortage = f"its home's file system ({disk.parent}) has {free >> 20} MiB left: the sandbox is stopped until {(enough >> 20) + 1} MiB are free"
        elif free >= enough:
            shortage = ""
        if bool(shortage) != bool(previous) and not machine.ending:
            # guard: a machine stops before the disk of its home is full
            machine.stop_for(shortage)
            report(shortage)
        await trio.sleep(_seconds(free - reserve, stopped=bool(shortage)))


def _seconds(size: int, *, stopped: bool) -> float:
    """Return the time in which a guest cannot write ``size`` bytes."""
    shortest, longest = limits.HOME_ROOM_SECONDS
    if stopped:
        return longest
    return min(longest, max(shortest, size / limits.HOME_BYTES_PER_SECOND))


def _free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
