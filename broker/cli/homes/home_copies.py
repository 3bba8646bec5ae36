"""What brokerctl alone does with homes: it lists, copies, keeps and removes them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.cli.homes.tree_copies import copy_tree
from broker.core.errors import RefusedError, SetupError
from broker.core.files.rename import RENAME_NOREPLACE, rename_at
from broker.core.names import SandboxName, take_sandbox_name
from broker.host.homes.sparse import Progress, copy_sparse, no_progress
from broker.host.homes.store import (
    DISK,
    SNAPSHOTS,
    TREE,
    Home,
    HomeMeta,
    HomeStore,
    flush,
    flush_tree,
    read_meta,
)


@dataclass(frozen=True)
class HomeSnapshot:
    """A kept copy of a home."""

    name: SandboxName
    directory: Path
    meta: HomeMeta

    @property
    def disk(self) -> Path:
        """The file system image."""
        return self.directory / DISK


class HomeCopies(HomeStore):
    """A store of homes, whose methods block, and whose homes may be copied."""

    def in_use(self, name: SandboxName) -> bool:
        """Return whether the sandbox runs, or a command works on its home."""
        held = self._flock(name, fcntl.LOCK_EX)
        if held is None:
            return True
        held.close()
        return False

    def all(self) -> list[Home]:
        """Return all homes, sorted by sandbox name."""
        found = []
        for path in sorted(self.root.glob("[a-z]*")):
            home = self.find(take_sandbox_name(path.name))
            if home is not None:
                found.append(home)
        return found

    def snapshots(self, name: SandboxName) -> list[HomeSnapshot]:
        """Return the snapshots of a home, oldest first."""
        found = []
        for path in (self.root / name / SNAPSHOTS).glob("[a-z]*"):
            meta = read_meta(path)
            if meta is not None:
                found.append(HomeSnapshot(take_sandbox_name(path.name), path, meta))
        return sorted(found, key=lambda s: (s.meta.made, s.name))

    @contextmanager
    def _like(self, meta: HomeMeta) -> Iterator[Path]:
        with self.new(meta.kind, encrypted=meta.encrypted) as prepared:
            yield prepared

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
    ) -> HomeSnapshot:
        """Store a copy of a home as a snapshot.

        Raises RefusedError for a used label.
        """
        source = self.require(name)
        target = self.root / name / SNAPSHOTS / label
        with self._like(source.meta) as prepared:
            copy_state(source.directory, prepared, progress)
            flush_tree(prepared)
            try:
                rename_at(prepared, target, RENAME_NOREPLACE)
            except FileExistsError as error:
                raise RefusedError(
                    f"a snapshot '{label}' of '{name}' already exists",
                    hint="choose another label",
                ) from error
            flush(target.parent)
            flush(self.root)
        return self.require_snapshot(name, label)

    def restore(
        self, name: SandboxName, label: SandboxName, progress: Progress = no_progress
    ) -> Home:
        """Replace a home with a copy of its snapshot ``label``; the snapshot stays."""
        source = self.require_snapshot(name, label)
        with self._like(source.meta) as prepared:
            copy_state(source.directory, prepared, progress)
            return self.replace(prepared, name)

    def remove_snapshot(self, name: SandboxName, label: SandboxName) -> None:
        """Remove one snapshot."""
        self._discard(self.require_snapshot(name, label).directory)

    def require_snapshot(self, name: SandboxName, label: SandboxName) -> HomeSnapshot:
        """Return the snapshot of a label.  Raises SetupError when none exists."""
        for found in self.snapshots(name):
            if found.name == label:
                return found
        raise SetupError(
            f"'{name}' has no snapshot '{label}'",
            hint="to list the snapshots, run 'brokerctl sandbox list'",
        )

    def _discard(self, path: Path) -> None:
        """Move a directory out of the store in one step, and remove it."""
        with self._change() as room:
            path.rename(room / "gone")
            flush(path.parent)
            flush(self.root)


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
    copy_tree(source / TREE, target / TREE)
    progress(1, 1)
