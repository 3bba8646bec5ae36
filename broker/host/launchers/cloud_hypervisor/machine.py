"""Machines of Cloud Hypervisor: started in the jail, and controlled by the API.

Its vsock is as Firecracker's: the VMM itself connects to our sockets.
"""

from __future__ import annotations

from types import MappingProxyType

from typing_extensions import override

from broker.host.launchers.cloud_hypervisor import requests
from broker.host.launchers.cloud_hypervisor.requests import VmStatus
from broker.host.vmm.control import Connect, Monitor
from broker.host.vmm.monitors.control import Dialect, api_of, connect_by_api
from broker.host.vmm.monitors.plan import MonitorPlan
from broker.host.vmm.running import Vm

DIALECT = Dialect(
    info=requests.INFO,
    read_state=requests.read_state,
    starting=MappingProxyType(
        {VmStatus.CREATED: requests.BOOT, VmStatus.PAUSED: requests.RESUME}
    ),
    press_power=requests.PRESS_POWER,
    quit=requests.QUIT,
    require_done=requests.require_done,
    guest_end="the guest powered off",
)
connect: Connect = connect_by_api(DIALECT)


class CloudHypervisorPlan(MonitorPlan):
    """A machine of Cloud Hypervisor on its way up."""

    monitor = Monitor.CLOUD_HYPERVISOR
    connect: Connect = staticmethod(connect)

    @override
    def arguments(self) -> list[str]:
        return requests.arguments(self._tools.vmm, self.api)

    @override
    async def prepare(self, vm: Vm) -> None:
        """Describe the machine; it waits for ``cont``."""
        wanted = requests.create(self._spec, cid=self.cid, uds=self.uds)
        await api_of(vm).ask(wanted)
