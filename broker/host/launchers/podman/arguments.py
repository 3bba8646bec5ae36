"""Podman's arguments for a container of a record (podman-run(1)).

Only brokerctl runs this, with the user's rights: it prepares words, and starts nothing.

It has a read-only root, no capability, no way to more rights, and no network:
where its record says so, the broker adds one (``launch.network``) before its program
runs.  Of the host's files it has those that its record names, and its sockets, which
the hook mounts.  Pure: a description in, words out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.core.limits import BOX_OOM, SANDBOX_FDS, SANDBOX_LOCKED_BYTES
from policy.records.mounts.user_files import Mount

_HOME = "/home/user"
_BRIDGE = "/run/vitrail-x11"
# Root without capabilities makes a user namespace and cannot map its ids into it
# (CAP_SETFCAP, user_namespaces(7)): Firefox's tabs end there unless told before.
_NO_NAMESPACES = ("--env", "MOZ_ASSUME_USER_NS=0")
_X11_START = ("/usr/bin/env", "python3", "-I", "-S", "-B", _BRIDGE, "--")
# An image's ENTRYPOINT would get the bridge's words as arguments.
_X11_ENTRYPOINT = f"--entrypoint={json.dumps(_X11_START)}"
_CONFINED = (
    *("--rm", "--pull=never", "--network=none", "--read-only", "--cap-drop=all"),
    # Its directories are the user's or ours; relabelling them is not ours to do.
    *("--security-opt=no-new-privileges", "--security-opt=label=disable"),
)
# A VOLUME of the image would be room on the user's disk without a limit; memory counts
# for the container.  A HEALTHCHECK would be a program that Podman starts, by a timer.
# guard: an image asks for no disk and no timer
_IMAGE = ("--image-volume=tmpfs", "--no-healthcheck")
RUNTIME_LABEL = "io.vitrail.runtime"
"""Label of a container; its value is the runtime directory of the broker that
started it."""


@dataclass(frozen=True)
class ContainerLimits:
    """Resource limits that the user's control groups can enforce."""

    memory_mib: int
    pids: int


@dataclass(frozen=True)
class Container:
    """A container to run.  ``image`` or ``rootfs`` is its root."""

    record: str
    command: tuple[str, ...]
    image: str | None
    rootfs: Path | None
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    places: Mapping[Path, Path] = field(default_factory=dict)
    """Where Podman finds ``rootfs`` and the paths of both lists, if elsewhere."""
    home: Path | None = None
    """Its home directory outside; None: one in memory, gone at its end."""
    limits: ContainerLimits | None = None
    resolver: Path | None = None
    """A file outside that is its resolv.conf(5); None: it has no network."""
    bridge: Path | None = None
    """The program outside that shows X11 windows (``shims/x11``)."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Language, terminal type and time zone of its programs."""
    open_files: int = SANDBOX_FDS
    stdin: bool = False
    """Whether it reads from Podman's standard input."""
    devices: tuple[Path, ...] = ()
    """Render nodes."""
    mounts: tuple[Mount, ...] = ()
    """Its file systems in memory, and places of directories that are mounted later."""


def podman_args(
    container: Container, hooks: Path, cid: Path, runtime: Path
) -> list[str]:
    """Return Podman's command line.

    ``hooks`` has the JSON of the hook's stages; Podman writes the container's id to
    ``cid``, which does not exist yet.
    """
    x11 = container.bridge is not None
    return [
        *("podman", "--hooks-dir", str(hooks), "run", *_CONFINED, *_IMAGE),
        *("--cidfile", str(cid)),
        *("--label", f"{RUNTIME_LABEL}={runtime}"),
        *("--annotation", f"io.vitrail.sandbox={container.record}"),
        *("--annotation", "io.vitrail.required=true"),
        *("--annotation", "io.vitrail.ours=true"),
        *(("--interactive",) if container.stdin else ()),
        *_few_files(container.open_files),
        *_limits(container.limits),
        *_files(container),
        *(f"--device={device}" for device in container.devices),
        *("--env", f"HOME={_HOME}", "--workdir", _HOME),
        *(f"--env={name}={value}" for name, value in container.variables.items()),
        *("--env", "XDG_SESSION_TYPE=wayland", "--env", "MOZ_ENABLE_WAYLAND=1"),
        *_NO_NAMESPACES,
        *("--env", f"GDK_BACKEND=wayland{',x11' if x11 else ''}"),
        *("--env", f"QT_QPA_PLATFORM=wayland{';xcb' if x11 else ''}"),
        *((_X11_ENTRYPOINT,) if x11 and container.command else ()),
        *_root(container),
        *container.command,
    ]


def _few_files(most: int) -> tuple[str, ...]:
    # See limited_gate_words (process.gate): its root is the user to the kernel.
    # guard: a container's programs open few files
    files = f"--ulimit=nofile={most}:{most}"
    # guard: a container has no real-time priority
    ordinary = ("--ulimit=rtprio=0:0", "--ulimit=nice=0:0")
    # guard: a container locks little memory
    locked = f"--ulimit=memlock={SANDBOX_LOCKED_BYTES}:{SANDBOX_LOCKED_BYTES}"
    # guard: a container ends first where memory ends
    first = f"--oom-score-adj={BOX_OOM}"
    return (files, *ordinary, locked, first)


def _limits(limits: ContainerLimits | None) -> Iterator[str]:
    if limits is not None:
        yield f"--memory={limits.memory_mib}m"
        yield f"--pids-limit={limits.pids}"


def _files(container: Container) -> Iterator[str]:
    """Yield Podman's words for the container's files."""
    # Where shared folders are mounted later: the root is read-only.
    yield from ("--tmpfs", "/folders:rw,nosuid,nodev,noexec,size=64k,mode=0755")
    for mount in container.mounts:
        # A directory is mounted over this, by its rule.
        most, mode = (mount.size, "1777") if mount.source is None else (65536, "0755")
        yield from ("--tmpfs", f"{mount.at}:rw,nosuid,nodev,size={most},mode={mode}")
    for path in container.read_only:
        yield from ("--volume", f"{container.places.get(path, path)}:{path}:ro")
    for path in container.read_write:
        yield from ("--volume", f"{container.places.get(path, path)}:{path}:rw")
    if container.bridge is not None:
        yield from ("--volume", f"{container.bridge}:{_BRIDGE}:ro")
    if container.resolver is not None:
        yield from ("--volume", f"{container.resolver}:/etc/resolv.conf:ro")
    if container.home is None:
        yield from ("--tmpfs", f"{_HOME}:rw,nosuid,nodev,mode=0700")
    else:
        yield from ("--volume", f"{container.home}:{_HOME}:rw,nosuid,nodev")


def _root(container: Container) -> Iterator[str]:
    """Yield Podman's words for the image or root."""
    if container.image is not None:
        yield container.image
    elif container.rootfs is not None:
        # An overlay: places to mount at are made there, and nothing is written to
        # the directory.
        root = container.places.get(container.rootfs, container.rootfs)
        yield from ("--rootfs", f"{root}:O")
    else:
        raise ValueError("the container has neither an image nor a root")
