"""How the connections of a container of Podman are recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.host.foreign_machine import container_claim
from broker.host.launchers.machined.containers import podmans_claim
from broker.net.peers.identity import ContainerClaim, GroupClaim

if TYPE_CHECKING:
    from broker.host.launchers.registry import Bound


def claim(bound: Bound) -> ContainerClaim | GroupClaim:
    """Return the claim; containers that others start may share namespaces in a pod."""
    sockets = bound.state.sockets
    group = None
    if not bound.state.ours:
        group = podmans_claim(sockets, bound.held, bound.leader)
    return group or container_claim(sockets, bound.held, bound.leader)
