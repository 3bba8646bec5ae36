"""What a box may take of the things that the kernel counts for a user id, or for all.

User namespaces, inotify instances and others are counted for their user in each user
namespace up to the machine's own (namespaces(7), ``/proc/sys/user``); without a limit,
one box takes all that its user has, and no other box starts.  Only a process with
capabilities in a namespace may set its limits: our broker outside, no program inside.

Pseudo-terminals are counted for the machine, and bounded for each mount of devpts.

Mounts are not counted, but taken here, too, because it needs the same rights: those of a
box are made private, so that later mounts of the user do not appear in it.

brokerctl sets them for boxes and containers, a session child for services of the user's
desktop.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from broker.core import limits
from broker.core.errors import UpstreamError

_PLACE = "/proc/sys/user"
_NEWUSER, _NEWNS = 0x10000000, 0x20000
_GET_OWNER = 0xB701
"""NS_GET_USERNS (ioctl_nsfs(2))."""
_TERMINALS = b"/dev/pts"
_KEYS = (b"/proc/keys", b"/proc/key-users")
_REMOUNT, _NO_SETUID, _NO_PROGRAMS = 32, 2, 8
_RECURSIVE, _PRIVATE = 0x4000, 1 << 18
_BIND, _READ_ONLY, _NO_DEVICES = 4096, 1, 4
_libc = ctypes.CDLL(None, use_errno=True)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_COUNTED = {
    "inotify_instances": limits.BOX_INOTIFY_INSTANCES,
    "inotify_watches": limits.BOX_INOTIFY_WATCHES,
    "fanotify_groups": limits.BOX_FANOTIFY_GROUPS,
    "fanotify_marks": limits.BOX_INOTIFY_WATCHES,
}


def limit_box(leader: int, *, nested: bool, proc: bool = False) -> None:
    """Limit the namespaces of a box's first process, whose pidfd is held.

    Also makes its mounts private.  ``proc``: protect its /proc, too.  Raises
    UpstreamError if the kernel refuses, or if the process has no separate user namespace.
    """
    make_mounts_private(leader)
    namespace = open_user_namespace(leader)
    try:
        limit_namespace(namespace, nested=nested)
    finally:
        os.close(namespace)
    limit_terminals(leader, proc=proc)


def open_user_namespace(leader: int) -> int:
    """Return a descriptor of a process's user namespace; the pid must be held.

    Raises UpstreamError where the process has ended or is in ours.
    """
    namespace = _open(leader, "user")
    # guard: our own user namespace is not a box's
    if os.fstat(namespace).st_ino == Path("/proc/self/ns/user").stat().st_ino:
        os.close(namespace)
        raise UpstreamError("the launcher did not create a user namespace for the box")
    return namespace


def _open(leader: int, kind: str) -> int:
    try:
        return os.open(f"/proc/{leader}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UpstreamError(
            f"cannot open the box's namespace: {error.strerror}"
        ) from error


def limit_namespace(namespace: int, *, nested: bool) -> None:
    """Limit this process's user namespace.  Raises UpstreamError on failure.

    ``nested``: its programs may make namespaces, a few.
    """
    most = limits.BOX_NAMESPACES if nested else 0
    namespaces = {f"{kind}_namespaces": most for kind in _NAMESPACES}
    # The box has one, and the far ends of its cables are in others (``host.network.veth``):
    # one to its network, one to those whose network it provides.
    namespaces["net_namespaces"] = max(most, 3)
    # guard: a box takes few of what is counted for its user
    counted = {**namespaces, **_COUNTED}
    if not _done_inside(partial(_write_inside, namespace, counted)):
        raise UpstreamError(
            "cannot set the kernel's limits for the box (/proc/sys/user)",
            hint="check whether a container around the broker makes /proc/sys read-only",
        )


# bubblewrap makes the mounts of a box slaves of the mounts outside, and has no option for
# private ones (bwrap(1)).  A private namespace around bubblewrap was rejected: its outer
# process would be in it until the box ends, with a copy of every mount of this machine,
# so that no stick or vault that was mounted before could be closed.
def make_mounts_private(leader: int) -> None:
    """Separate a box's mounts from this machine's; its first process is held.

    What the user mounts later below a directory of the box stays out, and can be
    unmounted.  Raises UpstreamError on failure, and if the process has ended.
    """
    mounts = _open(leader, "mnt")
    try:
        # guard: later mounts of the user do not appear in a box
        private = _done_inside(partial(_make_private, mounts))
    finally:
        os.close(mounts)
    if not private:
        raise UpstreamError(
            "cannot separate the mounts of the box from those of this machine",
            hint="to check bubblewrap and user namespaces, run 'brokerctl doctor'",
        )


def limit_terminals(leader: int, *, proc: bool = False) -> None:
    """Limit the pseudo-terminals of a box, whose first process is held.

    ``proc``: make /proc read-only, where its programs can lower their oom_score_adj,
    and hide the names of the user's keys.  Raises UpstreamError on failure, and where
    it has ended.
    """
    mounts = _open(leader, "mnt")
    try:
        # guard: a box takes few of the machine's terminals
        limited = _done_inside(partial(_remount, mounts, proc=proc))
    finally:
        os.close(mounts)
    if not limited:
        raise UpstreamError("cannot limit the terminals of the box (/dev/pts, /proc)")


def _done_inside(work: Callable[[], bool]) -> bool:
    """Do a work in a child and return whether it was done.

    That has one thread and starts no program: a process with threads cannot change its
    user namespace, and a program would lose the capabilities over it.
    """
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:  # noqa: BLE001 -- nothing may come back from a forked child
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _remount(mounts: int, *, proc: bool) -> bool:
    """Give the devpts of a mount namespace a limit, as bubblewrap has mounted it.

    ``proc``: protect its /proc, as bubblewrap does for a box.  The program's user
    namespace may be below the owner of these mounts.
    """
    flags = _REMOUNT | _NO_SETUID | _NO_PROGRAMS
    options = f"ptmxmode=0666,mode=620,max={limits.BOX_TERMINALS}".encode()
    if not _enter_mounts(mounts) or _libc.mount(
        b"devpts", _TERMINALS, None, flags, options
    ):
        return False
    if not proc:
        return True
    for path in filter(os.path.exists, _KEYS):
        # guard: a tree does not see the names of the user's keys
        if _libc.mount(b"/dev/null", path, None, _BIND, None):
            return False
    flags |= _BIND | _READ_ONLY | _NO_DEVICES
    # guard: a tree stays the first to end
    return bool(_libc.mount(None, b"/proc", None, flags, None) == 0)


def _make_private(mounts: int) -> bool:
    """Make all mounts of a mount namespace private (mount_namespaces(7))."""
    return _enter_mounts(mounts) and not _libc.mount(
        None, b"/", None, _RECURSIVE | _PRIVATE, None
    )


def _enter_mounts(mounts: int) -> bool:
    """Enter a mount namespace with the rights of its owner, in a forked child."""
    owner = fcntl.ioctl(mounts, _GET_OWNER)
    return not (_libc.setns(owner, _NEWUSER) or _libc.setns(mounts, _NEWNS))


def _write_inside(namespace: int, counted: Mapping[str, int]) -> bool:
    """Enter the namespace and write the limits there; return whether that was possible.

    For a forked child: a process cannot leave the namespace, and one with threads
    cannot enter it.
    """
    if _libc.setns(namespace, _NEWUSER) != 0:
        return False
    for name, number in counted.items():
        _write(f"{_PLACE}/max_{name}", number)
    return True


def _write(path: str, number: int) -> None:
    """Write a limit into a file of /proc/sys/user; ignore a missing one."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # the kernel counts no such thing for a user
    os.write(file, str(number).encode())
    os.close(file)
