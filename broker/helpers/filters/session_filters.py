"""System-call filters of our processes that stay in the user's session.

The fork server of helpers compiles the authority's and the keeper's, the fork server of
workers its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from functools import cache

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import (
    NEVER,
    SeccompRules,
    close_families,
    close_fast_open,
    close_pools,
    words,
)

CLONE_THREAD = 0x10000
_F_SETOWN_EX = 15
_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902
_FILE_SPACE = (0x40305828, 0x4030582A, 0x4030582B, 0x4030582D, 0x40305839)
"""FS_IOC_RESVSP, RESVSP64, UNRESVSP, UNRESVSP64 and ZERO_RANGE, for any file system."""
_FIOASYNC, _PR_SCHED_CORE = 0x5452, 62
_SO_PASSPIDFD, _SO_PEERPIDFD = 76, 77
_SCHEDULING = words("""
 setpriority ioprio_set sched_setaffinity sched_setattr sched_setparam
 sched_setscheduler migrate_pages move_pages
""")
_SHARED_MEMORY = words("""
 shmget shmat shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
 mq_open mq_unlink
""")

_BY_PATH = words("""
 chmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat
 setxattr lsetxattr removexattr lremovexattr truncate
""")
"""Changes of a file that Landlock does not govern, or did not always."""
_SEEN_BY_PATH = words("""
 inotify_init inotify_init1 inotify_add_watch fanotify_init fanotify_mark
 getxattr lgetxattr listxattr llistxattr
""")
"""What tells of files that cannot be opened, and is not governed by Landlock either."""
_LATE = ("setxattrat", "getxattrat", "listxattrat", "removexattrat", "file_setattr")
"""Those of Linux 6.13 and 6.17."""


@cache
def authority_filter() -> bytes:
    """Compile the filter of the authority: a keeper's, with threads and pidfds.

    It signals the helpers whose pidfds its starter sent, and asks the kernel who
    calls its control socket.
    """
    # SQLite cuts the files of the audit log.
    needed = {"pidfd_send_signal", "pidfd_open", "ftruncate"}
    rules = in_session(frozenset(needed))
    # Its flags are behind a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    # guard: the authority makes threads and no processes
    rules.kill_if("clone", rules.clear(0, CLONE_THREAD))
    return rules.program()


def in_session(needed: frozenset[str], pid: int = 0) -> SeccompRules:
    """Return rules for a process that executes nothing, with UNIX sockets only.

    ``pid``: its own, where it is known: then it may signal its threads, as abort(3) does.
    """
    rules = SeccompRules(default=libseccomp.ALLOW)
    rules.kill([name for name in NEVER if name not in needed])
    rules.kill(["execve", "execveat", "fork", "vfork"])
    # guard: a keeper signals its jailed half alone
    rules.kill(["kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"])
    # No process has the number 0.
    # guard: no thread of another process is signalled
    rules.kill_if("tgkill", libseccomp.Arg(0, libseccomp.NE, pid))
    if "pidfd_send_signal" in needed:
        # guard: a pidfd stands for one process and not for its group
        rules.deny_if("pidfd_send_signal", libseccomp.Arg(3, libseccomp.NE, 0))
    rules.deny_if("socket", libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX))
    close_families(rules)
    close_fast_open(rules)
    close_pools(rules)
    leave_others(rules, pidfds="pidfd_open" in needed)
    if "ftruncate" not in needed:
        _leave_log(rules)
    return rules


def _leave_log(rules: SeccompRules) -> None:
    """Let a process write at the end of ``broker.log``, its standard error, only."""
    for name in ("ftruncate", "fallocate"):
        # guard: what a broker has logged is not cut
        rules.deny(name, errno.EPERM)
    for request in _FILE_SPACE:
        # guard: what a broker has logged is not cut by an old name of fallocate
        rules.deny_if("ioctl", rules.equal(1, request))
    # guard: what a broker has logged is not written over
    rules.deny_if("fcntl", rules.equal(1, fcntl.F_SETFL), rules.clear(2, os.O_APPEND))


def leave_others(rules: SeccompRules, *, pidfds: bool) -> None:
    """Close what acts on the user's other programs without a path or a descriptor."""
    for command in (fcntl.F_SETOWN, fcntl.F_SETSIG, _F_SETOWN_EX):
        # guard: no descriptor signals another process for its owner
        rules.deny_if("fcntl", rules.equal(1, command))
    for request in (_FIOSETOWN, _SIOCSPGRP):
        # guard: no socket signals another process for its owner
        rules.deny_if("ioctl", rules.equal(1, request))
    # The kernel makes the foreground group of a terminal the owner by itself, and a
    # signal that it does not expect ends a program.
    # guard: no terminal signals the program in its foreground
    rules.deny_if("fcntl", rules.equal(1, fcntl.F_SETFL), rules.has(2, fcntl.FASYNC))
    # guard: no ioctl makes a descriptor asynchronous
    rules.deny_if("ioctl", rules.equal(1, _FIOASYNC))
    # guard: other processes share no core's cookie with us
    rules.deny_if("prctl", rules.equal(0, _PR_SCHED_CORE))
    for request in (_TIOCSTI, _TIOCLINUX):
        # guard: nothing is typed into the terminal that the broker was started from
        rules.deny_if("ioctl", rules.equal(1, request))
    # A limit of processor time ends a process as a signal does.
    other, new = (libseccomp.Arg(index, libseccomp.NE, 0) for index in (0, 2))
    # guard: limits of other processes stay
    rules.deny_if("prlimit64", other, new)
    for name in _SCHEDULING:
        # guard: other processes run as they did
        rules.deny(name, errno.EPERM)
    for name in _SHARED_MEMORY:
        # guard: memory that other programs share is theirs
        rules.deny(name, errno.EPERM)
    if pidfds:
        return
    level = rules.equal(1, socket.SOL_SOCKET)
    for call, option in (("getsockopt", _SO_PEERPIDFD), ("setsockopt", _SO_PASSPIDFD)):
        # guard: a connection gives no right to signal its other end
        rules.deny_if(call, level, rules.equal(2, option))


def keep_attributes(rules: SeccompRules) -> None:
    """Close what changes or watches files by path, which Landlock does not govern."""
    for name in _BY_PATH:
        # guard: a file of the user's keeps its mode, owner, times and attributes
        rules.deny(name, errno.EPERM)
    for name in _SEEN_BY_PATH:
        # guard: a viewer hears of no file that it cannot open
        rules.deny(name, errno.EACCES)
    for name in _LATE:
        # guard: a file keeps its attributes where libseccomp does not know the call
        rules.deny(name, errno.EPERM)
