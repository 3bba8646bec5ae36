"""Launches, made of the validated values of a record, and what excludes each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from policy.records import kinds
from policy.records.desktop_tables import FOLDERS
from policy.records.field_types import Path as KeyPath
from policy.records.kinds import KIND_KEY, MONITORS
from policy.records.launch_table import STATE
from policy.records.model import (
    HOST_IMAGE,
    Bwrap,
    CidPeer,
    External,
    Flatpak,
    HybridPeer,
    Launch,
    LibvirtPeer,
    MachinePeer,
    MicroVM,
    Nspawn,
    Podman,
    SharedBox,
    ThrowawayVm,
    UnixPeer,
)

Taken = Mapping[str, Any]
"""As in ``build``: clean values by dotted key."""
Complain = Callable[[KeyPath, str, str, str], None]
_INSTEAD = 'set kind = "microvm"'
_BOOTS_ALWAYS = ("huge_pages", "shared_image")


def launch_of(taken: Taken) -> Launch:
    """Return the launch of a record."""
    return _BUILDERS.get(taken[KIND_KEY], _micro_vm)(taken)


def _micro_vm(taken: Taken) -> MicroVM:
    kind = taken[KIND_KEY]
    own_root = taken["launch.root"] != "host"
    made: dict[str, Any] = {
        "image": taken["launch.image"] if own_root else HOST_IMAGE,
        "memory_mib": taken["launch.memory"],
        "packages": tuple(taken["launch.packages"]),
    }
    keys = ["cpus", "network", "provides_network", "command", "boot_deadline"]
    keys += ["root", "host_files"]
    if kind in MONITORS:
        made |= {"monitor": kind, "fork": "no"}
    else:
        keys += ["fork", "folders", "huge_pages", "shared_image"]
        # What its GPU drew is left in an arena.
        made["gpu"] = taken["launch.gpu"]
        made["pixel_arena"] = made["gpu"] == "render" or taken["launch.pixel_arena"]
        standby = taken["launch.standby"] * taken["limits.standby_memory"]
        made["standby_mib"] = standby
    return MicroVM(**made, **{key: taken[f"launch.{key}"] for key in keys})


def _external(taken: Taken) -> External:
    return External(_peer(taken))


def _peer(
    taken: Taken,
) -> HybridPeer | CidPeer | LibvirtPeer | MachinePeer | UnixPeer:
    if "peer.cid" in taken:
        return CidPeer(cast("int", taken["peer.cid"]))
    if "peer.machine" in taken:
        hybrid = taken.get("peer.hybrid")
        name = cast("str", taken["peer.machine"])
        return MachinePeer(name, None if hybrid is None else Path(hybrid))
    if "peer.hybrid" in taken:
        return HybridPeer(Path(taken["peer.hybrid"]))
    if "peer.libvirt" in taken:
        return LibvirtPeer(cast("str", taken["peer.libvirt"]))
    return UnixPeer(Path(taken["peer.unix"]))


def _throwaway(taken: Taken) -> ThrowawayVm:
    return ThrowawayVm(
        image=taken["launch.image"],
        memory_mib=taken["launch.memory"],
        cpus=taken["launch.cpus"],
        command=taken["launch.command"],
        boot_deadline=taken["launch.boot_deadline"],
        manager="vmspawn" if taken[KIND_KEY] == kinds.VMSPAWN.name else "libvirt",
    )


def _bwrap(taken: Taken) -> Bwrap:
    return Bwrap(
        taken["launch.command"],
        *_binds(taken),
        taken["launch.network"],
        taken["launch.open_files"],
        taken["launch.user_namespaces"],
        taken["launch.provides_network"],
        taken["launch.gpu"],
    )


def _nspawn(taken: Taken) -> Nspawn:
    rootfs = Path(taken["launch.rootfs"])
    limits = (taken["launch.memory"], taken["launch.pids"], taken["launch.open_files"])
    return Nspawn(
        taken["launch.command"],
        rootfs,
        *_binds(taken),
        *limits,
        network=taken["launch.network"],
        provides_network=taken["launch.provides_network"],
    )


def _flatpak(taken: Taken) -> Flatpak:
    app, network = taken["launch.app"], taken["launch.share_network"]
    more = taken["launch.open_files"], taken["launch.gpu"]
    return Flatpak(app, network, *_binds(taken), *more)


def _shared_box(taken: Taken) -> SharedBox:
    return SharedBox(taken["launch.required"])


def _podman(taken: Taken) -> Podman:
    rootfs = taken.get("launch.rootfs")
    return Podman(
        taken["launch.command"],
        taken.get("launch.container_image"),
        None if rootfs is None else Path(rootfs),
        *_binds(taken),
        memory_mib=taken["launch.memory"],
        pids=taken["launch.pids"],
        required=taken["launch.required"],
        network=taken["launch.network"],
        provides_network=taken["launch.provides_network"],
        open_files=taken["launch.open_files"],
        gpu=taken["launch.gpu"],
    )


def _binds(taken: Taken) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    read_only, read_write = (
        tuple(Path(path) for path in taken[f"launch.{key}"])
        for key in ("bind_read_only", "bind_read_write")
    )
    return read_only, read_write


_BUILDERS: Mapping[str, Callable[[Taken], Launch]] = MappingProxyType(
    {
        kinds.EXTERNAL.name: _external,
        kinds.LIBVIRT.name: _throwaway,
        kinds.VMSPAWN.name: _throwaway,
        kinds.BWRAP.name: _bwrap,
        kinds.PODMAN.name: _podman,
        kinds.NSPAWN.name: _nspawn,
        kinds.FLATPAK.name: _flatpak,
        kinds.SHARED_BOX.name: _shared_box,
    }
)
"""Of kinds that are not micro VMs."""


def check(taken: Mapping[str, object], complain: Complain) -> None:
    """Complain about what a machine of this record cannot have."""
    # guard: a GPU is used in the way of its kind
    way = "render" if taken[KIND_KEY] == kinds.MICROVM.name else "buffers"
    if taken.get("launch.gpu", "none") not in {"none", way}:
        what = f'kind = "{taken[KIND_KEY]}" cannot have such a GPU'
        complain(("launch", "gpu"), what, f'"none" or "{way}"', "docs/gpu.md")
    if taken[KIND_KEY] in MONITORS:
        _check_monitor(taken, complain)
    elif taken.get("launch.fork") == "shared":
        _check_shared(taken, complain)


def _check_monitor(taken: Mapping[str, object], complain: Complain) -> None:
    """VMMs other than QEMU have no folder and no encrypted disk."""
    kind = str(taken[KIND_KEY])
    if taken.get("state.encrypted"):
        complain(
            (STATE.name, "encrypted"),
            f'kind = "{kind}" cannot open an encrypted disk: it knows no LUKS',
            "encrypted = false",
            _INSTEAD,
        )
    for field in FOLDERS.fields:
        if taken[f"{FOLDERS.name}.{field.key}"]:
            complain(
                (FOLDERS.name, field.key),
                f'a sandbox of kind = "{kind}" has no folders',
                "",
                f"remove it, or {_INSTEAD}",
            )


def _check_shared(taken: Mapping[str, object], complain: Complain) -> None:
    """Only a disposable machine without devices of others shares memory."""
    kept = taken.get("class")
    folders = [f for f in FOLDERS.fields if taken[f"folders.{f.key}"]]
    why = ""
    if kept is not None and kept != "disposable":
        why = f'class = "{kept}": only disposable machines share memory'
    elif boots := [key for key in _BOOTS_ALWAYS if taken[f"launch.{key}"]]:
        why = f"{boots[0]}: such a machine boots"
    elif taken.get("launch.gpu") == "render":
        why = "gpu: such a machine boots"
    elif folders or taken["launch.folders"]:
        why = "folders: their process (virtiofsd) would have its siblings' memory"
    # guard: a record that cannot share memory does not ask for it
    if why:
        complain(
            ("launch", "fork"),
            f'fork = "shared" does not go with {why}',
            'fork = "copy" or "no"',
            'set fork = "copy", or remove the other key',
        )
