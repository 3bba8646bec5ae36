"""Parents on disk: ``parents/RECORD/`` with ``memory``, ``state``, ``meta.json``.

One for each record.  A parent is made in a directory beside it and takes effect by
one rename; it is removed when its key or its age is no longer right.  Machines that
were copied from it have their own memory and need it no more.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.files.trees import remove_tree

MEMORY = "memory"
STATE = "state"
_META = "meta.json"
_NEW = ".new-"


class _Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    made: float
    memory: int
    state: int


@dataclass(frozen=True)
class StoredParent:
    """A parent that can be copied."""

    directory: Path
    key: str
    made: float
    """Seconds since 1970."""

    @property
    def memory(self) -> Path:
        """The guest's memory: a sparse file, 0400."""
        return self.directory / MEMORY

    @property
    def state(self) -> Path:
        """The state of its devices, as QEMU's migration writes it; 0400."""
        return self.directory / STATE

    def open(self, name: str) -> int:
        """Return a descriptor of ``MEMORY`` or ``STATE``, for reading.

        Raises UpstreamError when another parent has taken this one's place,
        OSError when none exists any more.
        """
        place = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = os.open(_META, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
            with os.fdopen(fd, "rb") as file:
                meta = msgspec.json.decode(file.read(), type=_Meta)
            # guard: a copy is one of the parent that was found
            if (meta.key, meta.made) != (self.key, self.made):
                raise UpstreamError("another process replaced the parent machine")
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
        except (ValueError, RecursionError) as error:
            raise UpstreamError(f"cannot read the parent machine: {error}") from error
        finally:
            os.close(place)


class ParentStore:
    """Parents below one directory.  Methods block: call them in a thread."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(
        self, record: str, key: str, now: float
    ) -> tuple[StoredParent | None, str]:
        """Return the parent of a record, or None and why none exists.

        A parent of another key or age, or that is not whole, is removed.
        """
        directory = self.root / record
        try:
            meta = msgspec.json.decode((directory / _META).read_bytes(), type=_Meta)
            sizes = [(directory / n).stat().st_size for n in (MEMORY, STATE)]
        except FileNotFoundError:
            why = "no parent machine exists yet"
        except (OSError, ValueError, RecursionError) as error:
            why = f"cannot read the parent machine: {error}"
        else:
            why = _stale(meta, key, now, sizes)
            if not why:
                return StoredParent(directory, meta.key, meta.made), ""
        self.drop(record)
        return None, why

    def drop(self, record: str) -> None:
        """Remove a record's parent, if it has one."""
        remove_tree(self.root / record)

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Yield a directory to make a parent in; remove it unless it was published."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.root))
        try:
            yield room
        finally:
            remove_tree(room)

    def publish(self, room: Path, record: str, key: str, now: float) -> StoredParent:
        """Make a prepared directory the parent of a record, in place of the old."""
        sizes = []
        for name in (MEMORY, STATE):
            (room / name).chmod(0o400)
            sizes.append((room / name).stat().st_size)
        meta = _Meta(key, now, *sizes)
        (room / _META).write_bytes(msgspec.json.encode(meta))
        target = self.root / record
        while True:
            self.drop(record)
            try:
                room.rename(target)
            except OSError as error:
                # Another broker of this user has made one meanwhile.
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                continue
            return StoredParent(target, key, now)

    def sweep(self, now: float) -> None:
        """Remove parents that are too old, and unfinished ones of killed brokers.

        By age, because another broker of this user may be making one.
        """
        for path in self.root.glob("*/"):
            half = path.name.startswith(_NEW)
            age = limits.PARENT_MAKE_SECONDS * 2 if half else limits.PARENT_SECONDS
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > age:
                    remove_tree(path)

    def disk_bytes(self) -> int:
        """Return the disk space of all parents in bytes, holes not counted."""
        total = 0
        for path in self.root.rglob("*"):
            with suppress(FileNotFoundError):
                total += path.lstat().st_blocks * 512
        return total


def _stale(meta: _Meta, key: str, now: float, sizes: list[int]) -> str:
    """Return why a stored parent must not be used; empty if it may be."""
    # guard: a parent of another key is not used
    if meta.key != key:
        return "the parent machine has another image, QEMU version or record"
    if not 0 <= now - meta.made <= limits.PARENT_SECONDS:
        return "the parent machine is more than a day old"
    # guard: a truncated parent is not used
    if sizes != [meta.memory, meta.state]:
        return "the parent machine's files are truncated"
    return ""


def program_identity(path: Path) -> str:
    """Return a text that changes when a package replaces a program."""
    real = path.resolve()
    found = real.stat()
    parts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return f"{real} {' '.join(map(str, parts))}"
