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

The host takes a home from it for a start; brokerctl takes one for a box, and lists,
copies, restores and removes them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import msgspec

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.files.rename import RENAME_EXCHANGE, RENAME_NOREPLACE, rename_at
from broker.core.files.trees import disk_usage, remove_tree
from broker.core.names import SandboxName
from broker.core.stderr_log import log_stderr

DISK: Literal["disk"] = "disk"
TREE: Literal["tree"] = "tree"
_META = "meta.json"
_CURRENT = "current"
SNAPSHOTS = "snapshots"
_LOCKS = ".locks"
_NEW = ".new-"
_OLD = ".old-"
_OTHER_NAME = "choose another name, or delete this home with 'brokerctl sandbox remove --keep-record {}'"


class HomeMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``meta.json`` of a home or a snapshot."""

    kind: Literal["disk", "tree"]
    made: float
    """Seconds since 1970."""
    version: Literal[1] = 1
    encrypted: bool = False
    """Whether the disk is LUKS; see ``broker.host.homes.encrypted``."""


# A persistent sandbox has a disk, swapped by renames. The image stays read-only with a
# memory overlay, whatever the class; what `[state]` keeps lies on a second disk, an
# ext4 in a sparse file below `~/.local/state/vitrail/homes`. A disk and not a shared
# directory, because the guest writes to it: its content is parsed by the guest's kernel
# alone, never by a process of the host (also when it grows or is checked), and its size
# is bounded by the record. A change of a whole home is prepared beside it and takes
# effect by one `rename(2)`, so a crash leaves the old or the new. The lock is a
# descriptor that QEMU inherits: it lives exactly as long as QEMU, also where the broker
# was killed, and leaves no file to clean up. A guest that cannot mount its disk
# switches itself off instead of running on memory, because a user would lose files that
# they believe to be kept.
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
        """Take the lock of a home, which need not exist yet.

        Raises RefusedError when the sandbox runs or another command works on it.
        Creates the lock's file, which stays.
        """
        held = self._flock(name, fcntl.LOCK_EX)
        if held is None:
            raise RefusedError(
                f"the home of '{name}' is in use",
                hint=f"run 'brokerctl stop {name}', or wait until other brokerctl commands have ended",
            )
        return held

    def _flock(self, name: str, how: int) -> HomeLock | None:
        """Lock a home's file (flock(2)); None when another process has it.

        Creates the file and its directories if they are absent.
        """
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
        """Return a home; None when none exists.

        Raises UpstreamError when it is there and cannot be read.
        """
        directory = self.root / name / _CURRENT
        meta = read_meta(directory)
        return None if meta is None else Home(name, directory, meta)

    def disk(self, name: SandboxName) -> Path | None:
        """Return the disk of a micro VM's home, which nobody reads; None: it has none."""
        path = self.root / name / _CURRENT / DISK
        return path if path.exists() else None

    def require(self, name: SandboxName) -> Home:
        """Return the home of a sandbox.  Raises SetupError when none exists."""
        home = self.find(name)
        if home is None:
            raise SetupError(
                f"'{name}' has no home",
                hint="to list the homes, run 'brokerctl sandbox list'; to create a home, start a persistent sandbox",
            )
        return home

    # -- changing ------------------------------------------------------------

    @contextmanager
    def new(
        self, kind: Literal["disk", "tree"], *, encrypted: bool = False
    ) -> Iterator[Path]:
        """Yield a directory in which the caller prepares a home (``disk`` or ``tree``).

        ``publish`` or ``replace`` makes it the home; otherwise it is removed.
        """
        with self._change() as room:
            made = HomeMeta(kind, time.time(), encrypted=encrypted)
            (room / _META).write_bytes(msgspec.json.encode(made))
            yield room

    def publish(self, prepared: Path, name: SandboxName) -> Home:
        """Make a prepared directory the home of a sandbox that has none.

        Raises RefusedError when it has one.
        """
        with self._change() as room:
            (room / SNAPSHOTS).mkdir(mode=0o700)
            flush_tree(prepared)
            prepared.rename(room / _CURRENT)
            flush(room)
            try:
                rename_at(room, self.root / name, RENAME_NOREPLACE)
            except FileExistsError as error:
                (room / _CURRENT).rename(prepared)
                raise RefusedError(
                    f"'{name}' already has a home",
                    hint=_OTHER_NAME.format(name),
                ) from error
            flush(self.root)
        return self.require(name)

    def replace(self, prepared: Path, name: SandboxName) -> Home:
        """Replace a sandbox's home with a prepared directory."""
        current = self.require(name).directory
        flush_tree(prepared)
        rename_at(prepared, current, RENAME_EXCHANGE)
        flush(current.parent)
        flush(self.root)
        return self.require(name)

    def rename(self, name: SandboxName, to: SandboxName) -> Home:
        """Rename a home to another sandbox's name; its snapshots go along.

        The caller holds both locks.  Raises RefusedError when that name is taken.
        """
        self.require(name)
        try:
            rename_at(self.root / name, self.root / to, RENAME_NOREPLACE)
        except FileExistsError as error:
            raise RefusedError(
                f"'{to}' already has a home", hint=_OTHER_NAME.format(to)
            ) from error
        flush(self.root)
        return self.require(to)

    def sweep(self) -> int:
        """Remove leftovers of crashes, unless a change is in progress.

        A home that cannot be removed is reported, and is in the way of no sandbox.
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
                    log_stderr(f"cannot remove the leftover {path}: {error}")
            return len(left)

    @contextmanager
    def _change(self) -> Iterator[Path]:
        """Yield a temporary directory; remove it at the end if it is still there."""
        with ExitStack() as undo:
            held = self._flock(_STORE, fcntl.LOCK_SH)
            if held is None:  # only while leftovers are being removed
                raise RefusedError("another command is removing leftovers; try again")
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
            f"cannot write to the disk: {error.strerror}; nothing was changed",
            where=str(error.filename or ""),
            hint="to see what uses the disk, run 'brokerctl df'; to remove a snapshot, run 'brokerctl sandbox snapshot --remove NAME LABEL'",
        ) from error


def read_meta(directory: Path) -> HomeMeta | None:
    """Return ``meta.json`` of a home or a snapshot.  Raises UpstreamError."""
    try:
        data = (directory / _META).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UpstreamError(
            f"cannot read {directory / _META}: {error.strerror}"
        ) from error
    try:
        return msgspec.json.decode(data, type=HomeMeta)
    except (ValueError, RecursionError) as error:
        raise UpstreamError(f"invalid {directory / _META}: {error}") from error


def flush(path: Path) -> None:
    """Flush a file or directory to the disk by fsync(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_tree(directory: Path) -> None:
    """Flush the files of a prepared home, and its directory, to the disk.

    A ``tree`` may hold any number of files: there the whole file system is
    flushed instead.
    """
    for name in (DISK, _META):
        if (directory / name).is_file():
            flush(directory / name)
    if (directory / TREE).is_dir():
        os.sync()
    flush(directory)
