"""Machines of crosvm: started in the jail, and controlled by ``crosvm``'s own verbs.

Its vsock is vhost-device-vsock, as with QEMU: so a machine's identity is a socket in
our directory, and not one of the kernel's CIDs.  The protocol of its control
socket is not documented, only the verbs are (``crosvm resume SOCKET``); each is a
our process for one request, in a jail (``client``).  The socket is made by
crosvm, so the file at its name is proven first and then passed on as a descriptor.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

import trio
from typing_extensions import override

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.host.launchers.crosvm.arguments import arguments, guest_end
from broker.host.launchers.crosvm.client import ask_crosvm
from broker.host.processes.ready import wait_listening
from broker.host.processes.tracked import Tracked
from broker.host.vmm.control import (
    CONSOLE_SOCKET,
    Connect,
    Control,
    GuestEvents,
    Monitor,
)
from broker.host.vmm.monitors.api_socket import ApiSocket
from broker.host.vmm.monitors.console import open_console
from broker.host.vmm.monitors.plan import MonitorPlan
from broker.host.vmm.vm_state import API_SOCKET
from broker.host.vmm.vmm_jail import in_jail
from broker.host.vmm.vsock_backend import BACKEND_SOCKET, HELPER, spawn_backend


class CrosvmControl:
    """Implements ``launch.microvm.control.Control``."""

    def __init__(self, socket: ApiSocket, vmm: Tracked) -> None:
        self._socket = socket
        self._vmm = vmm

    async def run(self) -> None:
        """Wait for the end: there is no connection to be served."""
        await self._vmm.wait()

    async def cont(self) -> None:
        """Let the guest run; crosvm does nothing if it runs."""
        await self._ask("resume", limits.VMM_ANSWER_SECONDS)

    async def press_power(self) -> None:
        """Press the power button."""
        await self._ask("powerbtn", limits.VM_QUIT_SECONDS)

    async def quit(self) -> None:
        """End crosvm."""
        await self._ask("stop", limits.VM_QUIT_SECONDS)

    async def _ask(self, verb: str, deadline: float) -> None:
        """Run resume, powerbtn or stop of crosvm's control program.

        Raises UpstreamError.
        """
        # Not by whether a jail can be built: a guest may load the machine so that it
        # cannot for a moment.
        # guard: a crosvm in a jail is asked from a jail or not at all
        jail_needed = in_jail(self._vmm.pid)
        try:
            with self._socket.proven() as (_path, fd):
                await ask_crosvm([verb], fd, deadline=deadline, jail_needed=jail_needed)
        except SetupError as error:
            # A machine that cannot be asked to end is killed.
            raise UpstreamError(error.message, hint=error.hint) from error

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    def guest_end(self, code: int | None) -> str:
        """Return what crosvm's exit code says."""
        return guest_end(code)


async def connect(
    directory: Path, vmm: Tracked, events: GuestEvents
) -> tuple[Control, trio.abc.ReceiveStream]:
    """Wait for the control socket and open the console."""
    del events  # none exist: see ``guest_end``
    socket = ApiSocket(directory / API_SOCKET, vmm, packets=True)
    await socket.wait_ready()
    control = CrosvmControl(socket, vmm)
    return control, open_console(directory / CONSOLE_SOCKET)


class CrosvmPlan(MonitorPlan):
    """A machine of crosvm on its way up."""

    monitor = Monitor.CROSVM
    connect: Connect = staticmethod(connect)

    @property
    def backend(self) -> Path:
        """Where vhost-device-vsock waits for crosvm."""
        return self._spec.directory / BACKEND_SOCKET

    @override
    async def start_helpers(self, cid: int | None, quarantine: Container[int]) -> None:
        """Start the machine's helpers, with vhost-device-vsock.  Raises SetupError."""
        await super().start_helpers(cid, quarantine)
        tool = self._tools.vhost_device_vsock
        if tool is None:
            raise SetupError(
                "crosvm requires vhost-device-vsock, which is not installed",
                hint="to download it, run 'brokerctl link vsock'",
            )
        process = await spawn_backend(
            tool,
            self._spec.directory,
            self.cid,
            unjailed=self._unjailed,
            known=self._write_down,
        )
        self._undo.callback(process.close)
        self._undo.push_async_callback(process.end, 0)
        self._helpers += (process,)
        assert process.role == HELPER
        await wait_listening(self.backend, process)

    @override
    def arguments(self) -> list[str]:
        program = self._tools.vmm
        return arguments(self._spec, program, control=self.api, vsock=self.backend)

    @override
    def sockets(self) -> Sequence[Path]:
        """Not those of the guest's connections: the backend makes them."""
        return (self.api.parent,)

    @override
    def readable(self) -> Sequence[Path]:
        return (self.backend,)
