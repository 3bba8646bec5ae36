"""``brokerctl status`` where host and viewer are one: machines with their programs."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from typing_extensions import override

from broker.core.lease import Opening
from broker.host.role import ActiveLease
from broker.host.status import HostStatus, sandbox_status
from broker.ipc.control import api
from broker.viewer.status import ViewerStatus, devices_of, folders_of, programs_of


@dataclass
class LocalStatus(ViewerStatus, HostStatus):
    """The host's machines, leases and streams; the viewer's programs and rules."""

    @override
    async def sandboxes(self) -> list[api.SandboxStatus]:
        found = [self._sandbox(lease) for lease in self.host.active_leases()]
        return await self.with_limits(found)

    def _sandbox(self, active_lease: ActiveLease) -> api.SandboxStatus:
        record = self.records().records.get(active_lease.lease.record)
        status = sandbox_status(active_lease, record)
        guest = self.viewer.guest(active_lease.lease.id)
        if guest is None:
            return status
        return msgspec.structs.replace(
            status,
            state=guest.state if status.state == "running" else status.state,
            programs=programs_of(guest),
            devices=devices_of(self.viewer, guest.lease.id),
            folders=folders_of(self.viewer, guest.lease.id),
        )

    @override
    def leases(self) -> list[api.LeaseStatus]:
        return HostStatus.leases(self)

    @override
    def streams(self) -> list[tuple[Opening, float]]:
        return HostStatus.streams(self)

    @override
    def processes(self) -> list[api.ProcessStatus]:
        return [*ViewerStatus.processes(self), *HostStatus.processes(self)]
