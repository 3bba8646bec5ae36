"""The interface of a machine for the host's part, whichever program started it.

``launch.microvm`` machines and foreign ones (``host.foreign_machine``) both wear
this face, so leases, doors and ends are written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from broker.core.names import ServiceName
from broker.host.acceptor import Acceptors, RemoteListener
from broker.net.listeners import Listener
from broker.net.peers.identity import Claim

if TYPE_CHECKING:
    from broker.net.peers.launch_secret import LaunchSecret

PROGRAMS: Final = "programs"
"""The role of the first process of a box or container; its programs descend from it."""
ConnectionKind: TypeAlias = Listener | RemoteListener
"""Where its connections arrive: here, or at a separate process."""


@dataclass(frozen=True)
class MachineFacts:
    """Facts about a machine for ``brokerctl status``."""

    pid: int | None = None
    """Of the process whose end is the machine's end."""
    cid: int | None = None
    accel: str = ""
    image: str = ""
    image_built: float | None = None
    """Seconds since 1970."""
    processes: tuple[tuple[str, int], ...] = ()
    """(role, pid) of all processes that were started for it, of its programs the first."""


class Machine(Protocol):
    """A sandbox's machine, from before its first instruction to its end."""

    @property
    def claim(self) -> Claim:
        """How its connections are recognised."""
        ...

    @property
    def facts(self) -> MachineFacts:
        """For status and events."""
        ...

    @property
    def secret(self) -> LaunchSecret | None:
        """The secret that guest and broker prove to each other; None: no proof."""
        ...

    def alive(self) -> frozenset[int]:
        """Pids of the claim's processes that have not begun to end."""
        ...

    async def open_doors(
        self, acceptors: Acceptors
    ) -> Mapping[ServiceName, ConnectionKind]:
        """Open and return its listening sockets, one for each service; called once.

        Raises SetupError when one of them cannot be had (port in use).
        """
        ...

    async def go(self) -> None:
        """Let the machine run: lease and doors are there."""
        ...

    async def wait(self) -> str:
        """Wait for its end and return the reason."""
        ...

    async def suspend(self) -> None:
        """Stop its programs, until ``resume``.  Raises RefusedError, UpstreamError."""
        ...

    async def resume(self) -> None:
        """Let them run; does nothing if they run.  Raises RefusedError, UpstreamError."""
        ...

    async def power_down(self, grace: float) -> None:
        """End the machine: ask, and insist after ``grace`` seconds."""
        ...

    async def close(self) -> None:
        """Release everything that is left of the machine; called once, at the end.

        What keeps its identity from being taken (a CID's descriptor, the
        directory of its sockets) is kept until here.
        """
        ...
