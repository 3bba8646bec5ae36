"""Files on their way in: written without a name, shown when they are complete.

Programs in the sandbox write by it, and the jailed program of a session child among the
user's own files; a new document checks by it for room.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from functools import partial
from io import BufferedReader
from typing import TYPE_CHECKING

from shims.files.progress import Bar
from shims.files.protocol import (
    COPY_BYTES,
    FULL,
    NoRoomError,
    TransferError,
    check_path,
    read_message,
    size_of,
)
from shims.files.syscalls import errno_of_call

if TYPE_CHECKING:
    import ctypes
    from typing import Callable, Dict, List, Optional, Tuple

KEEP_FREE_BYTES = 100 << 20
STAGING = ".vitrail-"
STAGED = re.compile(r"\.vitrail-[0-9a-f]{16}")  # no other directory is ours to remove
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
ROOM_BYTES = 16 << 20  # of small files, between two looks at the free space
BLOCK_BYTES = 4096
UNNAMED = 16  # files of one transfer that are open until its end
ORIGIN_ATTRIBUTE = "user.xdg.origin.url"
SYS_OPENAT2 = 437
# guard: no link below
RESOLVE = 0x08 | 0x04 | 0x02  # BENEATH, NO_SYMLINKS, NO_MAGICLINKS


class EntryStore:
    """Keeps entries in a directory: never overwrites, shows nothing unfinished.

    Single files are written without a name (O_TMPFILE) and linked at the end.
    Directories, and many files, are built in our hidden directory and
    renamed out of it; what a killed process has left there is removed by the next.
    Everything is opened relative to a descriptor, never through a link.
    """

    def __init__(
        self,
        top: str,
        origin: str,
        keep_free: int = KEEP_FREE_BYTES,
        bar: Optional[Bar] = None,
    ) -> None:
        self._bar = bar
        os.makedirs(top, mode=0o700, exist_ok=True)
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._origin = origin
        self._keep_free = keep_free
        self._staging = ""
        self._lock = -1
        self._calls: Optional[ctypes.CDLL] = None
        self._roomy = 0
        """Free bytes of the last look that no file has taken yet."""
        self._known: Dict[Tuple[str, ...], int] = {}
        self._buffer = bytearray(COPY_BYTES)
        self._unnamed: List[Tuple[int, str]] = []
        self.kept: List[str] = []
        """Names in the directory, once ``finish`` has returned."""
        self._sweep()

    @property
    def folder(self) -> int:
        """The descriptor of the directory that entries are kept in."""
        return self._top

    def directory(self, path: List[str]) -> None:
        """Make a directory."""
        check_path(path)
        parent = self._parent(path)
        os.mkdir(path[-1], 0o700, dir_fd=parent)

    def file(self, path: List[str], size: int, source: BufferedReader) -> None:
        """Write an entry's file of ``size`` bytes, read from ``source``."""
        check_path(path)
        self._room(size)
        fd = self._unnamed_file() if len(path) == 1 else -1
        if fd >= 0:
            self._unnamed.append((fd, path[0]))
            self._fill(fd, size, source)
            mark(fd, self._origin)
            return
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        fd = os.open(path[-1], flags, 0o600, dir_fd=self._parent(path))
        try:
            self._fill(fd, size, source)
            mark(fd, self._origin)
        finally:
            os.close(fd)

    def _unnamed_file(self) -> int:
        """Return a file without a name, or -1: there are many, or it cannot be.

        Overlay file systems before Linux 6.3 have none.
        """
        if len(self._unnamed) >= UNNAMED:
            return -1
        try:
            return os.open(
                ".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._top
            )
        except OSError as error:
            if error.errno in NO_TMPFILE:
                return -1
            raise

    def finish(self) -> List[str]:
        """Make all entries visible; return the names that they got."""
        for fd, name in self._unnamed:
            self.kept.append(self._unused(name, partial(self._link, fd)))
            os.close(fd)
        self._unnamed.clear()
        if self._staging:
            for name in sorted(os.listdir(self._known[()])):
                self.kept.append(self._unused(name, partial(self._rename, name)))
        self.close()
        return self.kept

    def close(self) -> None:
        """Remove unfinished files, and close all descriptors."""
        for fd, _ in self._unnamed:
            os.close(fd)
        self._unnamed.clear()
        for fd in self._known.values():
            os.close(fd)
        self._known.clear()
        if self._staging:
            self._remove(self._staging)
            self._staging = ""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    def _remove(self, name: str) -> None:
        """Remove a staged directory with all in it."""
        # A directory that another program has made deep enough stays.
        # guard: a deep directory ends no transfer
        with contextlib.suppress(RecursionError):
            import shutil

            # Through the descriptor: the path may lead elsewhere by now.
            shutil.rmtree(f"/proc/self/fd/{self._top}/{name}", ignore_errors=True)

    def _parent(self, path: List[str]) -> int:
        """Return a descriptor of the directory that an entry goes to."""
        if not self._staging:
            self._begin()
        key = tuple(path[:-1])
        if key not in self._known:
            if len(self._known) > 64:
                for old in [k for k in self._known if k]:
                    os.close(self._known.pop(old))
            self._known[key] = self._beneath(self._known[()], "/".join(key))
        return self._known[key]

    def _begin(self) -> None:
        """Make a directory without a final name, and lock it."""
        self._staging = STAGING + os.urandom(8).hex()
        os.mkdir(self._staging, 0o700, dir_fd=self._top)
        self._known[()] = self._beneath(self._top, self._staging)
        self._lock = os.dup(self._known[()])
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _beneath(self, top: int, path: str) -> int:
        """Open a directory below another one, through no link (openat2(2))."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        how = struct.pack("<QQQ", flags, 0, RESOLVE)
        libc = self._libc()
        fd = libc.syscall(SYS_OPENAT2, top, path.encode(), how, len(how))
        if fd >= 0:
            return int(fd)
        code = errno_of_call()
        if code != errno.ENOSYS:
            raise OSError(code, os.strerror(code), path)
        fd = os.dup(top)
        for name in path.split("/"):
            inner = os.open(name, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        return fd

    def _fill(self, fd: int, size: int, source: BufferedReader) -> None:
        """Copy the bytes of an entry to its file, with progress."""
        left = size
        whole = memoryview(self._buffer)
        while left:
            got = source.readinto(whole[: min(left, COPY_BYTES)])
            if not got:
                raise TransferError("the transfer was interrupted")
            left -= got
            view = whole[:got]
            while view:
                view = view[os.write(fd, view) :]
            if self._bar is not None:
                self._bar.add(got)
            if left and left % (64 << 20) < COPY_BYTES:
                self._room(left)

    def _room(self, size: int) -> None:
        """Raise NoRoomError where a file does not fit.

        Free space is read once for ROOM_BYTES of small files; writes of other programs
        in between are not seen.
        """
        size += BLOCK_BYTES  # a small file takes a block
        if size > self._roomy:
            spare = require_room(self._top, size, self._keep_free)
            self._roomy = size + min(spare, ROOM_BYTES)
        # guard: files that are not looked up use up what was free
        self._roomy -= size

    def _libc(self) -> ctypes.CDLL:
        """Load the system calls that Python lacks, when one is needed."""
        import ctypes

        if self._calls is None:
            self._calls = ctypes.CDLL(None, use_errno=True)
        return self._calls

    def _link(self, fd: int, new: str) -> None:
        link_open_file(fd, new, self._top)

    def _rename(self, name: str, new: str) -> None:
        """Move an entry to its visible name; never over another one."""
        # RENAME_NOREPLACE; os.rename would replace.
        stage, top = self._known[()], self._top
        libc = self._libc()
        # guard: nothing is replaced
        if libc.renameat2(stage, name.encode(), top, new.encode(), 1) != 0:
            code = errno_of_call()
            raise OSError(code, os.strerror(code), new)

    def _unused(self, name: str, make: Callable[[str], None]) -> str:
        """Call ``make`` with this name or a numbered one; return the unused one."""
        stem, dot, ending = (
            name.partition(".") if not name.startswith(".") else (name, "", "")
        )
        for number in range(1000):
            new = name if not number else f"{stem} ({number}){dot}{ending}"
            try:
                make(new)
            except FileExistsError:
                continue
            return new
        raise TransferError(f"the directory already contains 1000 files named {name}")

    def _sweep(self) -> None:
        """Remove leftovers of killed processes; a running process holds its lock."""
        for name in os.listdir(self._top):
            # guard: only our directories are swept
            if not STAGED.fullmatch(name):
                continue
            try:
                fd = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._top
                )
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # guard: left-overs of the killed
                self._remove(name)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)


def link_open_file(fd: int, new: str, folder: int) -> None:
    """Link an unnamed file under this name.  Raises FileExistsError, OSError."""
    os.link(f"/proc/self/fd/{fd}", new, dst_dir_fd=folder, follow_symlinks=True)


def require_room(fd: int, size: int, keep_free: int) -> int:
    """Return the free bytes of a file system beyond a reserve.

    Raises NoRoomError where it has less.
    """
    facts = os.fstatvfs(fd)
    spare = facts.f_bavail * facts.f_frsize - size - keep_free
    # guard: room before bytes
    if spare < 0:
        raise NoRoomError(
            f"no disk space for {size} bytes and a reserve of {keep_free}"
        )
    return spare


def mark(fd: int, origin: str) -> None:
    """Record on a file where it comes from, where its file system can do that."""
    try:
        os.setxattr(fd, ORIGIN_ATTRIBUTE, f"vitrail:{origin}".encode())
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC):
            raise


def keep(source: BufferedReader, store: EntryStore) -> List[str]:
    """Store all entries; return their names, or raise and leave nothing."""
    try:
        while True:
            entry = read_message(source)
            if entry["type"] == "end":
                return store.finish()
            if entry["type"] == "dir":
                store.directory(entry.get("path", []))
            elif entry["type"] == "file":
                store.file(entry.get("path", []), size_of(entry), source)
            else:
                raise TransferError(f"unknown type of entry: {entry['type']}")
    except OSError as error:
        kind = NoRoomError if error.errno in FULL else TransferError
        raise kind(f"cannot store the file: {error.strerror}") from error
    finally:
        store.close()
