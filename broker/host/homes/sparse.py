"""Copies of sparse files: holes stay holes, and blocks are shared where possible.

A home of 10 GiB with 200 MiB in it is copied as 200 MiB.  On file systems with
reflinks (btrfs, XFS) nothing is copied at all: ioctl_ficlone(2).

brokerctl copies homes for snapshots and backups by this, the host disks of machines
from a parent.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator

FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_PIECE = 8 << 20
_PAGE = 4096
_ZEROS = bytes(_PAGE)

Progress = Callable[[int, int], None]
"""Called with the bytes that are done, and those that there are."""


def no_progress(_done: int, _total: int) -> None:
    """Report nothing."""


def copy_sparse(source: int, target: int, progress: Progress = no_progress) -> None:
    """Copy a regular file into an empty one, keeping its holes; both stay open.

    Returns when the bytes are in the page cache: the caller calls fsync.
    Raises OSError, as when the disk is full.
    """
    size = os.fstat(source).st_size
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_REFLINK:
            raise
    else:
        progress(size, size)
        return
    os.ftruncate(target, size)
    # Twice, because a sandbox can make any number of holes in a file of its home.
    total = sum(end - start for start, end in data_ranges(source))
    done = 0
    for start, end in data_ranges(source):
        at = start
        while at < end:
            count = _copy(source, target, at, min(_PIECE, end - at))
            at += count
            done += count
            progress(done, total)


def copy_without_zeros(source: int, target: int) -> None:
    """Copy a file into an empty one; pages of zeros become holes.

    Raises OSError, as when the disk is full.
    """
    os.ftruncate(target, os.fstat(source).st_size)
    for start, end in data_ranges(source):
        for at in range(start, end, _PIECE):
            data = os.pread(source, min(_PIECE, end - at), at)
            view = memoryview(data)
            for first, last in _filled_pages(data):
                _write(target, view[first:last], at + first)


def _filled_pages(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of pages that are not all zeros."""
    begin = -1
    for at in range(0, len(data), _PAGE):
        # Slices of bytes: those of a memoryview are compared byte by byte.
        if data[at : at + _PAGE] == _ZEROS[: len(data) - at]:
            if begin >= 0:
                yield begin, at
            begin = -1
        elif begin < 0:
            begin = at
    if begin >= 0:
        yield begin, len(data)


_NO_REFLINK = (
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
    errno.ETXTBSY,
)


def _copy(source: int, target: int, offset: int, count: int) -> int:
    """Copy one piece of a file; return its length, which is never 0."""
    data = os.pread(source, count, offset)
    if not data:
        raise OSError(errno.EIO, "the file was truncated while it was being copied")
    _write(target, memoryview(data), offset)
    return len(data)


def _write(target: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(target, view[written:], offset + written)


def data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the data between holes, in order; lseek(2) SEEK_DATA."""
    end = 0
    size = os.fstat(fd).st_size
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
