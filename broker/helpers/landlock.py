"""Landlock: the files that a process, and all that it starts, can still open.

The kernel follows a rule by what the path was when the rule was made: files that are
made below a directory later are included, a link out of it is not, and neither is a new
file in the place of a named one.
Landlock does not govern stat(2), open descriptors, or connections to a UNIX socket that
has a path.  Source: landlock(7).

Each process that confines itself calls it at its start: authority, viewer, keeper,
worker, packet guard and helpers in the session.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from broker.helpers.process.hardening import check

_libc = ctypes.CDLL(None, use_errno=True)
_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same numbers everywhere
_PATH_BENEATH = 1
_READ = 1 << 2 | 1 << 3  # files, directories
_WRITE = _READ | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 14
"""And: change, cut and remove files, make and remove directories, files and sockets."""
_LISTEN = 1 << 5 | 1 << 9
_OF_FILES = 1 << 1 | 1 << 2 | 1 << 14
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights on files a version of Landlock knows, one bit each; later ones: 16."""
_PROC = Path("/proc")
ABSTRACT_SOCKETS, SIGNALS = 1, 2


def restrict(
    read: Iterable[Path] = (),
    write: Iterable[Path] = (),
    scopes: int = ABSTRACT_SOCKETS | SIGNALS,
    listen: Iterable[Path] = (),
) -> int:
    """Forbid this thread all files but these, by Landlock, and TCP; return the version.

    Below those of ``listen`` it can make sockets, and remove files.  Paths that do not
    exist are left out.  ``scopes``: of processes that do not descend from this one, it
    also reaches no abstract socket, and signals none.
    Returns the version that the kernel has, 0 for none: then nothing was forbidden.  The
    process must not be able to gain privileges, and have one thread.  Raises OSError.

    A path of procfs stays open (O_PATH) for the life of the process.
    """
    abi = version()
    if not abi:
        return 0
    known = (1 << _RIGHTS.get(abi, 16)) - 1
    # The structure grew with the versions; 3: to bind and connect TCP sockets.
    rules = struct.pack("QQQ", known, 3, scopes)
    ruleset = _libc.syscall(_CREATE, rules, 8 if abi < 4 else 16 if abi < 6 else 24, 0)
    check(ruleset, "Landlock rules")
    try:
        for paths, rights in ((read, _READ), (write, _WRITE), (listen, _LISTEN)):
            for path in paths:
                _allow(ruleset, path, rights & known)
        check(_libc.syscall(_RESTRICT, ruleset, 0), "Landlock")
    finally:
        os.close(ruleset)
    return abi


def version() -> int:
    """Return the version of Landlock that the kernel has, 0 for none."""
    return max(0, int(_libc.syscall(_CREATE, None, 0, 1)))


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Allow some rights below a path in a Landlock ruleset.

    A missing path is ignored.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        beneath = struct.pack("=Qi", rights, place)
        done = _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, beneath, 0)
        check(done, f"Landlock rule for {path}")
    except BaseException:
        os.close(place)
        raise
    # guard: a rule for a path of procfs holds when the kernel has given up its memory
    if not _is_of_proc(place):
        os.close(place)


def _is_of_proc(place: int) -> bool:
    """Return whether procfs has it.  stat(2) of its root needs no rule."""
    return os.fstat(place).st_dev == _PROC.stat().st_dev
