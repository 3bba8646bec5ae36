"""The system calls that the pump's process may use.

The pump parses nothing, so there is little to attack in it; but it holds
every stream of every sandbox, so it gets nothing else to do harm with.
Memory, time and epoll; moving bytes between descriptors that it is given.
It cannot open, connect, execute, fork, trace or signal.

Where a call has many uses, its arguments are part of the list: fcntl(2) can
have the kernel send any signal to any process of the user (F_SETOWN,
F_SETSIG, O_ASYNC), mmap(2) can make written memory executable, sendto(2) can
address another socket than the connected one.  newfstatat(2) is not in it: with
AT_EMPTY_PATH it looks at a path as well, if that is not empty.
"""

from __future__ import annotations

import fcntl
import os

from broker.core.errors import SetupError
from broker.helpers.process.hardening import install, prctl

_PR_SET_NO_NEW_PRIVS = 38
_FIONBIO = 0x5421  # asm-generic/ioctls.h; how Python makes a socket non-blocking

ALLOWED = (
    # moving bytes
    "splice",
    "read",
    "readv",
    "write",
    "recvmsg",
    "recvfrom",
    "shutdown",
    "close",
    # knowing what a descriptor is
    "getsockname",
    "getsockopt",
    "fstat",
    # waiting
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "clock_gettime",
    "clock_nanosleep",
    "futex",
    "restart_syscall",
    # memory
    "brk",
    "munmap",
    "mremap",
    "madvise",
    # ending, and the interpreter's own needs on the way there
    "exit",
    "exit_group",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "getpid",
    "gettid",
    "getrandom",
    "lseek",
)

_PROT_EXEC = 4
_WHOLE = 0xFFFFFFFF
"""The bits of an int, which is all that the kernel looks at."""
_POINTER = 0xFFFFFFFFFFFFFFFF

# Name, then (argument, mask, value) that must hold, of each further call.
# guard: the pump names what fcntl does
# guard: the pump has no asynchronous descriptor
# guard: the pump maps no code
# guard: the pump sends to no address
ARGUMENTS: tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...] = (
    ("ioctl", ((1, _WHOLE, _FIONBIO),)),
    ("fcntl", ((1, _WHOLE, fcntl.F_GETFD),)),
    ("fcntl", ((1, _WHOLE, fcntl.F_SETFD),)),
    ("fcntl", ((1, _WHOLE, fcntl.F_GETFL),)),
    ("fcntl", ((1, _WHOLE, fcntl.F_SETFL), (2, fcntl.FASYNC, 0))),
    ("pipe2", ((1, _WHOLE, os.O_CLOEXEC | os.O_NONBLOCK),)),
    ("mmap", ((2, _PROT_EXEC, 0),)),
    ("mprotect", ((2, _PROT_EXEC, 0),)),
    ("sendto", ((4, _POINTER, 0),)),
)


def pump_filter() -> bytes:
    """The BPF program of a pump; empty without libseccomp.

    Everything beyond the list fails with EPERM rather than killing, so that a
    newer interpreter's unexpected call costs an error, not all streams.
    """
    try:
        # Late: it loads libseccomp, which may be missing.
        from broker.helpers.process.seccomp import SeccompRules
    except (ImportError, RuntimeError, OSError):
        return b""
    rules = SeccompRules()
    rules.allow(ALLOWED)
    for name, wanted in ARGUMENTS:
        rules.allow_if(name, *(rules.masked(*argument) for argument in wanted))
    return rules.program()


def confine(program: bytes) -> None:
    """Confine this process for good.  Raises SetupError where the kernel cannot filter."""
    # guard: a pump that cannot be confined carries nothing
    if not program:
        raise SetupError("system calls cannot be filtered: libseccomp is missing")
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    install(program)
