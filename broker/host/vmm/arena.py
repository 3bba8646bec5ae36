"""Memory that a machine shares with its broker, for the pixels of its windows.

A separate memfd for each machine: never that of another one, never the machine's
memory.  It cannot change its size.  What reads it does not map it, for its VMM can
punch holes (``jail.worker.wayland.waypipe_memory.ArenaFile``).

The host makes it for a micro VM, brokerctl for a machine that it starts by a script.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

ARENA_BYTES = 128 << 20
"""Memory is behind what was written only; a window that is drawn takes a few MiB.  The
first megabytes are the guest kernel's, for its books of this memory."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def make_arena(size: int) -> int:
    """Create a memfd of ``size`` bytes that keeps its size; return its descriptor.

    Raises OSError.
    """
    fd = os.memfd_create("vitrail-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        # guard: an arena keeps its size
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_kernel_memory(fd: int) -> bool:
    """Return whether a file, which may be open by O_PATH alone, is of memfd_create(2).

    Those are on a mount of the kernel's that no process can reach.  Its number is in
    proc_pid_fdinfo(5), for which no file system is asked.
    """
    ours = os.memfd_create("vitrail-compared", os.MFD_CLOEXEC)
    try:
        return _mount_of(fd) == _mount_of(ours)
    finally:
        os.close(ours)


def _mount_of(fd: int) -> str:
    """Return the line with the number of a file's mount."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line.startswith("mnt_id:"))


def is_arena(fd: int) -> bool:
    """Return whether a file is an arena: memory of its size, which it keeps."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False  # no memory
    return seals & _SEALS == _SEALS and os.fstat(fd).st_size == ARENA_BYTES
