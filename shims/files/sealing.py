"""Files that are only to be viewed: read-only for the program that shows them.

The program in the sandbox that opens a file for viewing runs it, and ``confine`` in the
jailed program of a session child.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shims.files.syscalls import errno_of_call

if TYPE_CHECKING:
    import ctypes

PR_SET_DUMPABLE = 4
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 0x20, 0x1000
LOCKED_FLAGS = 0x02 | 0x04 | 0x08 | 0x400 | 0x800  # nosuid nodev noexec no(dir)atime
MS_REC, MS_PRIVATE = 0x4000, 1 << 18


def map_user(libc: ctypes.CDLL, namespaces: int) -> None:
    """Enter new namespaces, with the same user and group in them.  Raises OSError.

    Writes the process's own maps below ``/proc/self``.
    """
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(namespaces) != 0:
        raise OSError(errno_of_call(), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def seal(top: str) -> None:
    """Make a directory read-only in a separate mount namespace (in a child).

    Its owner could change the mode of a file that is only to be viewed; this mount
    cannot be changed from a further namespace either (mount_namespaces(7)).
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # A copy of the agent's process has its files in /proc still owned by root.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    map_user(libc, CLONE_NEWUSER | CLONE_NEWNS)
    place = os.fsencode(top)
    # Flags of the mount below may not be taken off, and are the same bits here.
    flags = MS_BIND | MS_REMOUNT | MS_RDONLY | os.statvfs(top).f_flag & LOCKED_FLAGS
    done = libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    done = done and libc.mount(place, place, None, MS_BIND, None) == 0
    if not done or libc.mount(b"none", place, None, flags, None) != 0:
        raise OSError(errno_of_call(), "mount")
