"""Launches, made of the validated values of a record, and what excludes each other.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import msgspec

from policy.records import kinds
from policy.records.desktop_tables import FOLDERS
from policy.records.field_types import Path as KeyPath
from policy.records.kinds import KIND_KEY, KINDS
from policy.records.launch_table import STATE
from policy.records.model import (
    HOST_IMAGE,
    Bwrap,
    CidPeer,
    CidRangePeer,
    External,
    Flatpak,
    HybridDirectoryPeer,
    HybridPeer,
    Launch,
    LibvirtPeer,
    MachinePeer,
    MicroVM,
    Nspawn,
    Peer,
    Podman,
    SharedBox,
    ThrowawayVm,
    UnixPeer,
)
from policy.records.mounts.mount_tables import check_mounts
from policy.records.mounts.user_files import directories_between

Taken = Mapping[str, Any]
"""As in ``build``: clean values by dotted key."""
Complain = Callable[[KeyPath, str, str, str], None]
_INSTEAD = 'set kind = "microvm"'
_BOOTS_ALWAYS = ("huge_pages", "shared_image")
_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "memory_mib": "memory",
        "read_only": "bind_read_only",
        "read_write": "bind_read_write",
    }
)
"""Keys of a launch whose attributes have other names."""


def launch_of(taken: Taken) -> Launch:
    """Return the launch of a record."""
    return _BUILDERS.get(taken[KIND_KEY], _micro_vm)(taken)


def _micro_vm(taken: Taken) -> MicroVM:
    """Build a micro VM's launch from the validated values."""
    own_root = taken["launch.root"] != "host"
    fields: dict[str, Any] = {
        "image": taken["launch.image"] if own_root else HOST_IMAGE,
        "memory_mib": taken["launch.memory"],
        "packages": tuple(taken["launch.packages"]),
    }
    keys = ["cpus", "network", "provides_network", "command", "boot_deadline"]
    keys += ["root", "host_files"]
    keys += ["fork", "folders", "huge_pages", "shared_image"]
    # What its GPU drew is left in an arena.
    fields["gpu"] = taken["launch.gpu"]
    fields["pixel_arena"] = fields["gpu"] == "render" or taken["launch.pixel_arena"]
    standby = taken["launch.standby"] * taken["limits.standby_memory"]
    fields["standby_mib"] = standby
    fields["disks"] = len(taken["disks"])
    return MicroVM(**fields, **{key: taken[f"launch.{key}"] for key in keys})


def _external(taken: Taken) -> External:
    image_file = taken.get("launch.image_file")
    return External(
        _peer(taken),
        memory_mib=taken["launch.memory"],
        huge_pages=taken["launch.huge_pages"],
        image=taken["launch.image"],
        image_file=None if image_file is None else Path(image_file),
        shared_image=taken["launch.shared_image"],
        pixel_arena=taken["launch.pixel_arena"],
        folders=taken["launch.folders"],
    )


def _peer(taken: Taken) -> Peer:
    """Build the peer that [peer] names from the validated values."""
    if "peer.cid" in taken:
        return CidPeer(cast("int", taken["peer.cid"]))
    if "peer.cids" in taken:
        first, last = cast("str", taken["peer.cids"]).split("-")
        return CidRangePeer(int(first), int(last))
    if "peer.hybrid_directory" in taken:
        return HybridDirectoryPeer(Path(taken["peer.hybrid_directory"]))
    if "peer.machine" in taken:
        hybrid = taken.get("peer.hybrid")
        name = cast("str", taken["peer.machine"])
        return MachinePeer(name, None if hybrid is None else Path(hybrid))
    if "peer.hybrid" in taken:
        return HybridPeer(Path(taken["peer.hybrid"]))
    if "peer.libvirt" in taken:
        return LibvirtPeer(cast("str", taken["peer.libvirt"]))
    return UnixPeer(Path(taken["peer.unix"]))


def _of_keys(launch: type[Launch], **names: str) -> Callable[[Taken], Launch]:
    """Return a function that builds a launch from the keys of its table.

    ``names``: attributes of other names, with their keys.
    """
    keys = {**_KEYS, **names}

    def made(taken: Taken) -> Launch:
        values = {}
        for field in msgspec.structs.fields(launch):
            if field.name == "mounts":
                values[field.name] = taken["mounts"]
                continue
            key = f"launch.{keys.get(field.name, field.name)}"
            values[field.name] = taken.get(key) if field.default is None else taken[key]
        if "read_write" in values:
            read_only, read_write = map(Path, values["read_only"]), values["read_write"]
            between = directories_between(read_only, map(Path, read_write))
            values["read_write"] = [*read_write, *map(str, between)]
        return msgspec.convert(values, launch, dec_hook=path_of)

    return made


def path_of(kind: type, value: object) -> object:
    """Return the path that a text is: msgspec makes none itself."""
    return kind(value)


_BUILDERS: Mapping[str, Callable[[Taken], Launch]] = MappingProxyType(
    {
        kinds.EXTERNAL.name: _external,
        kinds.LIBVIRT.name: _of_keys(ThrowawayVm, manager="kind"),
        kinds.VMSPAWN.name: _of_keys(ThrowawayVm, manager="kind"),
        kinds.BWRAP.name: _of_keys(Bwrap),
        kinds.PODMAN.name: _of_keys(Podman, image="container_image"),
        kinds.NSPAWN.name: _of_keys(Nspawn),
        kinds.FLATPAK.name: _of_keys(Flatpak),
        kinds.SHARED_BOX.name: _of_keys(SharedBox),
    }
)
"""Of kinds that are not micro VMs."""


NEEDED: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {
        kinds.FLATPAK.name: (
            "app",
            "'app' is missing",
            'app = "APPLICATION_ID", such as org.gnome.gedit',
            "to list them, run 'flatpak list --app --columns=application'",
        ),
        kinds.NSPAWN.name: (
            "rootfs",
            "'rootfs' is missing",
            'rootfs = "ABSOLUTE_PATH"',
            "to create one, run 'mmdebstrap --variant=minbase bookworm DIRECTORY'",
        ),
    }
)
"""By kind: the key of [launch] without which a record of it is refused, and how."""


def check(taken: Taken, complain: Complain) -> None:
    """Complain about combinations that a machine of a record cannot have."""
    kind = KINDS[str(taken[KIND_KEY])]
    # guard: a GPU is used in the way of its kind
    way = kind.gpu
    if taken.get("launch.gpu", "none") not in {"none", way}:
        what = f'kind = "{kind.name}" does not support this GPU mode'
        complain(("launch", "gpu"), what, f'"none" or "{way}"', "see docs/gpu.md")
    check_mounts(taken, kind, complain)
    _check_folders(taken, complain)
    if kind.of_others:
        _check_external(taken, complain)
    elif taken.get("launch.fork") == "shared":
        _check_shared(taken, complain)


def _check_folders(values: Taken, complain: Complain) -> None:
    """Complain about folders to read that the sandbox can change by another path."""
    mounts = [(("mounts", n), mount) for n, mount in enumerate(values["mounts"])]
    read_only: list[tuple[KeyPath, Path]] = [
        ((FOLDERS.name, "read_only"), Path(path))
        for path in values[f"{FOLDERS.name}.read_only"]
    ]
    read_only += [(key, m.source) for key, m in mounts if m.source and not m.write]
    keys = (f"{FOLDERS.name}.read_write", "launch.bind_read_write")
    writable = [Path(path) for key in keys for path in values.get(key, ())]
    writable += [mount.source for _, mount in mounts if mount.source and mount.write]
    for key, path in read_only:
        for other in writable:
            # guard: a folder to read is in no folder to change
            if path.is_relative_to(other):
                complain(
                    key,
                    f"the sandbox can change {path}, because it is in {other}, to which "
                    "it may write",
                    "",
                    "share directories to change that do not contain it, or remove it",
                )


_NAMES = MappingProxyType({key: name for name, key in _KEYS.items()})
_SCRIPTED: tuple[str, ...] = ("hybrid", "hybrid_directory", "cid", "cids")
"""Keys of [peer] whose machines get arguments by ``brokerctl machine arguments``."""
_DESCRIBED = frozenset({"image", "memory", "huge_pages", "folders"})
"""What it prints for a domain, which libvirt starts, or 'launcher prepare' adds to one."""


def _check_external(values: Taken, complain: Complain) -> None:
    """Complain about what only ``brokerctl machine arguments`` gives to a machine."""
    own = External(UnixPeer(Path()))
    keys = ("image", "memory", "huge_pages", "shared_image", "image_file")
    found: list[tuple[str, ...]] = [
        ("launch", key)
        for key in (*keys, "pixel_arena", "folders")
        if values.get(f"launch.{key}") not in {getattr(own, _NAMES.get(key, key)), None}
    ]
    found += [(STATE.name,)] if f"{STATE.name}.keep" in values else []
    if "launch.image_file" in values and not values["launch.shared_image"]:
        complain(
            ("launch", "image_file"),
            "'image_file' has no meaning without shared_image = true",
            "",
            "set shared_image = true, or remove it",
        )
    peers = {key.removeprefix("peer.") for key in values if key.startswith("peer.")}
    if "libvirt" in peers:
        found = [path for path in found if path[-1] not in _DESCRIBED]
    for path in found if peers and not peers & {*_SCRIPTED} else ():
        complain(
            path,
            f"'{path[-1]}' is only for a machine that a script of yours starts with the "
            "words of 'brokerctl machine arguments'",
            f"[peer] with one of {', '.join(_SCRIPTED)}",
            "remove it; the program that starts the sandbox controls this",
        )


def _check_shared(values: Taken, complain: Complain) -> None:
    """Complain about shared memory of a machine that is not a disposable of its own."""
    kept = values.get("class")
    folders = [f for f in FOLDERS.fields if values[f"folders.{f.key}"]]
    shared = any(mount.source for mount in values["mounts"])
    why = ""
    if kept is not None and kept != "disposable":
        why = f'class = "{kept}": only disposable machines share memory'
    elif boots := [key for key in _BOOTS_ALWAYS if values[f"launch.{key}"]]:
        why = f"{boots[0]}: such a machine always boots"
    elif values.get("launch.gpu") == "render":
        why = "gpu: such a machine always boots"
    elif values["disks"]:
        why = "[[disks]]: such a machine always boots"
    elif folders or shared or values["launch.folders"]:
        why = "folders: their process (virtiofsd) could access the memory of the other machines"
    # guard: a record that cannot share memory does not ask for it
    if why:
        complain(
            ("launch", "fork"),
            f'fork = "shared" cannot be combined with {why}',
            'fork = "copy" or "no"',
            'set fork = "copy", or remove the other key',
        )
