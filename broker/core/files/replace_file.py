"""Replacement of a whole file: a reader finds the old content or the new one.

Also after a power cut, and beside another writer of the same file.

Each process that keeps files of its own writes them by this: authority, host, viewer,
session children, shipper and brokerctl.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write ``content`` in place of ``path``, as ``whole_file`` does.  Raises OSError."""
    with whole_file(path, mode=mode) as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(
    path: Path, *, mode: int = 0o600, replace: bool = True
) -> Iterator[BinaryIO]:
    """Yield a file that becomes ``path`` at the end of the block; then on disk.

    A symbolic link at ``path`` is replaced, not followed.  ``mode`` is the file's,
    whatever the umask is.  The directory must exist.  Raises OSError, and
    FileExistsError where ``path`` exists and is not to be replaced; ``path`` is then
    as it was, as it is when the block raises.
    """
    if not path.name:  # such as '/'
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # A separate name, so that two writers do not mix their bytes, and a name that
    # cannot be guessed: the directory may be another user's, too.
    fresh = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        fd = os.open(fresh, _FLAGS, 0o600)
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            yield file
            file.flush()
            os.fsync(fd)
        if replace:
            fresh.replace(path)
        else:
            # rename(2) would replace; a link is refused where the name is taken.
            os.link(fresh, path, follow_symlinks=False)
    finally:
        fresh.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a directory's entries to disk.  Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
