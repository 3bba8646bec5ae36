"""``[[mounts]]`` and ``[[disks]]`` of a record: what a sandbox has at a path or tag of its own.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from policy import limits
from policy.records.field_types import (
    REFUSED,
    Choice,
    Complain,
    Field,
    Path,
    Pattern,
    SocketPath,
    refuse,
    show,
)
from policy.records.kinds import LaunchKind
from policy.records.mounts.user_files import Disk, Mount
from policy.records.quantities import Bytes, YesNo
from policy.services.fields import take_fields

_PLACE = SocketPath(limits.BIND_PATH_BYTES)
_OURS = (
    *("bin", "boot", "dev", "etc", "folders", "lib", "lib32", "lib64", "libx32"),
    *("proc", "root", "run", "sbin", "sys", "usr"),
)
"""Directories of the system's and of Vitrail's, in which a record mounts nothing."""
_WHOLE = frozenset({"/home", "/home/user", "/tmp", "/var"})  # noqa: S108
"""Directories that a mount would hide, and in which there may be mounts."""
_DIVIDING = frozenset(":,\\")
"""Characters that divide the options of Podman and systemd-nspawn."""


@dataclass(frozen=True)
class MountPoint:
    """A path inside of a sandbox, at which a record mounts something."""

    words: str = (
        "an absolute path in the sandbox without '..', ':', ',' or '\\', not in "
        + ", ".join(f"/{name}" for name in _OURS)
        + "; and not "
        + ", ".join(sorted(_WHOLE))
        + " as a whole"
    )

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a path to mount at; see ``Kind``."""
        if _PLACE.take(value, path, _unheard) is REFUSED:
            return refuse(self, value, path, complain)
        place = str(value)
        # guard: no record mounts over the system's files or Vitrail's
        if place in _WHOLE or place.split("/")[1] in _OURS or _DIVIDING & {*place}:
            return refuse(self, value, path, complain)
        return place


def _unheard(path: Path, message: str, expected: str, hint: str) -> None:
    """Complain to nobody: another kind words it."""
    del path, message, expected, hint


TAG = Pattern(
    "1 to 20 characters of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, "
    "and not with 'vitrail'",
    # The serial number of a virtio disk has 20 characters.  "vitrail-home" is ours.
    "(?!vitrail)[a-z0-9][a-z0-9._-]{0,19}",
    20,
)
MOUNT_FIELDS = (
    Field(
        "kind",
        Choice(
            {
                "memory": "an empty file system in memory, of at most `size`",
                "directory": "your directory `source`, where a rule for `vitrail.Folder` "
                "allows it, as with `[folders]`",
            },
            {
                "ram": 'write "memory"',
                "tmpfs": 'write "memory"',
                "host-bind": 'write "directory"',
                "bind": 'write "directory"',
                "host-image": "write a table [[disks]] with a tag",
                "image": "write a table [[disks]] with a tag",
            },
        ),
        "What is mounted.",
        required=True,
    ),
    Field("at", MountPoint(), "The path in the sandbox.", required=True),
    Field(
        "size",
        Bytes(*limits.MEMORY_MOUNT_BYTES),
        "Maximum size of the files in memory; they count for the sandbox's memory.",
    ),
    Field("source", _PLACE, "Your directory."),
    Field(
        "write",
        YesNo(),
        "Whether the sandbox can change the directory; the rule needs `write=yes`.",
        default=False,
    ),
)
DISK_FIELDS = (
    Field("tag", TAG, "The name of the device: `/dev/disk/by-tag/TAG`.", required=True),
    Field(
        "source",
        _PLACE,
        "Your image file, or a block device of this machine in /dev.",
        required=True,
    ),
    Field(
        "write",
        YesNo(),
        "Whether the sandbox can change the image; the rule needs `write=yes`.",
        default=False,
    ),
    Field("at", MountPoint(), "Where the guest mounts the disk's ext4 file system."),
)
_NEEDS = {"memory": "size", "directory": "source"}
_FOREIGN = {"memory": ("source", "write"), "directory": ("size",)}


@dataclass(frozen=True)
class MountTables:
    """Tables ``[[mounts]]``; the clean value is a tuple of ``Mount``."""

    words: str = f"up to {limits.MOUNTS} tables [[mounts]] with " + ", ".join(
        f.key for f in MOUNT_FIELDS
    )

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate the tables of mounts; see ``Kind``."""
        if not isinstance(value, list) or len(value) > limits.MOUNTS:
            return refuse(self, value, path, complain)
        made = [
            self._taken(table, (*path, n), complain) for n, table in enumerate(value)
        ]
        return REFUSED if None in made else tuple(made)

    def _taken(self, table: object, path: Path, complain: Complain) -> Mount | None:
        values = take_fields(MOUNT_FIELDS, table, path, complain)
        if values is None:
            return None
        assert isinstance(table, Mapping)
        kind = values["kind"]
        for key in _FOREIGN[kind]:
            if key in table:
                complain((*path, key), f"'{key}' has no meaning here", "", "remove it")
                return None
        if values[needed := _NEEDS[kind]] is None:
            complain(
                path, f"'{needed}' is missing", f'{needed} with kind = "{kind}"', ""
            )
            return None
        source = values["source"]
        return Mount(
            kind,
            FilePath(values["at"]),
            values["size"] or 0,
            None if source is None else FilePath(source),
            values["write"],
        )


@dataclass(frozen=True)
class DiskTables:
    """Tables ``[[disks]]``; the clean value is a tuple of ``Disk``."""

    words: str = f"up to {limits.DISKS} tables [[disks]] with " + ", ".join(
        f.key for f in DISK_FIELDS
    )

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate the tables of disks; see ``Kind``."""
        if not isinstance(value, list) or len(value) > limits.DISKS:
            return refuse(self, value, path, complain)
        made = list[Disk | None]()
        for n, table in enumerate(value):
            values = take_fields(DISK_FIELDS, table, (*path, n), complain)
            made.append(None if values is None else _disk(values))
            if made[-1] and any(d and d.tag == made[-1].tag for d in made[:-1]):
                complain(
                    (*path, n, "tag"),
                    f"{show(made[-1].tag)} is the tag of another disk",
                    "a tag of its own",
                    "",
                )
                return REFUSED
        return REFUSED if None in made else tuple(made)


def _disk(values: Mapping[str, Any]) -> Disk:
    at = values["at"]
    place = None if at is None else FilePath(at)
    return Disk(values["tag"], FilePath(values["source"]), values["write"], place)


_BOX = (
    (
        "it has no kernel of its own, and this machine's would read the file system that a "
        "sandbox wrote"
    ),
    (
        'set kind = "microvm", or mount the image yourself (fuse2fs(1)) and list the '
        "directory in bind_read_only"
    ),
)
_INSTEAD = 'set kind = "microvm"'


def check_mounts(
    taken: Mapping[str, Any], kind: LaunchKind, complain: Complain
) -> None:
    """Complain about mounts and disks that a sandbox of this kind cannot have."""
    mounts: tuple[Mount, ...] = taken.get("mounts", ())
    disks: tuple[Disk, ...] = taken.get("disks", ())
    if mounts and not kind.mounts:
        complain(
            ("mounts",),
            f'[[mounts]] is not allowed with kind = "{kind.name}"',
            "",
            _INSTEAD
            if kind.boots
            else "remove it; the program that starts the sandbox controls its mounts",
        )
    if disks and not kind.disks:
        why, hint = _no_disks(kind)
        what = f'[[disks]] is not allowed with kind = "{kind.name}": {why}'
        complain(("disks",), what, "", hint)
    for key in ("bind_read_only", "bind_read_write"):
        for path in taken.get(f"launch.{key}", ()):
            for where, place in _places(mounts, disks):
                # guard: no mount is in a directory of the user's, or over one
                if _nested(FilePath(path), place):
                    complain(
                        where,
                        f"{place} and {path} of '{key}' overlap",
                        "",
                        "change one",
                    )
                    return
    _check_names(taken, mounts, complain)
    found = list[FilePath]()
    for where, place in _places(mounts, disks):
        if any(_nested(place, other) for other in found):
            complain(where, f"{place} overlaps another mount", "", "use another path")
            return
        found.append(place)


def _check_names(
    taken: Mapping[str, Any], mounts: tuple[Mount, ...], complain: Complain
) -> None:
    """Complain about two directories of one name, by which rules know them."""
    names = {
        FilePath(path).name: path
        for key in ("read_only", "read_write")
        for path in taken.get(f"folders.{key}", ())
    }
    for n, mount in enumerate(mounts):
        if mount.source is None:
            continue
        other = names.setdefault(mount.source.name, f"[[mounts]] {n}")
        if other != f"[[mounts]] {n}":
            complain(
                ("mounts", n, "source"),
                f"'{mount.source.name}' is the name of another folder of the sandbox",
                "directories of different names",
                "a rule and 'brokerctl unshare' know a folder by its name",
            )
            return


def _no_disks(kind: LaunchKind) -> tuple[str, str]:
    """Return why a kind of sandbox has no disks, and what to do."""
    if kind.of_others:
        why = "its devices are those of the program that starts it"
        return why, "give it the image by means of that program"
    if kind.boots:
        return "its devices are those of libvirt or systemd-vmspawn", _INSTEAD
    return _BOX


def _places(
    mounts: tuple[Mount, ...], disks: tuple[Disk, ...]
) -> Iterator[tuple[Path, FilePath]]:
    """Yield the key and the path of everything that is mounted at a path."""
    for n, mount in enumerate(mounts):
        yield ("mounts", n, "at"), mount.at
    for n, disk in enumerate(disks):
        if disk.at is not None:
            yield ("disks", n, "at"), disk.at


def _nested(one: FilePath, other: FilePath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
