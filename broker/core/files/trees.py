"""Directory trees that a sandbox, or a process that it took over, has written.

Such a tree may be deeper than a path is long or than Python recurses, and its
directories may be closed to their owner.  So it is walked by descriptors, one directory
open at a time, without recursion, and no link is followed.

The host and the viewer remove a sandbox's directories by this when it ends, brokerctl
images and homes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RIGHTS = 0o700


class TreeEvent(Enum):
    """What a walk yields a name for."""

    FILE = auto()
    ENTERED = auto()
    """A directory, before it is opened."""
    LEFT = auto()
    """A directory, after its content."""


def remove_tree(path: Path) -> OSError | None:
    """Remove a directory with all below it, if there is one; return the first error.

    Returns the first error, when all is removed that can be; None: nothing is left.
    Closed directories get back their owner's rights on the way.
    """
    errors: list[OSError] = []
    try:
        for fd, name, event in walk_tree(path, errors, unlock=True):
            if event is TreeEvent.ENTERED:
                continue
            try:
                remove = os.unlink if event is TreeEvent.FILE else os.rmdir
                remove(name, dir_fd=fd)
            except OSError as error:
                errors.append(error)
        path.rmdir()
    except FileNotFoundError:
        return None
    except OSError as error:
        errors.append(error)
    return errors[0] if errors else None


def disk_usage(path: Path) -> int:
    """Return the bytes on disk of all files below a directory, as du(1).

    Entries that cannot be read are not counted, nor are those below a directory that
    a running sandbox moves at the same time.
    """
    blocks = 0
    with suppress(OSError):
        for fd, name, event in walk_tree(path, [], unlock=False):
            with suppress(OSError):  # removed since it was listed
                info = os.lstat(name, dir_fd=fd)
                blocks += info.st_blocks if event is not TreeEvent.ENTERED else 0
    return 512 * blocks


def walk_tree(
    top: Path, errors: list[OSError] | None, *, unlock: bool
) -> Iterator[tuple[int, str, TreeEvent]]:
    """Yield each name below ``top`` with its opened directory.

    ``errors`` gets those of directories that cannot be entered; None: they raise.  With ``unlock`` closed
    directories get back their owner's rights.  Raises OSError where ``top`` cannot be, or a directory was moved.
    """
    fd = _open_directory(os.fspath(top), None, unlock=unlock)
    above: list[tuple[str, tuple[int, int], list[str]]] = []
    try:
        files, waiting = _listed(fd)
        yield from ((fd, name, TreeEvent.FILE) for name in files)
        while waiting or above:
            if not waiting:
                name, identity, waiting = above.pop()
                fd = _exchange(fd, os.open("..", os.O_RDONLY | _DIRECTORY, dir_fd=fd))
                # guard: a walk leaves a directory by the way it came
                if _identity(fd) != identity:
                    raise OSError(errno.ESTALE, "a directory was moved", name)
                yield fd, name, TreeEvent.LEFT
                continue
            name = waiting.pop()
            yield fd, name, TreeEvent.ENTERED
            try:
                below = _open_directory(name, fd, unlock=unlock)
            except OSError as error:
                # guard: what is in a directory that cannot be entered is not left out
                if errors is None:
                    raise
                errors.append(error)
                continue
            above.append((name, _identity(fd), waiting))
            fd = _exchange(fd, below)
            files, waiting = _listed(fd)
            yield from ((fd, name, TreeEvent.FILE) for name in files)
    finally:
        os.close(fd)


def _exchange(old: int, new: int) -> int:
    os.close(old)
    return new


def _open_directory(name: str, above: int | None, *, unlock: bool) -> int:
    """Open a directory for reading.  Raises OSError.

    With ``unlock``, give its owner all rights first.
    """
    place = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=above)
    try:
        # guard: a directory that is closed to its owner is opened
        if unlock and stat.S_IMODE(os.fstat(place).st_mode) & _RIGHTS != _RIGHTS:
            # chmod(2) takes no O_PATH descriptor but by this path (open(2)).
            Path(f"/proc/self/fd/{place}").chmod(_RIGHTS)
        return os.open(".", os.O_RDONLY | _DIRECTORY, dir_fd=place)
    finally:
        os.close(place)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _listed(fd: int) -> tuple[list[str], list[str]]:
    """Return the names in a directory: files, then directories."""
    files: list[str] = []
    directories: list[str] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            is_directory = entry.is_dir(follow_symlinks=False)
            (directories if is_directory else files).append(entry.name)
    return files, directories
