"""Launchers that another program calls: how the sandboxes of each kind are recognised.

What a kind can do is in its row of ``policy.records.kinds``; how the kernel shows whose
connection it is, in its folder here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from broker.host.foreign_machine import HeldMachine, container_claim
from broker.host.launchers.flatpak.claim import claim as flatpak_claim
from broker.host.launchers.interface import Prepared
from broker.host.launchers.podman.claim import claim as podman_claim
from broker.net.peers.identity import Claim, SharedClaim
from policy.records import kinds
from policy.records.model import Launch, SharedBox


@dataclass(frozen=True, slots=True)
class Bound:
    """A prepared sandbox with its first process, which waits.

    ``runtime`` is the directory of the user's runtime files.
    """

    state: Prepared
    launch: Launch
    held: HeldMachine
    leader: int
    runtime: Path


def _by_namespace(bound: Bound) -> Claim:
    return container_claim(bound.state.sockets, bound.held, bound.leader)


def _by_label(bound: Bound) -> Claim:
    """A shared box is not distinct: any program of the user is in it."""
    assert isinstance(bound.launch, SharedBox)
    rootful = bound.launch.rootful
    return SharedClaim(str(bound.state.sockets), os.getuid(), rootful=rootful)


CLAIMS: Mapping[str, Callable[[Bound], Claim]] = MappingProxyType(
    {
        kinds.BWRAP.name: _by_namespace,
        kinds.NSPAWN.name: _by_namespace,
        kinds.PODMAN.name: podman_claim,
        kinds.FLATPAK.name: flatpak_claim,
        kinds.SHARED_BOX.name: _by_label,
    }
)
"""By the kind's name."""
