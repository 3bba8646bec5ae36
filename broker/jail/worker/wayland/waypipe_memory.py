"""Memory of the pools of a sandbox whose display stream we decode.

Each pool is our memfd, sealed against shrinking from its beginning, so
the compositor may map it: no process in the sandbox ever holds it.  It is our
memory, though, and the memory really used by the sparse files is counted.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence

from typing_extensions import override

from broker.core.errors import InternalError
from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.ports import PoolFile
from broker.jail.wayland.waypipe.ports import Arena, Memory, WaypipeFile
from broker.jail.worker.wayland.files_and_pipes import RealMachine

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
ARENA_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PART = 1 << 20
"""Bytes that are filled at a time where a buffer has holes."""
_BLOCK = 512
"""Bytes in one of ``st_blocks`` (stat(2))."""


class StreamMachine(RealMachine, Memory):
    """The operating system for the streams of one sandbox."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = 0

    def charge_touched(self, size: int) -> None:
        """Count memory of mirrored files.  Raises ValueError at the limit."""
        # guard: memory of a sandbox
        if size > 0 and self.touched + size > waypipe_limits.WAYPIPE_TOUCHED_BYTES:
            raise ValueError(
                f"the windows of this sandbox use {(self.touched + size) >> 20} MiB; the limit "
                f"is {waypipe_limits.WAYPIPE_TOUCHED_BYTES >> 20}"
            )
        self.touched += size

    # -- for the wire ------------------------------------------------------------

    @override
    def file(self, size: int) -> StreamFile:
        try:
            return StreamFile(size, self)
        except OSError as error:
            raise ValueError(error.strerror) from error

    @override
    def pipe(self) -> tuple[int, int]:
        try:
            return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ValueError(error.strerror) from error

    @override
    def discard(self, fd: object) -> None:
        if isinstance(fd, StreamFile):
            fd.give_up()
        else:
            assert isinstance(fd, int)
            os.close(fd)

    # -- for the filter ------------------------------------------------------------

    @override
    def admit_pool(self, untrusted_fd: object, size: int) -> PoolFile:
        """Check a file of the stream and return it as a client's pool.

        Raises ValueError.
        """
        # guard: pools are files of the stream
        if not isinstance(untrusted_fd, StreamFile):
            self.discard(untrusted_fd)
            raise ValueError("the descriptor is not a file of this stream")  # noqa: TRY004 - the port says so
        # guard: pools have their size
        if len(untrusted_fd.view) < size:
            had = len(untrusted_fd.view)
            untrusted_fd.give_up()
            raise ValueError(f"the file has {had} bytes, but {size} were declared")
        return StreamPool(untrusted_fd)

    @override
    def admit_pipe(self, untrusted_fd: object) -> bool:
        return isinstance(untrusted_fd, int) and super().admit_pipe(untrusted_fd)

    @override
    def close(self, fd: object) -> None:
        self.discard(fd)


class StreamFile(WaypipeFile):
    """A file of the application, mirrored in a memfd.

    ``close`` is the stream's end: it writes no more.  ``give_up`` is the filter's, and
    frees the memory; until then a closed stream's pools stay shown.
    """

    def __init__(self, size: int, machine: StreamMachine) -> None:
        self._machine = machine
        self._charged = 0
        self._fd = os.memfd_create(
            "vitrail-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )
        self._map: mmap.mmap | None = None
        self._view = memoryview(bytearray())
        self._shown: set[int] = set()
        """Parts of _PART bytes that the compositor may have read."""
        try:
            self._resize(size)
            # guard: pools cannot shrink
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            self.give_up()
            raise

    def _resize(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._unmap()
        if size:
            self._map = mmap.mmap(self._fd, size)
            self._view = memoryview(self._map)

    def _unmap(self) -> None:
        self._view.release()
        self._view = memoryview(bytearray())
        if self._map is not None:
            self._map.close()
            self._map = None

    @property
    @override
    def view(self) -> memoryview:
        return self._view

    @property
    @override
    def closed(self) -> bool:
        return self._fd < 0

    @override
    def grow(self, size: int) -> None:
        try:
            self._resize(size)
        except OSError as error:
            raise ValueError(error.strerror) from error

    @override
    def account(self) -> None:
        if self._charged >= len(self._view):
            return  # all of it is there: a window's buffer, after its first frame
        self._recount()

    def _recount(self) -> None:
        behind = os.fstat(self._fd).st_blocks * _BLOCK
        if behind != self._charged:
            self._machine.charge_touched(behind - self._charged)
            self._charged = behind

    def show(self, offset: int, length: int) -> None:
        """Fill holes of a range that the compositor is about to read.

        Reading a hole through a mapping makes a page of it (shmem, tmpfs(5)), so
        a guest would get our memory that is counted nowhere by showing
        buffers into which it never wrote.  Raises ValueError at the limit.
        """
        size = len(self._view)
        end = min(offset + length, size)
        if self._charged >= size or offset >= end:
            return
        for part in range(offset // _PART, (end - 1) // _PART + 1):
            if part not in self._shown:
                start = part * _PART
                self._fill(start, min(_PART, size - start))
                self._shown.add(part)

    def _fill(self, start: int, length: int) -> None:
        """Charge and touch a part of the file's memory."""
        # Before the memory is taken; exact afterwards.
        self._machine.charge_touched(length)
        self._charged += length
        # A write to each page; the jail has no fallocate(2), and needs none.
        view = self._view
        for at in range(start, start + length, mmap.PAGESIZE):
            view[at] = view[at]
        self._recount()

    @override
    def close(self) -> None:
        """Unmap it.  The memfd stays for its pools until ``give_up``."""
        self._unmap()

    def export(self) -> int:
        """A separate descriptor for the compositor."""
        return fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 0)

    def give_up(self) -> None:
        """Free the file's memory; the compositor may still map it."""
        if self._fd >= 0:
            self._unmap()
            os.close(self._fd)
            self._fd = -1
            self._machine.charge_touched(-self._charged)
            self._charged = 0


class ArenaFile(Arena):
    """A sandbox's arena: a memfd that its VMM has, too, sealed against other sizes.

    Read, never mapped: a VMM that was taken over punches holes into it, and a mapping of
    it would wait for that in the kernel (see ``machine``).  Neither is the compositor
    given it, but the files above, for the same reason.
    """

    def __init__(self, fd: int) -> None:
        """Take ownership of ``fd``.  Raises InternalError unless it is an arena."""
        self._fd = fd
        # guard: an arena is sealed
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & ARENA_SEALS != ARENA_SEALS:
            self.close()
            raise InternalError("the arena is not sealed")
        self._size = os.fstat(fd).st_size

    @property
    @override
    def size(self) -> int:
        return self._size

    @override
    def read(self, into: Sequence[memoryview], base: int) -> None:
        """Read from the arena into buffers.  Raises ValueError."""
        try:
            got = os.preadv(self._fd, into, base)
        except OSError as error:
            raise ValueError(error.strerror) from error
        # None of our sizes can be short, and no signal cuts a read of memory.
        if got != sum(map(len, into)):
            raise ValueError("the data is truncated")

    @override
    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StreamPool(PoolFile):
    """A ``StreamFile`` as the memory pool that the Wayland filter works with."""

    def __init__(self, file: StreamFile) -> None:
        self._file = file

    @override
    def export(self) -> int:
        return self._file.export()

    @override
    def grow(self, size: int) -> None:
        if len(self._file.view) < size:
            # guard: pools grow with their files
            raise ValueError("the file has not grown")

    @override
    def keep(
        self, offset: int, length: int, shown: Iterable[tuple[int, int]] = ()
    ) -> int:
        """Give nothing back."""
        return 0

    @override
    def read(self, offset: int, length: int) -> bytes:
        data = bytes(self._file.view[offset : offset + length])
        if len(data) != length:
            raise ValueError("the stream closed the file")
        return data

    @override
    def refresh(self, offset: int, length: int) -> None:
        """Copy nothing: the compositor maps the very pages that the stream writes."""
        # guard: holes that are shown are filled
        self._file.show(offset, length)

    @override
    def close(self) -> None:
        self._file.give_up()
