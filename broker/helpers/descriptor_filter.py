"""The filter of system calls for a process that reads and writes its descriptors only.

Frameguard, netguard, flowguard, switch and the process of a security key install it
before they read a byte.  Any other call kills the process.
"""

from __future__ import annotations

from broker.helpers.process.libseccomp import seccomp as libseccomp

_PROT_EXEC = 4
_POINTER = 0xFFFFFFFFFFFFFFFF
_ALLOWED = (
    *("read", "write", "recvfrom", "poll", "ppoll", "close"),
    *("brk", "munmap", "mremap", "madvise", "futex"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall"),
    *("clock_gettime", "getpid", "getrandom", "exit", "exit_group"),
)


def keep_descriptors_only(*more: str) -> None:
    """Give up every other system call, except ``more``."""
    rules = libseccomp.SyscallFilter(libseccomp.KILL_PROCESS)
    for name in (*_ALLOWED, *more):
        rules.add_rule(libseccomp.ALLOW, name)
    # A name server's socket could send to every address of the machine's network.
    to_whom = libseccomp.Arg(4, libseccomp.MASKED_EQ, _POINTER, 0)
    # guard: a confined process sends to no address
    rules.add_rule(libseccomp.ALLOW, "sendto", to_whom)
    no_code = libseccomp.Arg(2, libseccomp.MASKED_EQ, _PROT_EXEC, 0)
    # guard: a confined process maps no code
    rules.add_rule(libseccomp.ALLOW, "mmap", no_code)
    rules.load()
