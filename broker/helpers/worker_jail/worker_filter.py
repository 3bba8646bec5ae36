"""The system-call filter of a worker: an allow-list.

A call that is not on the list gets an error and the program continues (libraries try
things they can do without); what only an attacker calls kills the process at once.
"""

from __future__ import annotations

import fcntl
import os
from functools import cache

from broker.helpers.filters.seccomp import (
    MAP_HUGETLB,
    MSG_FASTOPEN,
    NEVER,
    SeccompRules,
    words,
)
from broker.helpers.process.hardening import install

_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_FIONBIO = 0x5421
_FIONREAD = 0x541B
_F_DUPFD_CLOEXEC = 1030
_F_GETPIPE_SZ, _F_ADD_SEALS, _F_GET_SEALS = 1032, 1033, 1034
_F_SEAL_SEAL, _F_SEAL_SHRINK = 1, 2
_F_SEAL_ALL = 15
"""Those two, against growing and against writing."""
_SIOCOUTQ = 0x5411
_MFD_CLOEXEC_ALLOW_SEALING = 3

BASE = words("""
 read readv write writev close close_range recvmsg recvfrom shutdown
 accept accept4 getsockname getpeername getsockopt
 epoll_wait epoll_pwait epoll_pwait2 epoll_ctl poll ppoll select pselect6
 futex brk munmap mremap madvise fstat lseek
 rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
 clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
 getrandom getpid gettid getppid sched_yield exit exit_group
""")


@cache
def worker_filter() -> bytes:
    """Compile the filter of a worker (an allow-list): it reads, writes and accepts.

    No path, no new socket but accepted ones, no process, no executable
    memory.  Sets nothing up: epoll, the wake-up pair and all sockets exist.
    For the pixels of frames, and in the place of shared memory that cannot be
    sealed, it makes anonymous files: sealable, in memory, of no huge pages.
    """
    rules = SeccompRules()
    rules.kill([*NEVER, "execve", "execveat", "fork", "vfork", "clone", "clone3"])
    rules.kill(["connect", "bind", "listen"])
    rules.allow(BASE)
    # guard: a worker connects by no message
    for name, flags in (("sendmsg", 2), ("sendto", 3)):
        rules.allow_if(name, rules.clear(flags, MSG_FASTOPEN))
    # guard: a worker takes no huge pages
    small = rules.clear(3, MAP_HUGETLB)
    rules.allow_if("mmap", rules.clear(2, _PROT_EXEC), small)
    rules.allow_if("mprotect", rules.clear(2, _PROT_EXEC))
    rules.allow_if("ioctl", rules.equal(1, _FIONBIO))
    rules.allow_if("ioctl", rules.equal(1, _FIONREAD))
    # How much of a recording the guest has not taken yet, after a revoke.
    rules.allow_if("ioctl", rules.equal(1, _SIOCOUTQ))
    for command in (1, 2, 3, _F_DUPFD_CLOEXEC):  # F_GETFD, F_SETFD, F_GETFL
        rules.allow_if("fcntl", rules.equal(1, command))
    # Without O_ASYNC: no signal at each byte, to the process that F_SETOWN names.
    rules.allow_if("fcntl", rules.equal(1, fcntl.F_SETFL), rules.clear(2, fcntl.FASYNC))
    rules.allow_if("fcntl", rules.equal(1, _F_GET_SEALS))
    # Whether a descriptor is a pipe, without asking the file system it is on.
    rules.allow_if("fcntl", rules.equal(1, _F_GETPIPE_SZ))
    for seals in (_F_SEAL_SHRINK, _F_SEAL_SHRINK | _F_SEAL_SEAL, _F_SEAL_ALL):
        rules.allow_if("fcntl", rules.equal(1, _F_ADD_SEALS), rules.equal(2, seals))
    # A client's memory is looked at (fstatfs: is it tmpfs?) and read; ours is
    # made and written.  All of these take a descriptor, never a path.
    # A selection on a waypipe stream has a pipe here.
    rules.allow(["fstatfs", "preadv", "preadv2", "pread64", "pwrite64", "ftruncate"])
    rules.allow_if("pipe2", rules.equal(1, os.O_CLOEXEC | os.O_NONBLOCK))
    rules.allow_if("memfd_create", rules.equal(1, _MFD_CLOEXEC_ALLOW_SEALING))
    # The content goes into a pipe of the client's, which could make any
    # other write wait (worker.clipboard.serving).
    rules.allow_if("splice", rules.equal(5, os.SPLICE_F_NONBLOCK))
    # glibc's fstat() calls this; the jail's only directory is empty.
    rules.allow_if("newfstatat", rules.has(3, _AT_EMPTY_PATH))
    # What kind of file a dma-buf is, without asking a file system.
    rules.allow_if("statx", rules.equal(2, _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC))
    return rules.program()


def lock_worker() -> None:
    """Shut the last door of a worker's jail.  One thread, no way back."""
    install(worker_filter())
