"""What a ``peer.Peer`` needs of the way that its messages take.

Host, viewer, authority and workers have carriers: packets with descriptors, frames on a
stream, sealed records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from broker.wire.fdpass import Received


class Carrier(ABC):
    """Messages in order, both ways; owns its socket."""

    @abstractmethod
    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message; waits for room.  The caller keeps ``fds``.

        Raises OSError when the far end has closed, or the kernel refuses descriptors.
        """

    @abstractmethod
    async def receive(self, fd_limit: int = 0) -> Received:
        """Wait for the next message; empty when the far end has closed.

        Raises PeerError for a message beyond the carrier's limits, DescriptorsLostError
        for one whose descriptors the kernel could not deliver.
        """

    @abstractmethod
    def close(self) -> None:
        """Close it; tasks that wait in it raise ClosedResourceError, or see an end."""


class QueueingCarrier(Carrier):
    """A carrier whose messages can be sent from code that must not be interrupted."""

    @abstractmethod
    def put(self, data: bytes) -> None:
        """Send a message at once, or queue it; never waits.

        Raises UpstreamError when the far end has closed, or does not read.
        """

    @abstractmethod
    async def run(self) -> None:
        """Write what is queued, until cancelled or the far end has closed."""
