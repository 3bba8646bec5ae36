"""What a sandbox has of the user's files by rule, by its record; and its memory mounts.

Session children open what it names, the viewer tells the guest of folders, brokerctl
makes a container's arguments of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from typing_extensions import override


class Mount(NamedTuple):
    """A file system in memory of ``size`` bytes, or the user's directory ``source``.

    It is mounted at ``at`` in the sandbox.
    """

    kind: Literal["memory", "directory"]
    at: Path
    size: int
    source: Path | None
    write: bool

    @override
    def __str__(self) -> str:
        what = f"{self.size} bytes of memory" if self.source is None else self.source
        return f"{self.at}: {what}{' to change' if self.write else ''}"


class Disk(NamedTuple):
    """An image of the user's, which is a disk of a micro VM.

    ``at``: where the guest mounts it; None: nowhere.
    """

    tag: str
    source: Path
    write: bool
    at: Path | None

    @override
    def __str__(self) -> str:
        return f"{self.tag}: {self.source}{' to change' if self.write else ''}"


@dataclass(frozen=True)
class Folders:
    """Directories that are shared with it at its start, where a rule lets it."""

    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    mounts: tuple[Mount, ...] = ()
    """Those of ``[[mounts]]``; its directories are in the two lists, too."""
    disks: tuple[Disk, ...] = ()

    def at(self, source: Path, *, write: bool) -> Path | None:
        """Return where a directory is mounted; None: below /folders."""
        for mount in self.mounts:
            if (mount.source, mount.write) == (source, write):
                return mount.at
        return None

    @property
    def memory(self) -> tuple[Mount, ...]:
        """Its file systems in memory."""
        return tuple(mount for mount in self.mounts if mount.kind == "memory")


def directories_between(
    read_only: Iterable[Path], read_write: Iterable[Path]
) -> tuple[Path, ...]:
    """Return the directories that are to be mount points of their own, outermost first.

    The kernel lets a sandbox rename a directory that contains a mount point, but no mount
    point (rename(2), EBUSY).  So a sandbox that may write to ``~/proj`` could rename
    ``~/proj/.git`` and put another ``.git/hooks`` there, if only the hooks are read-only.
    """
    fixed, writable = set(read_only), set(read_write)
    between = set[Path]()
    for path in fixed:
        segment = list[Path]()
        for parent in path.parents:
            if parent in writable:
                between.update(segment)
                segment = []
            elif parent in fixed:
                break
            else:
                segment.append(parent)
    # guard: a directory above a read-only path is not renamed
    return tuple(sorted(between))
