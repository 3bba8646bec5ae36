"""Content between supervisor and worker: an immutable file in memory.

memfd_create(2), sealed (fcntl(2)) against writing, growing, shrinking and
further seals.  Its checked properties stay true while it is read, and
reading it never waits for a process: only the kernel provides it.

Viewer and worker exchange content by it, and the viewer, the host and brokerctl other
content of theirs.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterable, Iterator

import trio

from broker.core.errors import PeerError
from broker.core.files.tmpfs import on_tmpfs
from broker.core.limits import clipboard as limits

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def new_file() -> int:
    """An empty one, to be written and then sealed by ``seal``."""
    return os.memfd_create("vitrail-content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal(fd: int) -> None:
    """Seal the file: it is immutable from now on."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)


def file_to_fill(size: int) -> int:
    """Create a memory file of fixed size, which a worker fills with ``size`` bytes.

    It cannot be made larger or smaller, so that its size need not be
    trusted; its content may change until it has been read.
    """
    fd = new_file()
    try:
        # Not by ftruncate(2), which would cut the broker's log, too.
        if size:
            os.pwrite(fd, b"\0", size - 1)
        fixed = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        # guard: a worker's content has a size
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fixed)
    except BaseException:
        os.close(fd)
        raise
    return fd


def append(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of it at a place.  Raises OSError when memory is out."""
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            done += os.pwrite(fd, rest[done:], at + done)


def sealed(parts: Iterable[bytes]) -> int:
    """Create a sealed memory file of these parts; return its descriptor."""
    fd = new_file()
    try:
        at = 0
        for part in parts:
            append(fd, part, at)
            at += len(part)
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check(untrusted_fd: int, size: int) -> None:
    """Raise PeerError unless a descriptor is a sealed memory file of exactly this size.

    Asks the kernel alone: a file on FUSE could block us forever, and only
    files of tmpfs (and of huge pages) have seals.
    """
    # guard: content is in memory
    if not on_tmpfs(untrusted_fd):
        raise PeerError("the content's file is not in memory")
    # guard: content is sealed
    if fcntl.fcntl(untrusted_fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise PeerError("the content's file is not sealed")
    # guard: content has its announced size
    if os.fstat(untrusted_fd).st_size != size:
        raise PeerError("the content's file does not have the announced size")


def pieces(fd: int, start: int, size: int) -> Iterator[bytes]:
    """Yield a part of a sealed file, piece by piece.

    Raises PeerError when there is less.
    """
    end = start + size
    while start < end:
        data = os.pread(fd, min(limits.CLIPBOARD_READ_BYTES, end - start), start)
        if not data:
            raise PeerError("the content's file ends too early")
        start += len(data)
        yield data


async def take(untrusted_fd: int, size: int) -> bytes:
    """Check a sealed file's size and seals; return its content.

    Other tasks get their turn meanwhile.  Raises PeerError.
    """
    check(untrusted_fd, size)
    return await copy(untrusted_fd, size)


async def copy(fd: int, size: int) -> bytes:
    """Read the first ``size`` bytes of a memory file of the broker's or a checked one.

    Other tasks get their turn meanwhile.  Raises PeerError when there is less.
    """
    # It gives its buffer away: tens of megabytes are there only once.
    found = io.BytesIO()
    for data in pieces(fd, 0, size):
        found.write(data)
        await trio.lowlevel.checkpoint()
    return found.getvalue()
