"""The control method that lists leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.ipc.control import api, methods
from broker.ipc.control.methods import Exchange, serves


@dataclass(frozen=True)
class LeaseListing:
    """The method of the part that has leases: the host, or a viewer for its own."""

    leases: Callable[[], list[api.LeaseStatus]]

    @serves(methods.LEASE_LIST)
    async def lease_list(
        self, exchange: Exchange[api.LeaseListAnswer], request: api.Nothing
    ) -> api.LeaseListAnswer:
        """All live leases."""
        del exchange, request
        return api.LeaseListAnswer(leases=self.leases())
