"""What a process that stays in the session can take from itself (prctl(2)).

Each of our long-lived processes calls it on itself at its start: authority, viewer,
starter, keeper, pump, acceptor, worker and packet guard.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from broker.core.errors import SetupError

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_BPF_INSN_BYTES = 8


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (prctl(2)).  Raises OSError."""
    check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def lower_limit(kind: int, value: int) -> None:
    """Set a resource limit, or leave it where it is lower (getrlimit(2))."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def harden(program: bytes) -> None:
    """Put this process under a filter of ``session_filters``, and without cores."""
    lower_limit(resource.RLIMIT_CORE, 1)
    confine(program)


def confine(program: bytes) -> None:
    """Put this process, which can gain no privileges then, under a filter."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    install(program)


def harden_authority(program: bytes) -> None:
    """Confine the authority's process for good, as ``harden``.

    And no other program of the user reads its memory or traces it (ptrace(2)).
    Before its first thread: a filter holds for the thread that installs it, and for
    those that it starts.  Raises OSError, SetupError.
    """
    harden(program)
    # guard: no program of the user traces the authority
    prctl(_PR_SET_DUMPABLE, 0)


def check(result: int, what: str) -> None:
    """Raise OSError for a libc call that failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def install(program: bytes) -> None:
    """Install a filter in the calling process, which has one thread, for good.

    It must have no-new-privileges set.  Raises SetupError when the kernel has no filters.
    """
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: number of instructions, where they are
    wanted = struct.pack("HP", len(program) // _BPF_INSN_BYTES, ctypes.addressof(code))
    # guard: a process that cannot be confined serves nothing
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, wanted, 0, 0):
        raise SetupError(
            f"cannot install a system call filter: {os.strerror(ctypes.get_errno())}",
            hint="use a kernel with CONFIG_SECCOMP_FILTER",
        )
