"""``brokerctl network``: the open flows of sandboxes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import trio

from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.viewer.network.network_flows import FlowRow
from broker.viewer.role import ViewerRole
from broker.viewer.wayland.window_requests import fit_by_sandbox


@dataclass(frozen=True)
class NetworkControl:
    """The flows of all guests of a viewer."""

    viewer: ViewerRole

    @serves(methods.NETWORK)
    async def listed(
        self, exchange: Exchange[api.NetworkAnswer], request: api.NetworkRequest
    ) -> api.NetworkAnswer:
        """List the open flows of sandboxes.  Raises NotFoundError."""
        del exchange
        await trio.lowlevel.checkpoint()
        guests = self.viewer.guests()
        if request.sandbox is not None:
            guests = self.viewer.named(request.sandbox)
        flows = [
            _status(guest.lease.sandbox, row)
            for guest in sorted(guests, key=lambda guest: guest.lease.sandbox)
            for row in self.viewer.network.rows(guest.lease.id)
        ]
        return fit_by_sandbox(api.NetworkAnswer(flows=flows), "flows")


def _status(sandbox: str, row: FlowRow) -> api.FlowStatus:
    """Return the row of a flow for ``brokerctl network``."""
    now = trio.current_time()
    rates = row.rates_at(now)
    return api.FlowStatus(
        sandbox=sandbox,
        host=row.host,
        address=row.address,
        protocol=row.protocol,
        port=row.port,
        rule=row.rule,
        since=time.time() - (now - row.since),
        bytes_from_sandbox=row.sent,
        bytes_to_sandbox=row.received,
        rate_from_sandbox=rates[0],
        rate_to_sandbox=rates[1],
    )
