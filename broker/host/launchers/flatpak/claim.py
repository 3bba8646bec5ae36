"""How the connections of a Flatpak application are recognised."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from broker.net.peers.identity import FlatpakClaim

if TYPE_CHECKING:
    from broker.host.launchers.registry import Bound


def claim(bound: Bound) -> FlatpakClaim:
    """Return the claim that recognises an application by flatpak's instance files."""
    # Late: few hosts have applications of Flatpak.
    from broker.net.peers.flatpak_instances import app_of
    from policy.records.model import Flatpak

    assert isinstance(bound.launch, Flatpak)
    find = partial(app_of, bound.runtime)
    return FlatpakClaim(str(bound.state.sockets), bound.launch.app, find)
