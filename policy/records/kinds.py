"""The launch kinds, and what a sandbox of each can do: one row for each kind.

Which keys a record of a kind has (``launch_table``), and what others ask about a launch
without knowing its kind, comes from these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    ``whole_gpu``: with a GPU it has all of /dev/dri, what shows pictures too.
    ``of_others``: other programs start it, at any time.
    ``boundary``: it is kept from the user's files and sockets; without, it is a label.
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
    whole_gpu: bool = False
    of_others: bool = False
    boundary: bool = True

    @property
    def box(self) -> bool:
        """Whether we start it, and no agent of ours is in it."""
        return not self.agent and not self.of_others

    def has(self, capability: Capability) -> bool:
        """Return the value of a column by its name."""
        return bool(getattr(self, capability))


def _machine(name: str, *, homes: bool = True, folders: bool = False) -> LaunchKind:
    """Return the row of a virtual machine that is made of an image."""
    return LaunchKind(
        name,
        agent=True,
        own_command=True,
        boots=True,
        homes=homes,
        network=homes,
        folders=folders,
    )


MICROVM = _machine("microvm", folders=True)
FIRECRACKER = _machine("firecracker")
CLOUD_HYPERVISOR = _machine("cloud-hypervisor")
CROSVM = _machine("crosvm")
# Their manager has the network and the disks.
LIBVIRT = _machine("libvirt-qemu", homes=False)
VMSPAWN = _machine("vmspawn", homes=False)
BWRAP = LaunchKind("bwrap", own_command=True, instant=True, holds=True, network=True)
PODMAN = LaunchKind("podman", own_command=True, holds=True, network=True)
NSPAWN = LaunchKind("nspawn", own_command=True, holds=True, network=True)
FLATPAK = LaunchKind("flatpak", holds=True, whole_gpu=True)
SHARED_BOX = LaunchKind("shared-box", boundary=False)
EXTERNAL = LaunchKind("external", of_others=True)
"""Started by others.  Whether our agent is inside depends on its ``[peer]``."""

KINDS: Mapping[str, LaunchKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            MICROVM,
            FIRECRACKER,
            CLOUD_HYPERVISOR,
            CROSVM,
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

MONITORS = (FIRECRACKER.name, CLOUD_HYPERVISOR.name, CROSVM.name)
"""Kinds of micro VMs whose VMM is not QEMU."""


def kinds_with(capability: Capability) -> tuple[str, ...]:
    """Return the names of the kinds that have a capability, in the table's order."""
    return tuple(kind.name for kind in KINDS.values() if kind.has(capability))
