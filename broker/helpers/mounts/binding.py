"""Binds checked files below a directory, for a program that takes paths.

Podman and systemd-nspawn look their paths up themselves, some time after we looked at
them; of a container's root they make an overlay, which does not show the layers below it.
So they get other paths, where no sandbox can write: at these, in the mount namespace
in which they mount, is the file that was opened here and is the one we looked at.

brokerctl's launchers of Podman and systemd-nspawn run it as a separate process in that
namespace, as a user that may mount there (``podman unshare``, ``unshare --map-root-user
--mount``).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import struct
import sys
from pathlib import Path

_SYS_OPENAT2, _SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 437, 428, 429, 442
_AT_FDCWD, _NO_LINKS = -100, 0x06
_EMPTY_PATH, _RECURSIVE, _CLONE = 0x1000, 0x8000, 1
_F_EMPTY, _T_EMPTY = 0x4, 0x40
_PRIVATE = 1 << 18
_DETACH, _NOFOLLOW = 2, 8
_libc = ctypes.CDLL(None, use_errno=True)


def main(*argv: str) -> int:
    """Run ``BASE [FILE DEVICE:INODE]... [-- COMMAND...]`` or ``--undo BASE``.

    FILE number N, counted from 0, is bound at BASE/N.  COMMAND, which is systemd-nspawn
    or represents it, has our filter of system calls.
    """
    try:
        if argv[0] == "--undo":
            undo(argv[1])
            return 0
        base, *rest = argv
        end = rest.index("--") if "--" in rest else len(rest)
        _undo_others(base)
        for number, place in enumerate(range(0, end, 2)):
            bind(rest[place], rest[place + 1], f"{base}/{number}")
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    command = rest[end + 1 :]
    if command:
        # Late: Podman's files are bound without it.
        from broker.helpers.filters import box_filters
        from broker.helpers.process.hardening import install

        install(box_filters.tree_filter())
        os.execvp(command[0], command)  # noqa: S606 (our own words)
    return 0


def file_words(path: Path, fd: int) -> tuple[str, str]:
    """The words for a file: its path without links, and which one it is."""
    facts = os.fstat(fd)
    return str(path), f"{facts.st_dev}:{facts.st_ino}"


def bind(path: str, wanted: str, target: str) -> None:
    """Bind a file or directory, with the mounts below it.  Raises OSError."""
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, _NO_LINKS)
    try:
        here = _call(_SYS_OPENAT2, _AT_FDCWD, os.fsencode(path), how, len(how))
    except OSError as error:
        raise OSError(error.errno, f"{path!r}: {error.strerror}") from error
    facts = os.fstat(here)
    # guard: a container gets the checked file
    if f"{facts.st_dev}:{facts.st_ino}" != wanted:
        raise OSError(0, f"another sandbox has changed the target of {path!r}")
    flags = _EMPTY_PATH | _CLONE | _RECURSIVE | os.O_CLOEXEC
    tree = _call(_SYS_OPEN_TREE, here, b"", flags)
    os.close(here)
    # guard: later mounts of the user do not appear in a container's file
    mount_attr = struct.pack("QQQQ", 0, 0, _PRIVATE, 0)
    flags = _EMPTY_PATH | _RECURSIVE
    _call(_SYS_MOUNT_SETATTR, tree, b"", flags, mount_attr, len(mount_attr))
    Path(target).parent.mkdir(mode=0o700, exist_ok=True)
    if stat.S_ISDIR(facts.st_mode):
        Path(target).mkdir()
    else:
        Path(target).touch(exist_ok=False)
    place = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    _call(_SYS_MOVE_MOUNT, tree, b"", place, b"", _F_EMPTY | _T_EMPTY)
    os.close(tree)
    os.close(place)


def undo(base: str) -> None:
    """Unmount the mounts below a directory, and remove it; mounts in use remain."""
    for place in Path(base).iterdir():
        _libc.umount2(os.fsencode(place), _DETACH | _NOFOLLOW)
        # An entry that is still mounted cannot be removed (EBUSY), and stays as it is.
        with contextlib.suppress(OSError):
            place.rmdir() if place.is_dir() else place.unlink()
    with contextlib.suppress(OSError):
        Path(base).rmdir()


def _undo_others(base: str) -> None:
    """Undo directories beside this one whose maker, which held a lock, has ended."""
    prefix = Path(base).name.partition("-")[0] + "-"
    for other in Path(base).parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            lock = os.open(other, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                undo(str(other))
            finally:
                os.close(lock)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
