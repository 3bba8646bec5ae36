"""The walls around the process that keeps entries among the person's own files.

It reads what a sandbox's worker has written, so it lets go of everything but the
directory that it has opened: an empty read-only root, no network, no other mounts, no
capability, and no program of other rights (user_namespaces(7), pivot_root(2)).
"""

from __future__ import annotations

import ctypes
import os
import struct

from shims.files.protocol import TransferError
from shims.files.sealing import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    map_user,
)
from shims.files.syscalls import deny_calls

# NEWCGROUP, NEWUTS, NEWIPC, NEWNET
CLONE_OTHERS = 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000
MNT_DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522


def confine() -> None:
    """Leave the person's session; descriptors that are open stay usable.

    Of /proc its own directory stays, for /proc/self/fd.  Raises TransferError where the
    kernel refuses: then nothing is read.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise TransferError(f"no jail for files on {os.uname().machine}")
    try:
        map_user(libc, CLONE_NEWUSER | CLONE_NEWNS | CLONE_OTHERS)
        _empty_root(libc, number)
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
        check(libc.capset(header, bytes(24)), "dropping capabilities")
        # guard: the process that keeps files has a system-call filter
        deny_calls(libc)
    except OSError as error:
        raise TransferError(f"no jail for files: {error}") from None


def _empty_root(libc: ctypes.CDLL, pivot_root: int) -> None:
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    # Any directory that is everywhere; only this mount namespace sees it.
    check(libc.mount(b"none", b"/tmp", b"tmpfs", 0, b"size=4k,nr_inodes=4"), "root")
    os.makedirs("/tmp/proc/self")
    own = f"/proc/{os.getpid()}".encode()
    check(libc.mount(own, b"/tmp/proc/self", None, MS_BIND, None), "/proc/self")
    os.chdir("/tmp")
    # The old root lies on top of the new one and goes by one umount.
    check(libc.syscall(pivot_root, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "leaving the old root")
    os.chdir("/")
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY
    check(libc.mount(None, b"/", None, flags, None), "read-only root")


def check(result: int, what: str) -> None:
    """Raise OSError for a system call that failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
