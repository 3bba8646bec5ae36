"""The identity of a process, written down so that a later broker finds it again.

A bare pid number proves nothing: it may belong to another process by the time
it is used.  So a process is always held by its pidfd, and written down as
pid + start time (proc(5), field 22 of ``stat``) + inode of the pidfd (unique
for each process since Linux 6.9) + boot id.

The host writes down processes of machines, the authority those of the broker; brokerctl
compares them before it ends one.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec

from broker.core.errors import SetupError
from broker.helpers.process.polled import lives

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessIdentity(msgspec.Struct, frozen=True):
    """The stored identity of a process; valid for one boot only.

    That of a later version may have more fields: ours are a proof without them.
    """

    pid: int
    start: int
    """Clock ticks from boot to its start."""
    inode: int
    """Inode of a pidfd of it."""


def boot_id() -> str:
    """Return the name of this boot of the kernel.  Raises SetupError without /proc."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError as error:
        raise SetupError(
            f"cannot read {_BOOT_ID}: {error.strerror}",
            hint="check that /proc is mounted",
        ) from error


def process_stat(pid: int) -> list[bytes]:
    """Return the fields of ``stat`` after the command's name (proc(5))."""
    # The command name (field 2) may hold spaces and parentheses.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()


def start_time(pid: int) -> int:
    """Return a process's start in clock ticks since boot, proc(5).  Raises OSError."""
    return int(process_stat(pid)[19])


def open_pidfd(pid: int) -> int:
    """Return a pidfd of a process that another program has named, pidfd_open(2).

    Raises OSError; ProcessLookupError also for a number that no process of a
    sandbox can have (0, 1, negative, or beyond pid_t).
    """
    if pid <= 1:
        raise ProcessLookupError(errno.ESRCH, "cannot be a sandbox's leader")
    try:
        return os.pidfd_open(pid)
    except OverflowError as error:
        raise ProcessLookupError(errno.ESRCH, "no such number") from error


def identity_of(pid: int, pidfd: int) -> ProcessIdentity:
    """Return the identity of the process that ``pidfd`` holds, for a machine's state.

    Raises ProcessLookupError when it has ended, also while this reads it, and another
    OSError where the kernel does not tell.
    """
    try:
        identity = read_identity(pid, pidfd)
    # guard: without descriptors a process that is looked at has not ended
    except (FileNotFoundError, ValueError, IndexError) as error:
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}") from error
    # Alive after the start was read, so the start is this process's.
    if not lives(pidfd):
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
    return identity


def read_identity(pid: int, pidfd: int) -> ProcessIdentity:
    """Return the same, unproven: the caller knows that ``pid`` is the process's."""
    return ProcessIdentity(pid, start_time(pid), os.fstat(pidfd).st_ino)
