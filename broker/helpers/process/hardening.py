"""What a process that stays in the session can take from itself (prctl(2))."""

from __future__ import annotations

import ctypes
import os
import resource

from broker.helpers.process import seccomp

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


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
    _confine(seccomp.keeper_filter())


def harden_authority() -> None:
    """Bar what the authority never does: as ``harden``, but with threads.

    And no other program of the user reads its memory or traces it (ptrace(2)).
    Before its first thread: a filter holds for the thread that installs it, and for
    those that it starts.  Raises OSError, SetupError.
    """
    _confine(seccomp.authority_filter())
    # guard: no program of the user traces the authority
    prctl(_PR_SET_DUMPABLE, 0)


def _confine(program: bytes) -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    lower_limit(resource.RLIMIT_CORE, 1)
    seccomp.install(program)


def check(result: int, what: str) -> None:
    """Raise OSError for a libc call that failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
