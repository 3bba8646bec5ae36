"""The launch kinds, and what a sandbox of each can do: one row for each kind.

Which keys a record of a kind has (``launch_table``), and what others ask about a launch
without knowing its kind, comes from these rows.

All processes with a record have this table: authority, host, viewer, session children,
brokerctl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

KIND_KEY = "launch.kind"
"""The key of a record that names its kind."""

Capability = Literal[
    "agent",
    "own_command",
    "boots",
    "instant",
    "holds",
    "homes",
    "network",
    "folders",
    "mounts",
    "disks",
    "boundary",
]


@dataclass(frozen=True, slots=True)
class LaunchKind:
    """One kind, by its name in records.

    ``agent``: our agent is in its guest, reports and starts programs there.
    ``own_command``: the record has the program.
    ``boots``: it boots an image, by a deadline.
    ``instant``: it starts in milliseconds, so its worker is started with it.
    ``holds``: 'brokerctl run' starts its first process, held until it is leased, with the
    user's paths that the record binds.
    ``homes``: it keeps a home on a disk.
    ``network``: the record says which one it has.
    ``folders``: folders are shared with it while it runs.
    ``mounts``: its record mounts directories and memory at paths of its own.
    ``disks``: images of the user's are its disks.
    ``whole_gpu``: with a GPU it has all of /dev/dri, what shows pictures too.
    ``of_others``: other programs start it, at any time.
    ``boundary``: it is kept from the user's files and sockets; without, it is a label.
    ``gpu``: how its programs can draw with a GPU.
    ``host_x11``: an Xwayland of this machine shows its X11 programs.
    ``part``: the package that has its launcher, if few need it.
    """

    name: str
    agent: bool = False
    own_command: bool = False
    boots: bool = False
    instant: bool = False
    holds: bool = False
    homes: bool = False
    network: bool = False
    folders: bool = False
    mounts: bool = False
    disks: bool = False
    whole_gpu: bool = False
    of_others: bool = False
    boundary: bool = True
    gpu: Literal["buffers", "render"] = "buffers"
    host_x11: bool = False
    part: str = ""

    @property
    def box(self) -> bool:
        """Return whether we start it, and no agent of ours is in it."""
        return not self.agent and not self.of_others

    def has(self, capability: Capability) -> bool:
        """Return the value of a column by its name."""
        return bool(getattr(self, capability))


_LAUNCHERS = "launchers"
_CONTAINER = LaunchKind("", own_command=True, holds=True, network=True, mounts=True)
_MICROVM = LaunchKind(
    "", agent=True, own_command=True, boots=True, homes=True, network=True
)
# A manager has the network and the disks.
_MANAGED = replace(_MICROVM, homes=False, network=False)

MICROVM = replace(
    _MICROVM, name="microvm", folders=True, mounts=True, disks=True, gpu="render"
)
LIBVIRT = replace(_MANAGED, name="libvirt-qemu", part=_LAUNCHERS)
VMSPAWN = replace(_MANAGED, name="vmspawn", part=_LAUNCHERS)
BWRAP = replace(_CONTAINER, name="bwrap", instant=True, host_x11=True)
PODMAN = replace(_CONTAINER, name="podman")
NSPAWN = replace(_CONTAINER, name="nspawn", part=_LAUNCHERS)
FLATPAK = LaunchKind("flatpak", holds=True, whole_gpu=True, host_x11=True)
SHARED_BOX = LaunchKind("shared-box", boundary=False, host_x11=True, part=_LAUNCHERS)
EXTERNAL = LaunchKind("external", of_others=True)
"""Started by others.  Whether our agent is inside depends on its ``[peer]``."""

KINDS: Mapping[str, LaunchKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            MICROVM,
            LIBVIRT,
            VMSPAWN,
            BWRAP,
            PODMAN,
            NSPAWN,
            FLATPAK,
            SHARED_BOX,
            EXTERNAL,
        )
    }
)
"""Kind by its name.  A kind is a row here, a folder of ``broker.host.launchers``, a page
of ``docs/launchers`` and a class of ``tests/conformance/launchers``."""


def kinds_with(capability: Capability) -> tuple[str, ...]:
    """Return the names of the kinds that have a capability, in the table's order."""
    return tuple(kind.name for kind in KINDS.values() if kind.has(capability))
