"""System-call filters of the user's own programs in boxes and trees of files.

Compiled by the process that starts the jailed program: brokerctl for boxes, session
children for services, the shipper's service, launch tools.
"""

from __future__ import annotations

import errno
import socket
from functools import cache

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.program_filters import CLONE_NEW
from broker.helpers.filters.seccomp import (
    SeccompRules,
    close_families,
    close_pools,
    close_set_id,
    words,
)

_BOX_FAMILIES = frozenset(
    {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
)
_TYPE = 0xF
"""The bits of a type of socket without its flags (linux/net.h, SOCK_TYPE_MASK)."""
_LAST_FAMILY = 64
"""Beyond all that Linux has (AF_MAX is 46)."""
# By userfaultfd(2) a program holds up the kernel while it uses the program's memory.
_KERNEL_CALLS = words(
    "keyctl add_key request_key bpf perf_event_open userfaultfd",
)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_REAL_TIME = (1, 2, 6)
"""SCHED_FIFO, SCHED_RR and SCHED_DEADLINE."""
_SCHED_RESET_ON_FORK = 0x40000000
_SET_FILTER, _FLAG_LOG = 1, 2
"""SECCOMP_SET_MODE_FILTER and SECCOMP_FILTER_FLAG_LOG (seccomp(2))."""


@cache
def tree_filter() -> bytes:
    """Compile the filter of systemd-nspawn and its container, before nspawn's own.

    That one knows names of calls; this one knows AF_VSOCK, which no namespace divides,
    and io_uring, which makes sockets without socket(2).
    """
    rules = SeccompRules(default=libseccomp.ALLOW, quiet=True)
    # guard: a tree has no AF_VSOCK
    rules.refuse("socket", errno.EAFNOSUPPORT, rules.equal(0, socket.AF_VSOCK))
    close_pools(rules)
    # guard: a tree has no userfaultfd
    rules.deny("userfaultfd", errno.EPERM)
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        rules.deny(name, errno.ENOSYS)
    return rules.program()


# Calls with which a program with capabilities in a separate user namespace changes
# what it sees; without such a namespace the kernel would refuse each of them as well.
_MOUNTING = words("""
 setns mount umount2 pivot_root move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick
 mount_setattr
""")


@cache
def box_filter(*, nested: bool = False, unix: bool = True) -> bytes:
    """Compile the filter of a box of the user's own programs (by bubblewrap).

    A deny-list, as programs of every kind run in a box.  Namespaces divide most of
    the kernel; this closes what they do not: AF_VSOCK (one port space for the
    machine, so a box could take the broker's ports or speak with other machines),
    further socket families, keys, bpf, perf, io_uring (which makes sockets without
    socket(2)), typing into a terminal, and setuid files, which are real ones outside
    where a folder is shared.  Unless ``nested``, it makes no namespaces:
    with capabilities in one a program has large parts of the kernel to itself
    (nf_tables, overlayfs, mounts), where most holes of the last years were.
    Without ``unix`` it makes no UNIX socket but pairs: it is in the session's network
    namespace, which has that of abstract names.
    """
    # guard: a box writes little into the machine's audit queue
    rules = SeccompRules(default=libseccomp.ALLOW, quiet=True)
    # guard: a shipper connects to no abstract socket
    families = _BOX_FAMILIES if unix else _BOX_FAMILIES - {socket.AF_UNIX}
    if not unix:
        # One end of such a pair can send to any name.  SOCK_RAW: the kernel makes a
        # pair of datagrams of it, too.
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            # guard: a shipper sends to no abstract socket
            datagrams = rules.masked(1, _TYPE, kind)
            rules.refuse("socketpair", errno.EAFNOSUPPORT, datagrams)
    # guard: a box has no sockets that namespaces do not divide
    for family in sorted(set(range(_LAST_FAMILY)) - families):
        rules.refuse("socket", errno.EAFNOSUPPORT, rules.equal(0, family))
    rules.refuse(
        "socket",
        errno.EAFNOSUPPORT,
        libseccomp.Arg(0, libseccomp.GE, _LAST_FAMILY),
    )
    close_families(rules)
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        # guard: a box has no io_uring
        rules.deny(name, errno.ENOSYS)
    for name in _KERNEL_CALLS:
        # guard: a box has no keys and no programs of the kernel
        rules.deny(name, errno.EPERM)
    for request in (_TIOCSTI, _TIOCLINUX):
        # guard: a box types into no terminal
        rules.refuse("ioctl", errno.EPERM, rules.equal(1, request))
    close_pools(rules)
    _close_priorities(rules)
    # Answered as by a kernel without the flag.  SECCOMP_RET_LOG is in the program's own
    # filter, which no filter sees.
    # guard: a box has no refusals of its own filters recorded
    rules.refuse(
        "seccomp", errno.EINVAL, rules.equal(0, _SET_FILTER), rules.has(1, _FLAG_LOG)
    )
    # guard: a box makes no setuid files
    close_set_id(rules)
    if not nested:
        _close_namespaces(rules)
    return rules.program()


def _close_priorities(rules: SeccompRules) -> None:
    """Deny the real-time classes of sched(7), for which the user may have a limit.

    Programs of sound try them and continue without.  The policy of sched_setattr(2) is
    behind a pointer.
    """
    for policy in _REAL_TIME:
        # guard: a box takes no real-time class
        rules.deny_if(
            "sched_setscheduler",
            rules.masked(1, 0xFFFFFFFF & ~_SCHED_RESET_ON_FORK, policy),
        )
    # guard: a box takes no class by attributes
    rules.deny("sched_setattr", errno.EPERM)


def _close_namespaces(rules: SeccompRules) -> None:
    """Deny calls that make namespaces."""
    # Its flags are passed by a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    for bit in range(32):
        if CLONE_NEW >> bit & 1:
            # guard: a box forks into no namespace
            rules.deny_if("clone", rules.has(0, 1 << bit))
            # guard: a box makes no namespaces
            rules.deny_if("unshare", rules.has(0, 1 << bit))
    for name in _MOUNTING:
        # guard: a box mounts nothing
        rules.deny(name, errno.EPERM)
