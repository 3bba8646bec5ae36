"""Operating system interface of the Wayland filter: files and pipes.

A file that a sandbox has never reaches the compositor.  If it shrank while it is
mapped, the compositor would get SIGBUS; if the sandbox punched a hole into it, the
compositor would sleep in the kernel, without a signal, for as long as the punch takes
(``shmem_fault`` waits for it), which is minutes for a file that the sandbox has mapped
thousands of times.  A seal (fcntl(2), F_SEAL_FUTURE_WRITE) forbids both, and what
honest applications do besides: foot punches, cursor themes map their pool again, most
toolkits have closed their files to further seals; and setting it waits for the same
lock of the inode.

So our memfd takes the file's place, into which the client's bytes are read at
each commit.  Reading (not mapping) it means that a truncated file is a short read, that
a page that is gone is not waited for, and that only tmpfs is ever read: a FUSE file
could block us forever.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
import stat
from collections import OrderedDict
from collections.abc import Iterable
from time import perf_counter

from typing_extensions import override

from broker.core import limits
from broker.core.files.tmpfs import on_tmpfs
from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as wayland_limits
from broker.jail.wayland.ports import GpuMemory, OperatingSystem, Paint, PoolFile
from broker.jail.worker.wayland.dmabuf import DmaBuf

_SEALS = fcntl.F_SEAL_SHRINK
_ALL_SEALS = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)
_PART = 1 << 20
"""Bytes: the piece in which a copy's memory is counted and given back."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(untrusted_fd: int, size: int) -> None:
    """Raise ValueError unless it is a large enough read-write file on tmpfs."""
    flags = fcntl.fcntl(untrusted_fd, fcntl.F_GETFL)
    if flags & os.O_PATH or flags & os.O_ACCMODE != os.O_RDWR:
        raise ValueError("the file is not open for reading and writing")
    # guard: shared memory on tmpfs
    if not on_tmpfs(untrusted_fd):
        raise ValueError("the file is not on tmpfs")
    status = os.fstat(untrusted_fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("the file is not a regular file")
    if status.st_size < size:
        raise ValueError(f"the file has {status.st_size} bytes; {size} were declared")


def _read(fd: int, size: int) -> bytes | None:
    """Read the compositor's file, not mapped, as it may be of any kind; close it."""
    try:
        return os.pread(fd, size, 0)
    except OSError:
        return None
    finally:
        os.close(fd)


def _is_socket(untrusted_fd: int) -> bool:
    """Return whether a descriptor is a socket; asks no file system."""
    kind = ctypes.c_int()
    size = ctypes.c_uint(ctypes.sizeof(kind))
    answer = _libc.getsockopt(
        untrusted_fd,
        socket.SOL_SOCKET,
        socket.SO_TYPE,
        ctypes.byref(kind),
        ctypes.byref(size),
    )
    return bool(answer == 0)


def _parts(offset: int, length: int) -> range:
    """Return the numbers of the parts in which these bytes are."""
    return range(offset // _PART, (offset + length - 1) // _PART + 1)


class CopiedFile(PoolFile):
    """Our memfd in the place of a client's file."""

    def __init__(self, fd: int, size: int, machine: RealMachine) -> None:
        self._source = fd
        self._machine = machine
        self._size = 0
        self._copy = os.memfd_create(
            "vitrail-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )
        self._map: mmap.mmap | None = None
        self._parts: OrderedDict[int, None] = OrderedDict()
        self._given_back = 0
        try:
            self._resize_copy(size)
            fcntl.fcntl(self._copy, fcntl.F_ADD_SEALS, _SEALS)
        except (OSError, ValueError):
            os.close(self._copy)
            raise

    def _resize_copy(self, size: int) -> None:
        """Set the size of our copy of the client's file, and map it again."""
        self._size = size
        os.ftruncate(self._copy, size)
        if self._map is not None:
            self._map.close()
        self._map = mmap.mmap(self._copy, size)

    @override
    def export(self) -> int:
        # guard: the compositor maps our copy
        return fcntl.fcntl(self._copy, fcntl.F_DUPFD_CLOEXEC, 0)

    @override
    def grow(self, size: int) -> None:
        if os.fstat(self._source).st_size < size:
            raise ValueError("the file has not grown")
        self._resize_copy(size)

    @override
    def keep(
        self, offset: int, length: int, shown: Iterable[tuple[int, int]] = ()
    ) -> int:
        """Account for the memory that a buffer uses; give back old memory.

        Pools are sparse (foot's has 512 MiB), so the declared size means
        nothing.  Toolkits reuse the last few buffers: a part that was not shown
        recently is given back, unless a surface still shows it.
        """
        assert self._map is not None
        for part in _parts(offset, length):
            if part in self._parts:
                self._parts.move_to_end(part)
            else:
                self._machine.charge(_PART)
                self._parts[part] = None
        least = (length // _PART + 2) * 2
        most = max(limits.WAYLAND_COPIED_BYTES_PER_POOL // _PART, least)
        if len(self._parts) <= most:
            return self._given_back
        # A compositor that draws a hole again makes memory of it, which nothing counts.
        # guard: what is shown is not given back
        held = set(_parts(offset, length))
        end = 0  # each part once: buffers of many surfaces may overlap
        for parts in sorted((_parts(*one) for one in shown), key=lambda one: one.start):
            held.update(range(max(parts.start, end), parts.stop))
            end = max(end, parts.stop)
        old = [part for part in self._parts if part not in held]
        for part in old[: len(self._parts) - most]:
            del self._parts[part]
            start = part * _PART
            self._map.madvise(mmap.MADV_REMOVE, start, min(_PART, self._size - start))
            self._machine.charge(-_PART)
            self._given_back += 1
        return self._given_back

    @override
    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._source, length, offset)
        # guard: shrunk files noticed by who reads them
        if len(data) != length:
            raise ValueError("the file was truncated")
        return data

    @override
    def refresh(self, offset: int, length: int) -> None:
        """Copy a part of the client's file again."""
        assert self._map is not None
        with memoryview(self._map) as whole, whole[offset : offset + length] as part:
            done = 0
            while done < length:
                with part[done:] as rest:
                    got = os.preadv(self._source, [rest], offset + done)
                if not got:
                    # guard: shrunk files noticed
                    raise ValueError("the file was truncated")
                done += got

    @override
    def close(self) -> None:
        """Close the client's file and the copy."""
        if self._source >= 0:
            os.close(self._source)
            self._source = -1
            if self._map is not None:
                self._map.close()
            os.close(self._copy)
            self._machine.charge(-_PART * len(self._parts))
            self._parts.clear()


class PaintFile(Paint):
    """Our pixels."""

    def __init__(self) -> None:
        self._fd = os.memfd_create(
            "vitrail-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )

    @override
    def export(self) -> int:
        return fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 0)

    @override
    def grow(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    @override
    def write(self, offset: int, data: bytes) -> None:
        with memoryview(data) as rest:
            done = 0
            while done < len(rest):
                done += os.pwrite(self._fd, rest[done:], offset + done)

    @override
    def seal(self) -> None:
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _ALL_SEALS)

    @override
    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RealMachine(OperatingSystem):
    """The operating system for all connections of one sandbox.

    Descriptors are plain numbers.  ``copied`` counts our bytes that
    take the place of clients' files.
    """

    def __init__(self) -> None:
        self.copied = 0

    def charge(self, size: int) -> None:
        """Count copied memory.  Raises ValueError at the limit."""
        if self.copied + size > limits.WAYLAND_COPIED_BYTES:
            raise ValueError("the sandbox has too many pixels in shared memory")
        self.copied += size

    @override
    def admit_pool(self, untrusted_fd: int, size: int) -> PoolFile:
        """Check a client's pool and map a copy.  Raises ValueError."""
        try:
            _check(untrusted_fd, size)
            return CopiedFile(untrusted_fd, size, self)
        except (OSError, ValueError) as error:
            os.close(untrusted_fd)
            raise ValueError(str(error)) from error

    @override
    def admit_dmabuf(self, untrusted_fd: int) -> GpuMemory:
        try:
            return DmaBuf(untrusted_fd)
        except (OSError, ValueError) as error:
            os.close(untrusted_fd)
            raise ValueError(str(error)) from error

    @override
    def admit_pipe(self, untrusted_fd: int) -> bool:
        """Return whether a descriptor is a pipe or a socket; asks the kernel only."""
        try:
            fcntl.fcntl(untrusted_fd, fcntl.F_GETPIPE_SZ)
        except OSError:
            return _is_socket(untrusted_fd)
        return True

    @override
    def stopwatch(self) -> float:
        return perf_counter()

    @override
    def paint(self) -> Paint:
        return PaintFile()

    @override
    def read_keymap(self, fd: int, size: int) -> bytes | None:
        return _read(fd, min(size, clipboard_limits.CLIPBOARD_KEYMAP_BYTES + 1))

    @override
    def read_table(self, fd: int, size: int) -> bytes | None:
        return _read(fd, min(size, wayland_limits.WAYLAND_FORMAT_TABLE_BYTES))

    @override
    def copy_keymap(self, fd: int, size: int) -> tuple[int, int]:
        """Copy the compositor's keymap into a sealed file for one client.

        The compositor's own is one file for all clients (wlroots 0.15), and a
        read-only descriptor of it is not a barrier: a client opens it for writing by
        /proc/self/fd, and changes or truncates what every program has mapped.
        """
        data = self.read_keymap(fd, size) or b""
        copy = os.memfd_create("vitrail-keymap", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with memoryview(data) as rest:
                done = 0
                while done < len(rest):
                    done += os.pwrite(copy, rest[done:], done)
            # guard: a keymap's copy is sealed
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _ALL_SEALS)
        except BaseException:
            os.close(copy)
            raise
        return copy, len(data)

    @override
    def close(self, fd: int) -> None:
        os.close(fd)
