"""What a process that stays in the session can take from itself (prctl(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
from functools import cache

from broker.helpers.process.libseccomp import seccomp as libseccomp
from broker.helpers.process.seccomp import NEVER, SeccompRules, install

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CLONE_THREAD = 0x10000


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (prctl(2)).  Raises OSError."""
    check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def lower_limit(kind: int, value: int) -> None:
    """Set a resource limit, or leave it where it is lower (getrlimit(2))."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def harden() -> None:
    """Bar what a process that stays in the session never does.

    No new privileges, no core, no exec, no fork, no other process's memory.
    """
    _confine(keeper_filter())


def harden_authority() -> None:
    """Bar what the authority never does: as ``harden``, but with threads.

    And no other program of the user reads its memory or traces it (ptrace(2)).
    Before its first thread: a filter holds for the thread that installs it, and for
    those that it starts.  Raises OSError, SetupError.
    """
    _confine(_authority_filter())
    # guard: no program of the user traces the authority
    prctl(_PR_SET_DUMPABLE, 0)


def _confine(program: bytes) -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    lower_limit(resource.RLIMIT_CORE, 1)
    install(program)


def check(result: int, what: str) -> None:
    """Raise OSError for a libc call that failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


@cache
def keeper_filter() -> bytes:
    """The BPF program of a keeper: it stays in the session, so a deny-list.

    It makes UNIX connections and waits; it starts nothing and inspects no other
    process.  It can signal only the process of which it was given a pidfd.
    """
    rules = _in_session(frozenset({"pidfd_send_signal"}))
    rules.kill(["clone", "clone3"])
    return rules.program()


@cache
def _authority_filter() -> bytes:
    """The BPF program of the authority: a keeper's, but with threads and pidfds.

    It signals the helpers whose pidfds its starter sent, and asks the kernel who
    calls its control socket.
    """
    rules = _in_session(frozenset({"pidfd_send_signal", "pidfd_open"}))
    # Its flags are behind a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    # guard: the authority makes threads and no processes
    rules.kill_if("clone", rules.clear(0, _CLONE_THREAD))
    return rules.program()


def _in_session(needed: frozenset[str]) -> SeccompRules:
    """Rules for a process that executes nothing and has UNIX sockets only."""
    rules = SeccompRules(default=libseccomp.ALLOW)
    rules.kill([name for name in NEVER if name not in needed])
    rules.kill(["execve", "execveat", "fork", "vfork"])
    # guard: a keeper signals its jailed half alone
    rules.kill(["kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"])
    rules.deny_if("socket", libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX))
    return rules
