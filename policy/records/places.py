"""The directories of the user's that a sandbox's programs have, by its record.

The host prepares a sandbox's places by this, a session child opens the directories, the
viewer asks for them, brokerctl lists them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from policy.limits import SHARED_FOLDERS
from policy.records.model import Record, is_of_others

if TYPE_CHECKING:
    from policy.records.model import Bwrap, Flatpak, Launch, MicroVM, Nspawn, Podman


def has_folders(launch: Launch) -> TypeGuard[MicroVM]:
    """Return whether folders can be shared with a launch while it runs."""
    return launch.kind.folders


def is_held(launch: Launch) -> TypeGuard[Bwrap | Podman | Nspawn | Flatpak]:
    """Return whether 'brokerctl run' holds a record's process with paths and limits."""
    return launch.kind.holds


def folder_places(record: Record) -> int:
    """Return how many folders a micro VM, or a script's, can have; 0 for other kinds."""
    launch = record.host.launch
    if not has_folders(launch) and not is_of_others(launch):
        return 0
    shared = record.viewer.folders
    own = len(shared.read_only) + len(shared.read_write)
    return min(own + launch.folders, SHARED_FOLDERS[1])


def writable(record: Record) -> tuple[Path, ...]:
    """Return the directories and files of the user's that its programs may write to."""
    launch = record.host.launch
    own = launch.read_write if is_held(launch) else ()
    return (*own, *record.viewer.folders.read_write)


def read_only(record: Record) -> tuple[Path, ...]:
    """Return the user's directories and files that its programs may only read."""
    launch = record.host.launch
    binds = launch.read_only if is_held(launch) else ()
    return (*binds, *record.viewer.folders.read_only)


def root_tree(record: Record) -> Path | None:
    """Return the directory from which a box or container has its programs, if it is its own."""
    root: Path | None = getattr(record.host.launch, "rootfs", None)
    return root
