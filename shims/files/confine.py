"""The walls around the process that reads and keeps entries among the user's own files.

It lets go of everything but what it is to read or to keep entries in: an empty
read-only root, no network, no other mounts, no capability, and no program of other
rights (user_namespaces(7), pivot_root(2)).

What stays is mounted at its own place, and opened afterwards.  A descriptor from before
would still be one of the user's whole file system: unmounting lazily takes that off the
root, and ``..`` leads from such a descriptor up to its top, the home with it.

A session child starts that process with this program's code.
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
    MS_REC,
    map_user,
)
from shims.files.sending import open_without_links
from shims.files.syscalls import deny_calls, errno_of_call

if TYPE_CHECKING:
    import ctypes
    from typing import List

# NEWCGROUP, NEWUTS, NEWIPC, NEWNET
CLONE_OTHERS = 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000
MNT_DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_MOUNT_SETATTR = 442  # the same number everywhere
ATTR_RDONLY, AT_FDCWD, AT_RECURSIVE = 1, -100, 0x8000
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
ROOT = "/proc"  # a directory that is everywhere, and of which no file is sent


def confine(paths: List[str], *, write: bool = False) -> None:
    """Leave the user's session; pipes and files that are open stay usable.

    No module can be imported afterwards.  These files and directories stay at their
    paths, which have no links; ``write``: not only to be read, and with /proc/self.
    Raises TransferError for a file that cannot be opened, and where the kernel refuses:
    then nothing is read.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    number = SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise TransferError(f"cannot build a jail for files on {os.uname().machine}")
    _refuse_directories()
    try:
        map_user(libc, CLONE_NEWUSER | CLONE_NEWNS | CLONE_OTHERS)
        check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    except OSError as error:
        need = "permit Vitrail user namespaces (see 'brokerctl doctor')"
        reason = os.strerror(error.errno or 0)
        raise TransferError(f"cannot jail files: {reason}; {need}") from None
    try:
        _mount_root(libc, _uppermost(paths), write=write)
        _enter_root(libc, number)
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
        check(libc.capset(header, bytes(24)), "dropping capabilities")
        # guard: the process that keeps files has a system-call filter
        deny_calls(libc)
    except OSError as error:
        raise TransferError(f"cannot build the jail for files: {error}") from None


def _uppermost(paths: List[str]) -> List[str]:
    """Return the paths without those that are below another one."""
    found: List[str] = []
    for path in sorted(set(paths), key=lambda path: f"{path}/"):
        if not found or not path.startswith(f"{found[-1]}/"):
            found.append(path)
    return found


def _mount_root(libc: ctypes.CDLL, paths: List[str], *, write: bool) -> None:
    """Mount the new root, and these paths in it.  Raises TransferError."""
    nodes = sum(path.count("/") for path in paths) + 4
    limits = f"size=4k,nr_inodes={nodes}".encode()
    os.chdir("/proc")  # below the new root its files have a relative path
    check(libc.mount(b"none", ROOT.encode(), b"tmpfs", 0, limits), "root")
    for path in paths:
        fd, place = _opened(path), ROOT + path
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.makedirs(place)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # With the mounts below it: a part alone may not be cloned here.
        _bind(libc, f"self/fd/{fd}", place, MS_REC)
        os.close(fd)
    if write:
        os.makedirs(f"{ROOT}/proc/self")
        _bind(libc, f"{os.getpid()}", f"{ROOT}/proc/self", 0)
    # guard: the process that sends files changes none
    below = 0 if write else AT_RECURSIVE
    attributes = struct.pack("QQQQ", ATTR_RDONLY, 0, 0, 0)
    root = ROOT.encode()
    done = libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, root, below, attributes, 32)
    check(done, "read-only root")


def _opened(path: str) -> int:
    """Open what a path without links names, for mounting it.  Raises TransferError."""
    if path == "/" or not os.path.isabs(path) or os.path.normpath(path) != path:
        raise TransferError(f"the jail for files cannot contain {path}")
    try:
        # guard: no link leads into the jail for files
        fd = open_without_links(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise TransferError(f"{path}: {error.strerror}") from None
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        raise TransferError(f"{path} is a symbolic link")
    return fd


def _bind(libc: ctypes.CDLL, source: str, place: str, flags: int) -> None:
    name = os.fsencode(place)
    done = libc.mount(source.encode(), name, None, MS_BIND | flags, None)
    check(done, f"mounting {place[len(ROOT) :]}")


def _enter_root(libc: ctypes.CDLL, pivot_root: int) -> None:
    """Make the prepared directory the root, and unmount the old one."""
    os.chdir(ROOT)
    # The old root lies on top of the new one and goes by one umount.
    check(libc.syscall(pivot_root, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "leaving the old root")
    os.chdir("/")


def _refuse_directories() -> None:
    """Raise TransferError where a directory is open: ``..`` would lead out of it."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        except OSError:  # that of the list itself, which is closed
            continue
        # guard: no directory is open before the jail for files
        if is_directory:
            raise TransferError("cannot build the jail for files: a directory is open")


def check(result: int, what: str) -> None:
    """Raise OSError for a system call that failed."""
    if result < 0:
        code = errno_of_call()
        raise OSError(code, f"{what}: {os.strerror(code)}")
