"""The directory of sandboxes' homes, changed by renames alone.

::

    homes/NAME/current/      the home in use: ``disk`` (a micro VM's ext4) or
                             ``tree`` (a directory, for launchers that share our
                             kernel); ``meta.json``
    homes/NAME/snapshots/S/  the same, kept
    homes/.locks/NAME        flock(2): held by the process that uses or changes it
    homes/.new-…, .old-…     not yet, or no longer, a home

Every change is prepared beside the home and takes effect by one rename(2) of a
directory that has been flushed, so a crash leaves the old or the new state.
Its leftovers are removed by the next change (``sweep``).

The lock of a running sandbox is inherited by the process that is its leader
(QEMU, conmon, bwrap), which ignores it: so it outlives a broker that is killed,
and ends with the sandbox, without a file to clean up.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import msgspec

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.files.trees import disk_usage, remove_tree
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.stderr_log import log_stderr
from broker.host.homes.sparse import Progress, copy_sparse, no_progress

DISK: Literal["disk"] = "disk"
TREE: Literal["tree"] = "tree"
_META = "meta.json"
_CURRENT = "current"
_SNAPSHOTS = "snapshots"
_LOCKS = ".locks"
_NEW = ".new-"
_OLD = ".old-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2)
_RENAME_NOREPLACE = 1


class HomeMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``meta.json`` of a home or a snapshot."""

    kind: Literal["disk", "tree"]
    made: float
    """Seconds since 1970."""
    version: Literal[1] = 1
    encrypted: bool = False
    """Whether the disk is LUKS; see ``broker.host.homes.encrypted``."""


@dataclass(frozen=True)
class Snapshot:
    """A kept copy of a home."""

    name: SandboxName
    directory: Path
    meta: HomeMeta

    @property
    def disk(self) -> Path:
        """The file system image."""
        return self.directory / DISK


@dataclass(frozen=True)
class Home:
    """The state of one persistent sandbox."""

    name: SandboxName
    directory: Path
    """The current state, without the snapshots."""
    meta: HomeMeta

    @property
    def disk(self) -> Path:
        """The file system image of a micro VM."""
        return self.directory / DISK

    @property
    def tree(self) -> Path:
        """The directory of a launcher that shares our kernel."""
        return self.directory / TREE

    def size(self) -> int:
        """Bytes that the home may hold; 0 for a directory, which has no limit."""
        return self.disk.stat().st_size if self.meta.kind == DISK else 0

    def used(self) -> int:
        """Bytes on our disk, snapshots not counted (blocks may be shared)."""
        if self.meta.kind == DISK:
            return self.disk.stat().st_blocks * 512
        return disk_usage(self.tree)


class HomeLock:
    """A held lock.  ``fd`` may be inherited: the lock lives while a copy is open."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Let go of our copy."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def release(self) -> None:
        """Give the lock up, also where a copy is open (flock(2), LOCK_UN)."""
        if self.fd >= 0:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.close()

    def __enter__(self) -> Self:
        """Hold it for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self.close()


class HomeStore:
    """All homes below one directory.  Methods block: call them in a thread.

    Methods that change a home want its lock held by the caller.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- locks ---------------------------------------------------------------

    def lock(self, name: SandboxName) -> HomeLock:
        """Take the lock of a home, also of one that does not exist yet.

        Raises RefusedError when the sandbox runs or another command works on it.
        """
        held = self._flock(name, fcntl.LOCK_EX)
        if held is None:
            raise RefusedError(
                f"the home of '{name}' is in use",
                hint=f"'brokerctl stop {name}' ends the sandbox; another command may "
                "also be working on it",
            )
        return held

    def in_use(self, name: SandboxName) -> bool:
        """Whether the sandbox runs, or a command works on its home."""
        held = self._flock(name, fcntl.LOCK_EX)
        if held is None:
            return True
        held.close()
        return False

    def _flock(self, name: str, how: int) -> HomeLock | None:
        locks = self.root / _LOCKS
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        locks.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        held = HomeLock(os.open(locks / name, flags, 0o600))
        try:
            fcntl.flock(held.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            return None
        except BaseException:
            held.close()
            raise
        return held

    # -- reading -------------------------------------------------------------

    def find(self, name: SandboxName) -> Home | None:
        """Return a home; None when there is none.

        Raises UpstreamError when it is there and cannot be read.
        """
        directory = self.root / name / _CURRENT
        meta = _read_meta(directory)
        return None if meta is None else Home(name, directory, meta)

    def require(self, name: SandboxName) -> Home:
        """Return a home.  Raises SetupError when there is none."""
        home = self.find(name)
        if home is None:
            raise SetupError(
                f"'{name}' has no stored home",
                hint="'brokerctl sandbox list' shows those that have one; a persistent "
                "record gets its home with its first start",
            )
        return home

    def all(self) -> list[Home]:
        """Return every home, by name."""
        found = []
        for path in sorted(self.root.glob("[a-z]*")):
            home = self.find(take_sandbox_name(path.name))
            if home is not None:
                found.append(home)
        return found

    def snapshots(self, name: SandboxName) -> list[Snapshot]:
        """Return the snapshots of a home, oldest first."""
        found = []
        for path in (self.root / name / _SNAPSHOTS).glob("[a-z]*"):
            meta = _read_meta(path)
            if meta is not None:
                found.append(Snapshot(take_sandbox_name(path.name), path, meta))
        return sorted(found, key=lambda s: (s.meta.made, s.name))

    # -- changing ------------------------------------------------------------

    @contextmanager
    def new(
        self, kind: Literal["disk", "tree"], *, encrypted: bool = False
    ) -> Iterator[Path]:
        """Give a directory in which a home is prepared: put ``disk`` or ``tree`` in it.

        ``publish`` or ``replace`` makes it the home; otherwise it is removed.
        """
        with self._change() as room:
            made = HomeMeta(kind, time.time(), encrypted=encrypted)
            (room / _META).write_bytes(msgspec.json.encode(made))
            yield room

    @contextmanager
    def _like(self, meta: HomeMeta) -> Iterator[Path]:
        with self.new(meta.kind, encrypted=meta.encrypted) as prepared:
            yield prepared

    def publish(self, prepared: Path, name: SandboxName) -> Home:
        """Make a prepared directory the home of a name that has none.

        Raises RefusedError when it has one.
        """
        with self._change() as room:
            (room / _SNAPSHOTS).mkdir(mode=0o700)
            flush_tree(prepared)
            prepared.rename(room / _CURRENT)
            flush(room)
            try:
                _rename(room, self.root / name, _RENAME_NOREPLACE)
            except FileExistsError as error:
                (room / _CURRENT).rename(prepared)
                raise RefusedError(
                    f"'{name}' has a home already",
                    hint=f"'brokerctl sandbox remove {name}' removes it with all in it",
                ) from error
            flush(self.root)
        return self.require(name)

    def replace(self, prepared: Path, name: SandboxName) -> Home:
        """Make a prepared directory the home, in place of the present one."""
        current = self.require(name).directory
        flush_tree(prepared)
        _rename(prepared, current, _RENAME_EXCHANGE)
        flush(current.parent)
        flush(self.root)
        return self.require(name)

    def rename(self, name: SandboxName, to: SandboxName) -> Home:
        """Give a home another name; its snapshots go along.

        The caller holds both locks.  Raises RefusedError when that name is taken.
        """
        self.require(name)
        try:
            _rename(self.root / name, self.root / to, _RENAME_NOREPLACE)
        except FileExistsError as error:
            raise RefusedError(f"'{to}' has a home already") from error
        flush(self.root)
        return self.require(to)

    def remove(self, name: SandboxName) -> None:
        """Remove a home and its snapshots."""
        self.require(name)
        self._discard(self.root / name)

    def clone(
        self, name: SandboxName, to: SandboxName, progress: Progress = no_progress
    ) -> Home:
        """Copy a home under another name, without its snapshots."""
        source = self.require(name)
        with self._like(source.meta) as prepared:
            copy_state(source.directory, prepared, progress)
            return self.publish(prepared, to)

    def snapshot(
        self, name: SandboxName, label: SandboxName, progress: Progress = no_progress
    ) -> Snapshot:
        """Keep a copy of a home.  Raises RefusedError when the label is taken."""
        source = self.require(name)
        target = self.root / name / _SNAPSHOTS / label
        with self._like(source.meta) as prepared:
            copy_state(source.directory, prepared, progress)
            flush_tree(prepared)
            try:
                _rename(prepared, target, _RENAME_NOREPLACE)
            except FileExistsError as error:
                raise RefusedError(
                    f"'{name}' has a snapshot '{label}' already"
                ) from error
            flush(target.parent)
            flush(self.root)
        return self._snapshot(name, label)

    def restore(
        self, name: SandboxName, label: SandboxName, progress: Progress = no_progress
    ) -> Home:
        """Put the copy of a snapshot in the place of a home; the snapshot stays."""
        source = self._snapshot(name, label)
        with self._like(source.meta) as prepared:
            copy_state(source.directory, prepared, progress)
            return self.replace(prepared, name)

    def remove_snapshot(self, name: SandboxName, label: SandboxName) -> None:
        """Remove one snapshot."""
        self._discard(self._snapshot(name, label).directory)

    def _snapshot(self, name: SandboxName, label: SandboxName) -> Snapshot:
        for found in self.snapshots(name):
            if found.name == label:
                return found
        raise SetupError(
            f"'{name}' has no snapshot '{label}'",
            hint="'brokerctl sandbox list' shows the snapshots",
        )

    def sweep(self) -> int:
        """Remove leftovers of crashes, unless a change is in progress.

        One that cannot be removed is reported, and is in the way of no sandbox.
        """
        alone = self._flock(_STORE, fcntl.LOCK_EX)
        if alone is None:
            return 0
        with alone:
            left = [*self.root.glob(f"{_NEW}*"), *self.root.glob(f"{_OLD}*")]
            for path in left:
                error = remove_tree(path)
                # guard: a leftover that stays is in no other sandbox's way
                if error is not None:
                    log_stderr(f"{path} is left over and cannot be removed: {error}")
            return len(left)

    def _discard(self, path: Path) -> None:
        with self._change() as room:
            path.rename(room / "gone")
            flush(path.parent)
            flush(self.root)

    @contextmanager
    def _change(self) -> Iterator[Path]:
        """Give a directory that is removed at the end, if it is still there."""
        with ExitStack() as undo:
            held = self._flock(_STORE, fcntl.LOCK_SH)
            if held is None:  # only while leftovers are being removed
                raise RefusedError("another command is cleaning up; try again")
            undo.enter_context(held)
            room = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.root))
            undo.callback(remove_tree, room)
            with full_disk_reported():
                yield room


_STORE = ".store"


@contextmanager
def full_disk_reported() -> Iterator[None]:
    """Raise SetupError where the block finds no room on a disk, or in a quota."""
    try:
        yield
    except OSError as error:
        # guard: a full disk is an error with a hint
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise SetupError(
            f"no room on the disk: {error.strerror}",
            where=str(error.filename or ""),
            hint="nothing was changed; 'brokerctl sandbox list' shows the sizes of "
            "homes, 'brokerctl sandbox snapshot --remove' removes a snapshot",
        ) from error


def _read_meta(directory: Path) -> HomeMeta | None:
    try:
        data = (directory / _META).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UpstreamError(f"cannot read {directory / _META}: {error}") from error
    try:
        return msgspec.json.decode(data, type=HomeMeta)
    except ValueError as error:
        raise UpstreamError(f"{directory / _META}: {error}") from error


def copy_state(source: Path, target: Path, progress: Progress = no_progress) -> None:
    """Copy the content of a home, without its ``meta.json``.

    Raises OSError; links in a directory are copied as they are, so nothing outside of
    it is read.  Pipes, sockets and devices are left out.
    """
    disk = source / DISK
    if disk.is_file():
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with ExitStack() as files:
            reader = os.open(disk, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            files.callback(os.close, reader)
            writer = os.open(target / DISK, flags, 0o600)
            files.callback(os.close, writer)
            copy_sparse(reader, writer, progress)
        return
    try:
        shutil.copytree(
            source / TREE,
            target / TREE,
            symlinks=True,
            ignore=_special,
            copy_function=_FileCopies().copy,
        )
    except RecursionError as error:
        raise UpstreamError(f"{source / TREE} has directories that are too deep") from (
            error
        )
    progress(1, 1)


class _FileCopies:
    """Copies of a tree's files, which take no more of the disk than these do."""

    def __init__(self) -> None:
        self._copied: dict[tuple[int, int], str] = {}
        """Where the first name of a file that has several was copied to."""

    def copy(self, name: str, to: str) -> None:
        """Copy a regular file with its times, mode and attributes."""
        with ExitStack() as files:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            reader = os.open(name, flags)
            files.callback(os.close, reader)
            info = os.fstat(reader)
            first = to
            if info.st_nlink > 1:
                first = self._copied.setdefault((info.st_dev, info.st_ino), to)
            # guard: a copy of a home has files of several names once
            if first != to:
                os.link(first, to, follow_symlinks=False)
                return
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            writer = os.open(to, flags, 0o600)
            files.callback(os.close, writer)
            # guard: a copy of a home has its holes
            copy_sparse(reader, writer)
        shutil.copystat(name, to, follow_symlinks=False)


def _special(folder: str, names: list[str]) -> set[str]:
    """Of these names in a directory, those that are neither files, links nor directories."""
    plain = (stat.S_ISREG, stat.S_ISLNK, stat.S_ISDIR)
    modes = {name: os.lstat(Path(folder, name)).st_mode for name in names}
    # guard: a copy of a home opens no pipe
    return {name for name, mode in modes.items() if not any(k(mode) for k in plain)}


def flush(path: Path) -> None:
    """fsync(2) of a file or a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_tree(directory: Path) -> None:
    """Flush our own files in a prepared home, and the directory.

    A ``tree`` may hold any number of files: there the whole file system is
    flushed instead.
    """
    for name in (DISK, _META):
        if (directory / name).is_file():
            flush(directory / name)
    if (directory / TREE).is_dir():
        os.sync()
    flush(directory)


def _rename(source: Path, target: Path, how: int) -> None:
    """renameat2(2), for its flags.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], how) != 0:
        code = ctypes.get_errno()
        if code == errno.EEXIST:
            raise FileExistsError(code, os.strerror(code), str(target))
        raise OSError(code, os.strerror(code), str(source), None, str(target))
