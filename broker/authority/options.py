"""How a broker is to run.

The program that starts a broker makes them; the authority, the host and the viewer read
them.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker.core.paths import Paths


@dataclass(frozen=True)
class Options:
    """How a broker is to run."""

    paths: Paths
    starter: socket.socket
    """To the process that starts the authority's helpers (``helpers.starter``)."""
    shipped: Path | None = None
    """A directory of records that is searched last (the demo's)."""
    allow_unjailed: bool = False
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)
    """Handed over by a service manager: ``control``, ``link``."""


@dataclass(frozen=True)
class ClientEnds:
    """Sockets between the authority and one of its clients, one end of each."""

    requests: socket.socket
    calls: socket.socket
    """Calls of the control socket that the client answers."""

    def close(self) -> None:
        """Close both."""
        self.requests.close()
        self.calls.close()


def client_roles(role: str) -> Sequence[str]:
    """Return the roles of the authority's clients in a broker of this role."""
    return ("host", "viewer") if role == "local" else (role,)
