"""Containers of root's that are registered with systemd-machined.

The kernel does not tell a broker of an ordinary user in which pid namespace a process
of root's is (it needs the right to trace it).  What every user may read is the control
group of a process (cgroups(7), proc(5)), and below ``machine.slice`` only root moves
processes between units.  So a connection is the container's when it comes from a
process in the unit of its leader.

The sockets are in a directory of ours with a fixed name for each record, because it is
root's configuration that binds it into the container (systemd.nspawn(5)).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.names import ServiceName
from broker.host.acceptor import Acceptors
from broker.host.foreign_machine import (
    ForeignMachine,
    HeldMachine,
    admit_other_users,
)
from broker.host.machine import ConnectionKind
from broker.peers import credentials
from broker.peers.identity import GroupClaim

_SLICE = "machine.slice"
_UNITS = (".service", ".scope")


class RegisteredContainer(ForeignMachine):
    """A container that systemd-nspawn has started for root."""

    @override
    async def open_doors(
        self, acceptors: Acceptors
    ) -> Mapping[ServiceName, ConnectionKind]:
        """Listen; the container's users, which are others outside, may connect.

        Outside, the directory above keeps other users from these sockets.
        """
        doors = await super().open_doors(acceptors)
        assert isinstance(self.claim, GroupClaim)
        admit_other_users(Path(self.claim.directory), doors)
        return doors


def unit_of(group: str) -> str | None:
    """Return the part of a control group's path that names its unit in machine.slice.

    A container divides its own unit further.  None for a group elsewhere: in those a
    user may have the right to move processes.
    """
    parts = group.split("/")
    # guard: only root's slice of machines has containers
    if parts[:2] != ["", _SLICE]:
        return None
    for number, part in enumerate(parts):
        if part.endswith(_UNITS):
            return "/".join(parts[: number + 1])
    return None


def registered_container(
    name: str, directory: Path, held: HeldMachine, leader: int
) -> RegisteredContainer:
    """Return a container whose leader is held.

    Raises RefusedError when its control group is not one that root alone fills,
    UpstreamError when there is no directory for its sockets.
    """
    group = credentials.control_group(leader, held.pidfd(leader))
    unit = unit_of(group)
    if unit is None:
        # Below its unit a container gives names as it likes, of any bytes.
        # guard: the name of a control group is escaped
        shown = printable(os.fsencode(group))
        raise RefusedError(
            f"container '{name}' is in the control group '{shown}', and only units in "
            f"{_SLICE} are known to be root's",
            hint=f"start it as 'systemd-nspawn@{name}.service' or by machinectl",
        )
    make_directory(directory)
    return RegisteredContainer(GroupClaim(str(directory), unit, leader), held, leader)


def make_directory(directory: Path) -> None:
    """Make the directory of a container's sockets.  Raises UpstreamError."""
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise UpstreamError(
            f"no directory for its sockets: {error.strerror}", where=str(directory)
        ) from error
