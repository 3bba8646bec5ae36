"""Our running micro VM, as a machine that a host leases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.authority.audit.event_log import EventLog
from broker.core.errors import RefusedError
from broker.core.names import SandboxName, ServiceName
from broker.host.acceptor import Acceptors
from broker.host.foreign_machine import hybrid_doors
from broker.host.machine_interface import MachineFacts
from broker.host.processes.tracked import Tracked
from broker.host_and_viewer.sandbox_names import require_running
from broker.ipc.audit import schema
from broker.net.listeners import Listener
from broker.net.peers import credentials
from broker.net.peers.identity import Claim, Connector, HybridClaim, VsockClaim

if TYPE_CHECKING:
    import socket

    from broker.host.images.store import Image
    from broker.host.network.switch.switches import SwitchSeat
    from broker.host.vmm.qmp import Qmp
    from broker.host.vmm.running import Vm
    from broker.net.peers.launch_secret import LaunchSecret

FOLDERS = "virtiofsd-"
"""As ``launch.microvm.state.FOLDERS``, which is loaded with the first machine."""
_FRAME_CARRIERS = frozenset({"frameguard", "netguard", "passt"})
_BACKENDS = {
    "vhost-device-vsock": schema.Process.VHOST_DEVICE_VSOCK,
    "port-mux": schema.Process.PORT_MUX,
}
"""What carries a machine's streams, by its role."""


class MicroVmMachine:
    """Implements ``host.machine_interface.Machine`` for our micro VMs."""

    def __init__(
        self,
        sandbox: SandboxName,
        vm: Vm,
        log: EventLog,
        image: Image | None,
        secret: LaunchSecret | None = None,
        *,
        seats: tuple[SwitchSeat, ...] = (),
        on_close: Callable[[], object] = lambda: None,
        keep_logs: bool = True,
    ) -> None:
        self._keep_logs = keep_logs
        self._on_close = on_close
        self._secret = secret
        self._seats = seats
        self._sandbox = sandbox
        self._vm = vm
        self._log = log
        self._image = image
        self._began = time.monotonic()
        self._claim = _claim(vm)
        self._suspended = False
        self._shortage = ""
        """Why its VMM is stopped without a request; see ``home_room``."""
        self.ending = False

    @property
    def claim(self) -> Claim:
        """Its hybrid socket and the process behind it, or its CID."""
        return self._claim

    @property
    def secret(self) -> LaunchSecret | None:
        """Of its launch; None behind a socket in a directory that is ours alone."""
        return self._secret

    @property
    def facts(self) -> MachineFacts:
        """Return its processes, CID, accelerator and image, for status and events."""
        image = self._image
        return MachineFacts(
            pid=self._vm.vmm.pid,
            cid=self._vm.cid,
            accel=self._vm.state.accel.value,
            image="" if image is None else image.name,
            image_built=None if image is None else image.manifest.built,
            processes=tuple((p.role, p.pid) for p in self._vm.processes),
        )

    @property
    def qmp(self) -> Qmp:
        """QEMU's monitor.

        Raises RefusedError while its VMM is stopped, UpstreamError when it is not connected.
        """
        # guard: a suspended machine is asked nothing, as its monitor says nothing
        require_running(self._sandbox, suspended=self._suspended)
        if self._shortage:
            raise RefusedError(f"{self._sandbox}: {self._shortage}")
        return self._vm.qmp

    @property
    def arena(self) -> int:
        """A descriptor of its arena, closed with the machine; -1: it has none."""
        return self._vm.arena

    @property
    def flows(self) -> socket.socket | None:
        """Its frame filter's questions; None: it asks nothing."""
        return self._vm.flows

    def network_processes(self, *, flows_too: bool) -> tuple[Tracked, ...]:
        """Return the processes that carry its frames, but those that ask about flows."""
        if self._vm.flows is not None and not flows_too:
            return ()
        return tuple(p for p in self._vm.processes if p.role in _FRAME_CARRIERS)

    @property
    def folder_servers(self) -> dict[int, Tracked]:
        """Return its virtiofsd processes, by the number of the folder's place."""
        return {
            int(process.role.removeprefix(FOLDERS)): process
            for process in self._vm.processes
            if process.role.startswith(FOLDERS)
        }

    def alive(self) -> frozenset[int]:
        """Return the pids of its running processes that may connect to us."""
        return frozenset(
            p.pid
            for p in _connectors(self._vm)
            if not credentials.is_ending(p.pid) and not p.ended
        )

    async def open_doors(self, acceptors: Acceptors) -> Mapping[ServiceName, Listener]:
        """Listen on the UNIX sockets ``<uds>_<port>``, after the backend started."""
        del acceptors  # a machine passes no descriptors
        uds = self._vm.uds
        # What carries its streams has the directory in its jail, and can lock it.
        # guard: a machine's lock on its sockets is not waited for
        return {} if uds is None else await hybrid_doors(uds, alone=True)

    async def go(self) -> None:
        """Resume the guest's processors.

        Also one that was adopted: its broker may have been killed between
        starting it and letting it run.  QEMU does nothing if the machine runs.
        """
        await self._vm.cont()

    async def wait(self) -> str:
        """Wait until the machine has ended; record an end that was not requested."""
        from broker.host.vmm.running import EndKind

        end = await self._vm.wait()
        if end.kind is EndKind.LOST:
            reason, found = end.reason, _BACKENDS.items()
            died = (process for role, process in found if reason.startswith(role))
            process = next(died, schema.Process.VMM)
            event = schema.ProcessDied(
                sandbox=self._sandbox, process=process, reason=reason
            )
            await self._log.note(event)
        return end.reason

    async def suspend(self) -> None:
        """Stop the VMM, and the guest with it."""
        await trio.lowlevel.checkpoint()
        self._suspended = True
        self._signal()

    async def resume(self) -> None:
        """Let the VMM run, unless it is stopped for want of room on the disk."""
        await trio.lowlevel.checkpoint()
        self._suspended = False
        self._signal()

    def stop_for(self, shortage: str) -> None:
        """Stop the VMM, for this reason; "": let it run, unless it is suspended."""
        self._shortage = shortage
        self._signal()

    def _signal(self) -> None:
        """Stop the VMM or let it run."""
        if self._suspended or self._shortage:
            self._vm.suspend()
        else:
            self._vm.resume()

    async def power_down(self, grace: float) -> None:
        """End the machine; a stopped one is resumed, so that its guest can end in order."""
        self.ending, self._shortage = True, ""
        await self.resume()
        await self._vm.power_down(grace)

    async def close(self) -> None:
        """Free the ended machine's network seats and directory, and record its stop."""
        self.ending = True
        self._on_close()
        await self._vm.close()
        for seat in self._seats:
            await seat.leave()
        remove_directory(self._vm.directory)
        if not self._keep_logs:
            remove_directory(Path(self._vm.state.logs))
        await self._log.note(
            schema.SandboxStop(
                sandbox=self._sandbox,
                outcome="gone",
                seconds=time.monotonic() - self._began,
            )
        )


def remove_directory(directory: Path) -> None:
    """Remove what a machine has on disk."""
    # Late: a host of others' machines needs none of it.
    from broker.core.files.trees import remove_tree

    remove_tree(directory)


def _connectors(vm: Vm) -> tuple[Tracked, ...]:
    backends = tuple(p for p in vm.processes if p.role in _BACKENDS)
    # Without one the VMM connects, or the kernel for the CID that QEMU holds.
    return backends or (vm.vmm,)


def _claim(vm: Vm) -> Claim:
    """Return the claim that admits connections of a machine."""
    if vm.uds is None:
        return VsockClaim(credentials.network_namespace(), vm.cid, vm.vmm.pid)
    pids = frozenset(
        Connector(p.pid, credentials.pidfd_inode(p.pidfd)) for p in _connectors(vm)
    )
    return HybridClaim(str(vm.uds), pids)
