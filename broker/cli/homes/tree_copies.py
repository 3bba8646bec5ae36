"""Copies of a home that is a directory, whatever its sandbox has made of it.

Its directories may be closed to their owner, and deeper than a path is long
(``core.files.trees``), and so may those of the copy.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.core.files.trees import TreeEvent, walk_tree
from broker.host.homes.sparse import copy_sparse

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory with all in it but pipes, sockets and devices.  Raises OSError.

    Times, modes, attributes, links, holes and hard links are as in the source.
    """
    target.mkdir(mode=0o700)
    modes = [_mode_of(source)]
    writer = os.open(target, _DIRECTORY)
    try:
        with TemporaryDirectory(dir=target.parent) as links:
            for reader, name, event in walk_tree(source, None, unlock=True):
                path = f"/proc/self/fd/{reader}/{name}"
                if event is TreeEvent.FILE:
                    _copy_file(path, f"/proc/self/fd/{writer}/{name}", Path(links))
                    continue
                inner = writer
                if event is TreeEvent.ENTERED:
                    modes.append(_mode_of(path))
                    os.mkdir(name, 0o700, dir_fd=writer)
                    writer = os.open(name, _DIRECTORY, dir_fd=writer)
                else:
                    writer = os.open("..", _DIRECTORY, dir_fd=writer)
                    _close_copy(path, inner, modes.pop())
                os.close(inner)
        _close_copy(os.fspath(source), writer, modes.pop())
    finally:
        os.close(writer)


def _mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def _close_copy(source: str, copy: int, mode: int) -> None:
    """Give a copy what its source has, and both the source's mode of before."""
    shutil.copystat(source, f"/proc/self/fd/{copy}")
    os.fchmod(copy, mode)
    Path(source).chmod(mode)


def _copy_file(source: str, target: str, links: Path) -> None:
    """Copy a file or link; a further name of a copied file becomes a link to the copy."""
    info = os.lstat(source)
    if stat.S_ISLNK(info.st_mode):
        # Path would change the text of a link such as './x'.
        os.symlink(os.readlink(source), target)  # noqa: PTH115, PTH211
        shutil.copystat(source, target, follow_symlinks=False)
    # guard: a copy of a home opens no pipe
    if not stat.S_ISREG(info.st_mode):
        return
    copied = links / f"{info.st_dev}-{info.st_ino}"
    # guard: a copy of a home has files of several names once
    if copied.exists():
        try:
            os.link(copied, target)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            copied.rename(target)
        return
    mode = stat.S_IMODE(info.st_mode)
    # guard: a file that is closed to its owner is copied
    if not mode & stat.S_IRUSR:
        Path(source).chmod(mode | stat.S_IRUSR)
    with ExitStack() as files:
        reader = os.open(source, _FILE)
        files.callback(os.close, reader)
        writer = os.open(target, _NEW, 0o600)
        files.callback(os.close, writer)
        # guard: a copy of a home has its holes
        copy_sparse(reader, writer)
        _close_copy(source, writer, mode)
    if info.st_nlink > 1:
        os.link(target, copied)
