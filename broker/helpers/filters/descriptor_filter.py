"""The filter of system calls for a process that serves only descriptors which it has.

It cannot open, connect, execute, fork, trace or signal.  Frameguard, netguard,
flowguard, switch and the process of a security key install it before they read a
byte; any other call kills them.  ``carrying_filters`` adds what pumps need.

Where a call has many uses, its arguments are part of the list: mmap(2) can make
written memory executable, sendto(2) can address another socket than the connected one.
"""

from __future__ import annotations

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import MAP_HUGETLB, SeccompRules, words
from broker.helpers.process.hardening import confine

PROT_EXEC = 4
_POINTER = 0xFFFFFFFFFFFFFFFF
_ALL = words("""
 read write recvfrom close brk munmap mremap madvise futex clock_gettime getpid getrandom
 rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall exit exit_group
""")


def keep_descriptors_only(*more: str) -> None:
    """Give up every system call but those of the list and ``more``."""
    rules = descriptor_rules(libseccomp.KILL_PROCESS)
    rules.allow(("poll", "ppoll", *more))
    confine(rules.program())


def descriptor_rules(otherwise: int) -> SeccompRules:
    """Return rules that allow the list, and do ``otherwise`` at any other call."""
    rules = SeccompRules(otherwise)
    rules.allow(_ALL)
    # A name server's socket could send to every address of the machine's network.
    # guard: a confined process sends to no address
    rules.allow_if("sendto", rules.masked(4, _POINTER, 0))
    # guard: a confined process takes no huge pages
    small = rules.clear(3, MAP_HUGETLB)
    # guard: a confined process maps no code
    rules.allow_if("mmap", rules.clear(2, PROT_EXEC), small)
    return rules
