"""The other part of the broker, as the code sees it that asks it for things.

An epoch of the link is one (``link_service.epoch``), and the pair of sockets between
host and viewer on one machine (``host_pair.pair_end``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from broker.net.link.lease_book import LeaseBook
from broker.net.link.messages import LinkReply, LinkRequest

_R = TypeVar("_R", bound=LinkRequest)


class FarEnd(Protocol):
    """A live connection to the other part."""

    live: bool
    over: trio.Event
    """Set when the connection has ended."""

    @property
    def leases(self) -> LeaseBook:
        """The leases that the host has announced on it."""
        ...

    async def ask(self, make: Callable[[int], _R]) -> LinkReply:
        """Send a request and return its reply.

        Raises the other part's error, or UpstreamError when the connection ends first.
        """
        ...
