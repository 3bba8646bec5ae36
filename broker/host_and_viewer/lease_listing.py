"""The control method that lists leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.ipc.control import host_methods as methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.control.types import leases as api
from broker.ipc.control.types.base import Nothing


@dataclass(frozen=True)
class LeaseListing:
    """The method of the part that has leases: the host, or a viewer for its own."""

    leases: Callable[[], list[api.LeaseStatus]]

    @serves(methods.LEASE_LIST)
    async def lease_list(
        self, exchange: Exchange[api.LeaseListAnswer], request: Nothing
    ) -> api.LeaseListAnswer:
        """All live leases."""
        del exchange, request
        return api.LeaseListAnswer(leases=self.leases())
