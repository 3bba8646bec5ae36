"""Machines of Firecracker: started in the jail, and controlled by the API.

Firecracker makes the sockets of its vsock itself and connects to ours itself, so the
process that a lease recognises is the VMM, and no helper is needed.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from typing_extensions import override

from broker.host.images.vmlinux import find_vmlinux
from broker.host.launchers.firecracker import requests
from broker.host.launchers.firecracker.requests import InstanceState
from broker.host.vmm.control import Connect, Monitor
from broker.host.vmm.monitors.control import Dialect, api_of, connect_by_api
from broker.host.vmm.monitors.plan import MonitorPlan
from broker.host.vmm.running import Vm

DIALECT = Dialect(
    info=requests.INFO,
    read_state=requests.read_state,
    starting=MappingProxyType(
        {
            InstanceState.NOT_STARTED: requests.START,
            InstanceState.PAUSED: requests.RESUME,
        }
    ),
    # There is no power button: Ctrl, Alt and Del.
    press_power=requests.PRESS_POWER,
    quit=None,
    require_done=requests.require_done,
    guest_end="the guest powered off or rebooted",
)
connect: Connect = connect_by_api(DIALECT)


class FirecrackerPlan(MonitorPlan):
    """A machine of Firecracker on its way up."""

    monitor = Monitor.FIRECRACKER
    connect: Connect = staticmethod(connect)

    @override
    @staticmethod
    async def find_kernel(kernel: Path, cache: Path) -> Path:
        """Return the kernel as an ELF file, which is unpacked once into the cache."""
        # It takes ELF only.
        return await find_vmlinux(kernel, cache)

    @override
    def arguments(self) -> list[str]:
        requests.check(self._spec)
        return requests.arguments(self._tools.vmm, self.api, self._spec.name)

    @override
    async def prepare(self, vm: Vm) -> None:
        """Describe the machine; it waits for ``cont``."""
        api = api_of(vm)
        wanted = requests.configuration(self._spec, cid=self.cid, uds=self.uds)
        for request in wanted:
            await api.ask(request)
