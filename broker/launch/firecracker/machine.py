"""Machines of Firecracker: started in the jail, and controlled by the API.

Firecracker makes the sockets of its vsock itself and connects to ours itself, so the
process that a lease recognises is the VMM, and no helper is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from typing_extensions import override

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.launch.firecracker import requests
from broker.launch.firecracker.requests import InstanceState
from broker.launch.microvm.control import CONSOLE_SOCKET, Connect, Control, Monitor
from broker.launch.microvm.running import Vm
from broker.launch.microvm.state import API_SOCKET
from broker.launch.monitors.api import ApiClient
from broker.launch.monitors.console import open_console
from broker.launch.monitors.http import ApiRequest
from broker.launch.monitors.plan import MonitorPlan
from broker.launch.process.identity import Tracked

_RUN = {
    InstanceState.NOT_STARTED: requests.START,
    InstanceState.PAUSED: requests.RESUME,
}
"""What lets a machine run that is not running yet."""


class FirecrackerControl:
    """Firecracker's API."""

    def __init__(self, api: ApiClient, vmm: Tracked) -> None:
        self._api = api
        self._vmm = vmm

    async def configure(self, request: ApiRequest) -> None:
        """Send one request.  Raises UpstreamError when it is refused."""
        requests.require_done(request, await self._api.call(request))

    async def run(self) -> None:
        """Wait for the end: there is no connection to be served."""
        await self._vmm.wait()

    async def cont(self) -> None:
        """Start the machine, or resume it; does nothing where it runs."""
        state = requests.read_state(await self._api.call(requests.INFO))
        if state in _RUN:
            await self.configure(_RUN[state])

    async def press_power(self) -> None:
        """Press Ctrl, Alt and Del: Firecracker has no power button."""
        deadline = limits.VM_QUIT_SECONDS
        reply = await self._api.call(requests.PRESS_POWER, deadline=deadline)
        requests.require_done(requests.PRESS_POWER, reply)

    async def quit(self) -> None:
        """End Firecracker, which has no request for that and no state to save."""
        self._vmm.kill()

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    def guest_end(self, code: int | None) -> str:
        """Firecracker ends with 0 when the guest resets itself."""
        return "the guest switched itself off, or reset itself" if code == 0 else ""


async def connect(
    directory: Path, vmm: Tracked, guest_ended: Callable[[str], None]
) -> tuple[Control, trio.abc.ReceiveStream]:
    """Wait for the API and open the console."""
    del guest_ended  # there are no events: see ``guest_end``
    api = ApiClient(directory / API_SOCKET, vmm)
    await api.wait_ready()
    return FirecrackerControl(api, vmm), open_console(directory / CONSOLE_SOCKET)


class FirecrackerPlan(MonitorPlan):
    """A machine of Firecracker on its way up."""

    monitor = Monitor.FIRECRACKER
    connect: Connect = staticmethod(connect)

    @override
    def arguments(self) -> list[str]:
        requests.check(self._spec)
        return requests.arguments(self._tools.vmm, self.api, self._spec.name)

    @override
    async def prepare(self, vm: Vm) -> None:
        """Describe the machine; it waits for ``cont``."""
        control = vm.control
        if not isinstance(control, FirecrackerControl):
            raise UpstreamError("this machine is not one of Firecracker's")
        wanted = requests.configuration(self._spec, cid=self.cid, uds=self.uds)
        for request in wanted:
            await control.configure(request)
