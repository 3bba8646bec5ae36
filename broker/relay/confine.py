"""What the pump's process may ask of the kernel: a list of system calls.

The pump parses nothing, so there is little to attack in it; but it holds
every stream of every sandbox, so it gets nothing else to do harm with.
Memory, time and epoll; moving bytes between descriptors that it is given.
It cannot open, connect, execute, fork, trace or signal.
"""

from __future__ import annotations

import ctypes
import errno

_PR_SET_NO_NEW_PRIVS = 38
_FIONBIO = 0x5421  # asm-generic/ioctls.h; how Python makes a socket non-blocking

ALLOWED = (
    # moving bytes
    "splice",
    "read",
    "readv",
    "write",
    "writev",
    "recvmsg",
    "recvfrom",
    "sendmsg",
    "sendto",
    "shutdown",
    "pipe2",
    "close",
    # knowing what a descriptor is
    "getsockname",
    "getsockopt",
    "fcntl",
    "fstat",
    "newfstatat",
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
    "mmap",
    "munmap",
    "mremap",
    "madvise",
    "mprotect",
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


def confine() -> bool:
    """Confine this process for good; false where the kernel cannot filter.

    Everything beyond the list fails with EPERM rather than killing, so that a
    newer interpreter's unexpected call costs an error, not all streams.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        import pyseccomp  # late: it loads libseccomp, which may be missing
    except (ImportError, RuntimeError, OSError):
        return False
    try:
        rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
        arch = pyseccomp.system_arch()
        for name in ALLOWED:
            # A name that this architecture lacks cannot be called either.
            if pyseccomp.resolve_syscall(arch, name) >= 0:
                rules.add_rule(pyseccomp.ALLOW, name)
        rules.add_rule(
            pyseccomp.ALLOW, "ioctl", pyseccomp.Arg(1, pyseccomp.EQ, _FIONBIO)
        )
        rules.load()
    except OSError:
        return False
    return True
