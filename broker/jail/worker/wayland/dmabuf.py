"""Memory of a graphics driver, as clients pass it: its kind, size, and readiness.

Nothing of it is read or mapped here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import stat
import struct

from typing_extensions import override

from broker.core.files.tmpfs import filesystem_of
from broker.core.limits import wayland as limits
from broker.jail.wayland.ports import GpuMemory

_DMA_BUF_MAGIC = 0x444D4142
"""``f_type`` of dma-bufs ("DMAB" in linux/magic.h)."""
_AT_EMPTY_PATH, _DONT_SYNC, _STATX_BASIC = 0x1000, 0x4000, 0x7FF
_STATX_BYTES = 256
_MODE_AND_INODE, _MODE_AT = struct.Struct("=HxxQ"), 28
"""In struct statx (statx(2))."""

_libc = ctypes.CDLL(None, use_errno=True)


def _driver_file(untrusted_fd: int) -> int:
    """Return the inode number of a file of the kernel's own.  Raises ValueError.

    It is not asked of a file system: FUSE waits for its server in fstat(2), but not with
    AT_STATX_DONT_SYNC.  Files on file systems have a type, dma-bufs have none.
    """
    found = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_EMPTY_PATH | _DONT_SYNC
    done = _libc.statx(untrusted_fd, b"", flags, _STATX_BASIC, found)
    mode, inode = _MODE_AND_INODE.unpack_from(found, _MODE_AT)
    # guard: no file system is asked what a GPU buffer is
    if done != 0 or stat.S_IFMT(mode):
        raise ValueError("not a dma-buf")
    return int(inode)


class DmaBuf(GpuMemory):
    """Memory that a driver of the kernel's made: it cannot be cut, and has no holes."""

    def __init__(self, untrusted_fd: int) -> None:
        self._fd = untrusted_fd
        self._number = _driver_file(untrusted_fd)
        # guard: a GPU buffer is a dma-buf
        if filesystem_of(untrusted_fd) != _DMA_BUF_MAGIC:
            raise ValueError("not a dma-buf")
        # An O_PATH descriptor has no size.
        self._size = os.lseek(untrusted_fd, 0, os.SEEK_END)
        # guard: dma-bufs bounded
        if not 0 < self._size <= limits.WAYLAND_POOL_BYTES:
            raise ValueError(f"invalid dma-buf size: {self._size} bytes")
        self._poll = select.poll()
        self._poll.register(untrusted_fd, select.POLLIN)

    @property
    @override
    def size(self) -> int:
        return self._size

    @property
    @override
    def number(self) -> int:
        return self._number

    @override
    def fileno(self) -> int:
        return self._fd

    @override
    def drawn(self) -> bool:
        return bool(self._poll.poll(0))

    @override
    def export(self) -> int:
        return fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 0)

    @override
    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
