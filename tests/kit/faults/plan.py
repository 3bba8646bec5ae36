"""Calls of the C library that fail once, in one process of a broker (``faults.c``)."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("=I24s24siii")
_ROW = struct.Struct("=I24s24sI")
_ROWS = 1024

_FULL = ("EMFILE", "ENOMEM")
ERRORS = {
    **dict.fromkeys(
        (
            *("accept4", "dup", "dup2", "dup3", "dupfd", "epoll_create1", "eventfd"),
            *("memfd_create", "pidfd_open", "pipe2", "socket", "socketpair"),
        ),
        _FULL,
    ),
    "open": ("EMFILE", "ENOMEM", "ENOSPC"),
    "epoll_ctl": ("ENOSPC", "ENOMEM"),
    "fork": ("EAGAIN", "ENOMEM"),
    "pthread_create": ("EAGAIN",),
    "mmap": ("ENOMEM", "EAGAIN"),
    "poll": ("ENOMEM",),
    "connect": ("EAGAIN", "ENOMEM"),
    "bind": ("ENOMEM", "ENOSPC"),
    **dict.fromkeys(("send", "sendmsg", "recv", "recvmsg", "splice"), ("ENOMEM",)),
    "unshare": ("ENOSPC", "ENOMEM"),
    "write": ("ENOSPC", "ENOMEM"),
    **dict.fromkeys(
        (
            *("fdatasync", "fsync", "ftruncate64"),
            *("mkdir", "pwrite64", "rename", "symlink"),
        ),
        ("ENOSPC", "ENOMEM"),
    ),
}
"""What each call may fail with where a resource is used up, by its manual page."""


@dataclass(frozen=True, order=True)
class Fault:
    """The ``nth`` call of a function in the processes of a role, from 1, fails."""

    role: str
    call: str
    nth: int
    error: str

    def __str__(self) -> str:
        return f"{self.role}-{self.call}-{self.nth}-{self.error}"


class FaultPlan:
    """The file that all processes map."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_HEAD.size + _ROWS * _ROW.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def counts(self) -> dict[tuple[str, str], int]:
        """How often each role has called each function."""
        found = {}
        for at in range(_ROWS):
            taken, role, call, count = _ROW.unpack_from(
                self._map, _HEAD.size + at * _ROW.size
            )
            if taken == 2:
                found[_text(role), _text(call)] = count
        return found

    def arm(self, fault: Fault) -> None:
        """Let it happen, at the calls from now on."""
        order = (
            fault.role.encode(),
            fault.call.encode(),
            getattr(errno, fault.error),
            fault.nth,
            0,
        )
        _HEAD.pack_into(self._map, 0, 0, *order)
        self._map[0] = 1

    def disarm(self) -> int:
        """Return the pid of the process that had the fault; 0 where it did not come."""
        self._map[0] = 0
        return int(_HEAD.unpack_from(self._map, 0)[-1])

    def close(self) -> None:
        self._map.close()


def _text(name: bytes) -> str:
    return name.split(b"\0")[0].decode()


@contextmanager
def faults(directory: Path) -> Iterator[tuple[FaultPlan, dict[str, str]]]:
    """A plan, and the variables of the environment with which programs follow it."""
    library = directory / "faults.so"
    source = Path(__file__).with_name("faults.c")
    words = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]
    subprocess.run([*words, library, source], check=True, timeout=60)
    file = directory / "faults.plan"
    plan = FaultPlan(file)
    try:
        yield plan, {"LD_PRELOAD": os.fspath(library), "VITRAIL_FAULTS": str(file)}
    finally:
        plan.close()
