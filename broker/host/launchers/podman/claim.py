"""How the connections of a container of Podman are recognised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from broker.host.foreign_machine import HeldMachine, container_claim
from broker.host.launchers.machined.containers import root_claim
from broker.net.peers import credentials
from broker.net.peers.identity import ContainerClaim, GroupClaim

if TYPE_CHECKING:
    from broker.host.launchers.registry import Bound


def claim(bound: Bound) -> ContainerClaim | GroupClaim:
    """Return the claim of a container: by its pid namespace or its control group.

    The latter creates its directory of sockets.
    """
    sockets = bound.state.sockets
    group = None
    if not bound.state.ours:
        group = podmans_claim(sockets, bound.held, bound.leader)
    return group or container_claim(sockets, bound.held, bound.leader)


def podmans_claim(directory: Path, held: HeldMachine, leader: int) -> GroupClaim | None:
    """Return the claim of a container of root's Podman whose leader is held.

    None for a leader whose pid namespace the kernel tells us, or could tell none: that
    is a container of our own user's.  Raises as ``root_claim``.  Creates the
    container's directory of sockets, if it has a claim.
    """
    able = credentials.can_ask_pid_namespaces()
    if not able or credentials.pid_namespaces(held.pidfd(leader)):
        return None
    return root_claim("podman", directory, held, leader)
