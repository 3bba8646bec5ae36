"""The fork servers' profiles: their jails, and what their children need, as data.

``broker.programs.fork_server`` is the program of all, and executes one profile.  Modules
are named and not imported: who orders a fork server has none of its children's code.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple

from broker.ipc.fork_server import ForkServerKind

FORK_SERVER: Final = "broker.programs.fork_server"


class ForkProfile(NamedTuple):
    """What one fork server does before it serves, and how it ends."""

    process: str
    """Process name, for ``ps``."""
    children: str
    """``MODULE:FUNCTION``, called in the jail with what that lacks: returns a
    ``Forking``."""
    jail: str = ""
    """``MODULE:FUNCTION``: enters the jail; returns why there is none, or ""."""
    ends_alone: bool = False
    """Whether it ends, and its children first, by the pidfd of a process."""


FORK_PROFILES: Final = MappingProxyType(
    {
        ForkServerKind.HELPERS: ForkProfile(
            "vitrail-helpers", "broker.programs.forks.helpers:prepare"
        ),
        ForkServerKind.WORKERS: ForkProfile(
            "vitrail-forks",
            "broker.programs.forks.workers:prepare",
            jail="broker.helpers.worker_jail.server_jail:enter",
            ends_alone=True,
        ),
    }
)
