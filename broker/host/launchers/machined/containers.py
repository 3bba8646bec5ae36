"""Containers of root's: registered with systemd-machined, libvirt's (LXC), Podman's.

The kernel does not tell a broker of an ordinary user in which pid namespace a process
of root's is (it needs the right to trace it).  What every user may read is the control
group of a process (cgroups(7), proc(5)), and below ``machine.slice`` only root moves
processes between units.  So a connection is the container's when it comes from a
process in the unit of its leader.

The sockets are in our directory with a fixed name for each record, because it is
root's configuration that binds it into the container (systemd.nspawn(5)), or the
domain's XML that mounts it.  libvirt's hook reports a container as a domain of QEMU,
with its first process as the leader.  A container of root's Podman is a launch, whose
directory root's hook mounts.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.names import ServiceName
from broker.core.paths import Paths
from broker.host.acceptor import Acceptors
from broker.host.foreign_machine import (
    ForeignMachine,
    HeldMachine,
    admit_other_users,
)
from broker.host.machine_interface import ConnectionKind
from broker.net.peers import credentials
from broker.net.peers.identity import GroupClaim

_SLICE = "machine.slice"
_UNITS = (".service", ".scope")
_OWN_DEPTH = 3
_PODMANS = re.compile(r"libpod-[0-9a-f]{64}")

LIBVIRT_LXC = "libvirt-lxc"
"""The hook's word for libvirt's containers."""


class RegisteredContainer(ForeignMachine):
    """A container that another program has started for root."""

    @override
    async def open_doors(
        self, acceptors: Acceptors
    ) -> Mapping[ServiceName, ConnectionKind]:
        """Open its sockets, and let the container's users connect to them.

        Outside, the directory above keeps other users from these sockets.
        """
        doors = await super().open_doors(acceptors)
        assert isinstance(self.claim, GroupClaim)
        admit_other_users(Path(self.claim.directory), doors)
        return doors


def unit_of(group: str) -> str | None:
    """Return the part of a control group's path that names its unit in machine.slice.

    A container divides its unit further.  None for a group elsewhere: in those a
    user may have the right to move processes.
    """
    parts = group.split("/")
    if _is_libvirts(parts) or _is_podmans(parts):
        return "/".join(parts[:_OWN_DEPTH])
    # guard: only root's slice of machines has containers
    if parts[:2] != ["", _SLICE]:
        return None
    for number, part in enumerate(parts):
        if part.endswith(_UNITS):
            return "/".join(parts[: number + 1])
    return None


def _is_libvirts(parts: list[str]) -> bool:
    """Return whether libvirt itself made a control group, without systemd.

    ``/machine`` is below the root of all groups, so root has made it.
    """
    return (
        parts[:2] == ["", "machine"]
        and len(parts) >= _OWN_DEPTH
        and parts[2].startswith("lxc-")
        and parts[2].endswith(".libvirt-lxc")
    )


def _is_podmans(parts: list[str]) -> bool:
    """Return whether root's Podman made a control group ("cgroupfs" driver).

    Beside those of its containers, "conmon" has its programs.
    """
    return (
        parts[:2] == ["", "libpod_parent"]
        and len(parts) >= _OWN_DEPTH
        and _PODMANS.fullmatch(parts[2]) is not None
    )


def root_claim(
    name: str, directory: Path, held: HeldMachine, leader: int
) -> GroupClaim:
    """Return the claim of a container of root's; create its directory of sockets.

    Raises RefusedError unless root alone can fill its control group,
    UpstreamError when there is no directory for its sockets.
    """
    group = credentials.control_group(leader, held.pidfd(leader))
    unit = unit_of(group)
    if unit is None:
        # Below its unit a container gives names as it likes, of any bytes.
        # guard: the name of a control group is escaped
        shown = printable(os.fsencode(group))
        raise RefusedError(
            f"cannot lease container '{name}' in the control group '{shown}': Vitrail trusts only units of root in {_SLICE}",
            hint=f"start it as 'systemd-nspawn@{name}.service', with machinectl or the system's libvirtd, or with Podman in a separate control group",
        )
    make_directory(directory)
    return GroupClaim(str(directory), unit, leader)


def registered_container(
    name: str, directory: Path, held: HeldMachine, leader: int
) -> RegisteredContainer:
    """Return a container whose leader is held; raises as ``root_claim``.

    Creates its directory of sockets.
    """
    claim = root_claim(name, directory, held, leader)
    return RegisteredContainer(claim, held, leader)


def make_directory(directory: Path) -> None:
    """Make the directory of a container's sockets.  Raises UpstreamError.

    The container's users are others outside, also its root where it has a user
    namespace: they enter it through the container's mount alone.
    """
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o755, exist_ok=True)
        # Our broker has the umask 077.
        directory.chmod(0o755)
    except OSError as error:
        raise UpstreamError(
            f"cannot create a directory for the container's sockets: {error.strerror}",
            where=str(directory),
        ) from error


class LibvirtContainer(RegisteredContainer):
    """A container of libvirt's that runs; its state is for a later broker."""

    def __init__(
        self, claim: GroupClaim, held: HeldMachine, leader: int, state: Path
    ) -> None:
        super().__init__(claim, held, leader)
        self._state = state

    @override
    async def close(self) -> None:
        """Let go of it, and remove what a later broker would take it over by."""
        await super().close()
        shutil.rmtree(self._state, ignore_errors=True)


def libvirt_sockets(paths: Paths, record: str) -> Path:
    """The directory of a container's sockets, for the <filesystem> of its domain."""
    return paths.runtime / LIBVIRT_LXC / record


def libvirt_container(
    record: str, paths: Paths, held: HeldMachine, leader: int, state: Path
) -> LibvirtContainer:
    """Return a container whose leader is held; raises as ``root_claim``.

    Creates its directory of sockets.
    """
    claim = root_claim(record, libvirt_sockets(paths, record), held, leader)
    return LibvirtContainer(claim, held, leader, state)
