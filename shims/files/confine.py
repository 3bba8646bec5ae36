"""The walls around the process that keeps entries among the user's own files.

It reads what a sandbox's worker has written, so it lets go of everything but the
directory that it has opened: an empty read-only root, no network, no other mounts, no
capability, and no program of other rights (user_namespaces(7), pivot_root(2)).

The directory is a separate mount in there.  A descriptor from before would still be
one of the user's whole file system: unmounting lazily takes that off the root, and
``..`` leads from such a descriptor up to its top, the home with it.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

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
from shims.files.syscalls import deny_calls, errno_of_call

if TYPE_CHECKING:
    import ctypes

# NEWCGROUP, NEWUTS, NEWIPC, NEWNET
CLONE_OTHERS = 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000
MNT_DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
KEPT = "/kept"


def confine(folder: int) -> None:
    """Leave the user's session; pipes and files that are open stay usable.

    ``folder`` is the one directory that stays: after this call the descriptor is of the
    same directory, with nothing above it.  Of /proc its directory stays, for
    /proc/self/fd.  Raises TransferError where the kernel refuses: then nothing is read.
    """
    # For clearing up: there are no modules to import behind these walls.
    import ctypes
    import shutil  # noqa: F401

    libc = ctypes.CDLL(None, use_errno=True)
    number = SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise TransferError(f"no jail for files on {os.uname().machine}")
    try:
        map_user(libc, CLONE_NEWUSER | CLONE_NEWNS | CLONE_OTHERS)
        _empty_root(libc, number, folder)
        # guard: the directory that files are kept in has nothing above it
        _enter_kept(folder)
        _refuse_directories(folder)
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
        check(libc.capset(header, bytes(24)), "dropping capabilities")
        # guard: the process that keeps files has a system-call filter
        deny_calls(libc)
    except OSError as error:
        raise TransferError(f"no jail for files: {error}") from None


def _empty_root(libc: ctypes.CDLL, pivot_root: int, folder: int) -> None:
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    # Found before /tmp is covered, which may be above it; mounts of another namespace
    # cannot be cloned, so it is found by its path again.
    here = _again(folder)
    # Any directory that is everywhere; only this mount namespace sees it.
    check(libc.mount(b"none", b"/tmp", b"tmpfs", 0, b"size=4k,nr_inodes=8"), "root")
    os.makedirs("/tmp/proc/self")
    os.mkdir(f"/tmp{KEPT}")
    kept = f"/proc/self/fd/{here}".encode()
    # With the mounts below it: a part alone may not be cloned here.
    flags = MS_BIND | MS_REC
    check(libc.mount(kept, f"/tmp{KEPT}".encode(), None, flags, None), "directory")
    os.close(here)
    own = f"/proc/{os.getpid()}".encode()
    check(libc.mount(own, b"/tmp/proc/self", None, MS_BIND, None), "/proc/self")
    os.chdir("/tmp")
    # The old root lies on top of the new one and goes by one umount.
    check(libc.syscall(pivot_root, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "leaving the old root")
    os.chdir("/")
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY
    check(libc.mount(None, b"/", None, flags, None), "read-only root")


def _again(folder: int) -> int:
    """Open a directory in this mount namespace.  Raises OSError where it has moved."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(os.readlink(f"/proc/self/fd/{folder}"), flags)
    # guard: the directory that files are kept in is the one that was opened
    if not os.path.samestat(os.fstat(here), os.fstat(folder)):
        os.close(here)
        raise OSError(0, "the directory was moved meanwhile")
    return here


def _enter_kept(folder: int) -> None:
    """Put the directory's own mount in the place of its descriptor."""
    here = os.open(KEPT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.dup2(here, folder, inheritable=False)
    os.close(here)


def _refuse_directories(folder: int) -> None:
    """Raise OSError where another directory is open: ``..`` would lead out of it."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        except OSError:  # that of the list itself, which is closed
            continue
        # guard: no other directory is open where files are kept
        if is_directory and fd != folder:
            raise OSError(0, "another directory is open")


def check(result: int, what: str) -> None:
    """Raise OSError for a system call that failed."""
    if result < 0:
        code = errno_of_call()
        raise OSError(code, f"{what}: {os.strerror(code)}")
