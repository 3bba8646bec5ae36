"""The launch of records of boxes and containers, of validated values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policy.records.model import Bwrap, Flatpak, Launch, Nspawn, Podman, SharedBox
from policy.records.record_schema import KIND_KEY

Taken = Mapping[str, Any]
"""As in ``build``: clean values by dotted key."""


def container_launch(taken: Taken) -> Launch:
    """Return the launch of a box, of kind bwrap, podman, nspawn, shared-box or flatpak."""
    match taken[KIND_KEY]:
        case "bwrap":
            return Bwrap(
                taken["launch.command"],
                *_binds(taken),
                taken["launch.network"],
                taken["launch.open_files"],
                taken["launch.user_namespaces"],
            )
        case "podman":
            return _podman(taken)
        case "nspawn":
            rootfs = Path(taken["launch.rootfs"])
            limits = (
                taken["launch.memory"],
                taken["launch.pids"],
                taken["launch.open_files"],
            )
            return Nspawn(taken["launch.command"], rootfs, *_binds(taken), *limits)
        case "shared-box":
            return SharedBox(taken["launch.required"])
        case _:
            app, network = taken["launch.app"], taken["launch.share_network"]
            return Flatpak(app, network, *_binds(taken), taken["launch.open_files"])


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
        open_files=taken["launch.open_files"],
    )


def _binds(taken: Taken) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    read_only, read_write = (
        tuple(Path(path) for path in taken[f"launch.{key}"])
        for key in ("bind_read_only", "bind_read_write")
    )
    return read_only, read_write
