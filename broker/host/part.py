"""The host's part, wired: machines, leases, doors, and their foundations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from broker.core import limits
from broker.core.errors import RefusedError, VitrailError
from broker.core.launch_changes import LaunchChanges
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.core.notify import Notify
from broker.core.parts.absent import is_installed, needed
from broker.core.stderr_log import log_exception, log_stderr
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.host.acceptor import Acceptors
from broker.host.admission import Admission
from broker.host.devices.host_devices import DeviceHost
from broker.host.host_status import HostRows
from broker.host.launchers.microvm import MicroVms
from broker.host.launchers.microvm_machine import MicroVmMachine
from broker.host.lease_requests import Leasing, sandbox_name
from broker.host.network.cut_networks import CutNetworks
from broker.host.network.switch.switches import Switches, SwitchSeat
from broker.host.places import places_of
from broker.host.required_parts import unleased_records
from broker.host.role import ActiveLease, HostRole
from broker.host.room import Room
from broker.host.vsock_listeners import (
    PortTakenError,
    VsockPorts,
    open_vsock_listeners,
    serve_vsock,
)
from broker.host_and_viewer.foundation import Foundation
from broker.ipc.audit import schema
from broker.ipc.host_viewer import Viewer
from broker.net.peers.identity import VsockClaim
from policy.records.model import Record, boots
from policy.records.places import is_held
from policy.suggestions import did_you_mean

if TYPE_CHECKING:
    from broker.host.images.store import Image
    from broker.host.machine_interface import Machine
    from broker.host.vmm.launcher import Tools
    from broker.host.vmm.qmp import Qmp

VHOST_VSOCK = Path("/dev/vhost-vsock")


def _to_stderr(title: str, text: str, *, sandbox: str = "") -> None:
    del sandbox
    log_stderr(f"{title}: {text}")


class Adopting(Protocol):
    """A launcher whose sandboxes outlive the broker."""

    warnings: list[str]
    """Problems with earlier sandboxes, for ``brokerctl status``."""

    async def adopt(self) -> Sequence[tuple[SandboxName, SandboxName, Machine]]:
        """Return what outlived an earlier broker: sandbox, record, machine.

        What does not live any more, or whose record is gone, is removed.
        """
        ...


class HostPart:
    """Everything of a host but its way to the viewer."""

    def __init__(
        self,
        ground: Foundation,
        viewer: Viewer,
        acceptors: ForkServerHandle | None = None,
        alarm: Notify = _to_stderr,
    ) -> None:
        """Set up; ``alarm`` notifies the user.

        ``acceptors``: the helpers' fork server.
        """
        self._ground = ground
        self.switches = Switches()
        self._vms = MicroVms(
            paths=ground.paths,
            record=self._record,
            find_tools=self._find_tools,
            listen_vsock=self._listen_vsock,
            log=ground.log,
            seats=self._seats,
        )
        self._vms.alarm = alarm
        self._devices = DeviceHost(self._qmp_of, leases=self._active_leases)
        self.role = HostRole(
            viewer=viewer,
            log=ground.log,
            open_machine=self._vms.open,
            name_for=self._name_for,
            devices=self._devices,
            room=Room(self._memory_mib),
            start_box=self._start_box,
            acceptors=Acceptors(acceptors),
        )
        self._vms.stopped = self.role.machine_stopped
        self.networks = CutNetworks(
            self.role, self.switches, flows_too=ground.role == "host"
        )
        self.leasing = Leasing(
            host=self.role,
            log=ground.log,
            records=lambda: ground.records.now,
            reload=ground.records.reload,
            listen_vsock=self._listen_vsock,
            paths=ground.paths,
        )
        self.rows = HostRows(self.role, lambda: ground.records.now, self._vms.waiting)
        self._nursery: trio.Nursery | None = None
        self._listening = trio.Lock()
        self._ports: VsockPorts | None = None
        self._alarmed: set[int] = set()
        self._notify = alarm

    async def run(self, nursery: trio.Nursery) -> None:
        """Start the host's tasks; adopt machines; return when it takes connections.

        Machines that outlived an earlier broker have their leases then.
        """
        await nursery.start(self._vms.run)
        await nursery.start(self.role.run)
        await nursery.start(self._devices.run)
        self._nursery = nursery
        if VHOST_VSOCK.exists() and os.access(VHOST_VSOCK, os.R_OK | os.W_OK):
            await self._listen_early(nursery)
        await self.adopt(self._vms)
        await self.adopt(self.leasing.foreign)
        if not is_installed("launchers"):
            return  # 'warnings' names the records that need it
        nursery.start_soon(self._watch_machined)
        if (self._ground.paths.runtime / "libvirt").exists():
            self._vms.warnings += await self.leasing.guests().adopt()

    async def _watch_machined(self) -> None:
        """Watch systemd-machined's machines, of the system and of the user."""
        # Late: it is of use only where a record names a machine.
        with needed("leasing machines of systemd-machined"):
            from broker.host.launchers.machined.guests import SYSTEM, MachinedGuests

        records, paths = self._ground.records, self._ground.paths
        async with trio.open_nursery() as nursery:
            for machined in (SYSTEM, paths.runtime.parent / "systemd"):
                guests = MachinedGuests(
                    host=self.role,
                    log=self._ground.log,
                    records=lambda: records.now,
                    reload=records.reload,
                    listen_vsock=self._listen_vsock,
                    sockets=paths.runtime / "machined",
                    machined=machined,
                )
                nursery.start_soon(guests.run)

    async def adopt(self, launcher: Adopting) -> None:
        """Lease machines that outlived an earlier broker; failures become warnings."""

        async def admit(
            sandbox: SandboxName, record: SandboxName, machine: Machine
        ) -> None:
            try:
                await self.role.admit(sandbox, record, machine)
            # guard: one machine keeps no broker from starting
            except Exception as error:  # noqa: BLE001 -- see below
                if not isinstance(error, VitrailError | OSError):
                    # An internal error about one machine, which may have caused it:
                    # the others are leased, and a broker has to start.
                    log_exception(error)
                launcher.warnings.append(f"cannot lease {sandbox} again: {error}")

        async with trio.open_nursery() as nursery:
            for adopted in await launcher.adopt():
                # guard: a machine that is silent delays no other's lease
                nursery.start_soon(admit, *adopted)

    async def _listen_early(self, nursery: trio.Nursery) -> None:
        """Listen before machines are adopted; a taken port does not stop us.

        The other services of a broker do not depend on it, so a program that
        takes a port cannot keep the broker from starting.
        """
        try:
            await self._listen_vsock()
        except PortTakenError:
            nursery.start_soon(self._keep_trying)

    async def _keep_trying(self) -> None:
        """Try to listen on the vsock ports again and again, until that succeeds."""
        while True:
            await trio.sleep(limits.VSOCK_RETRY_SECONDS)
            with suppress(PortTakenError):
                await self._listen_vsock()
                return

    async def _listen_vsock(self) -> bool:
        """Listen on the services' vsock ports, once; return if low ones are among them.

        At the start where we make such machines, else with the first lease of
        one: two brokers that have none need not fight for the ports.  Raises
        SetupError when there is no vsock, PortTakenError when a port is taken.
        """
        async with self._listening:
            if self._ports is None and self._nursery is not None:
                try:
                    ports = await open_vsock_listeners()
                except PortTakenError as error:
                    await self._alarm(error)
                    raise
                self._ports = ports
                self._nursery.start_soon(
                    serve_vsock, ports.listeners, self._doors_of, self._ground.log
                )
                if ports.taken is not None:
                    await self._alarm(ports.taken)
            return self._ports is not None and self._ports.privileged

    async def _alarm(self, error: PortTakenError) -> None:
        """Notify the user of a taken port, once: it may be an attack on machines."""
        if error.port in self._alarmed:
            return
        self._alarmed.add(error.port)
        self._vms.warnings.append(error.diagnostics())
        # guard: the user is notified of a taken port
        self._notify("Vitrail: a port of the broker is in use", error.diagnostics())
        await self._ground.log.note(
            schema.PortTaken(service=error.service, port=error.port, reason=str(error))
        )

    def live(self) -> list[Lease]:
        """The leases of machines that run or stop."""
        return [active_lease.lease for active_lease in self.role.active_leases()]

    def _active_leases(self) -> list[ActiveLease]:
        return self.role.active_leases()

    def _qmp_of(self, lease: LeaseId) -> Qmp | None:
        """The monitor of our machine; None: it belongs to another program."""
        active = self.role.active_leases()
        machine = next((x.machine for x in active if x.lease.id == lease), None)
        return machine.qmp if isinstance(machine, MicroVmMachine) else None

    def warnings(self) -> list[str]:
        """Problems with machines, newest last."""
        return [
            *unleased_records(self._ground.records.now),
            *self._vms.current_warnings(),
            *self.leasing.foreign.warnings[-10:],
        ]

    async def _find_tools(self, image: Image, progress: Callable[[str], None]) -> Tools:
        """Find or fetch the programs that a machine needs."""
        # Needed where machines are started, which a broker of others' never does.
        from broker.host.vmm.toolbox import find_tools

        tools = await find_tools(self._ground.paths, image, progress)
        return replace(tools, allow_unjailed=self._ground.options.allow_unjailed)

    async def _start_box(self, name: SandboxName, leased: trio.Event) -> bool:
        """Start a record's box that serves calls; see ``role.StartBox``."""
        record, nursery = self._record(name), self._nursery
        if record is None or nursery is None or not is_held(record.host.launch):
            return False
        # Late: most hosts start none.
        from broker.host.box_starts import start_box

        try:
            await start_box(record, leased, nursery)
        except VitrailError as error:
            # Its caller learns no more than that it was refused.
            event = schema.LeaseRefused(
                sandbox=name, peer="call", outcome="refused", reason=str(error)
            )
            await self._ground.log.refused(event)
            raise
        return True

    def _record(self, name: SandboxName) -> Record | None:
        return self._ground.records.now.records.get(name)

    def _seats(
        self, sandbox: SandboxName, record: Record, undo: AsyncExitStack
    ) -> tuple[SwitchSeat, ...]:
        """Join a machine to the switches that its record names.

        Raises as ``join_all``.

        ``record``: what its network card is made of, too, though it may have changed.
        Starts the process of a switch that has no member yet.
        """
        places = places_of(record, self._ground.records.now.records)
        return self.switches.join_all(places, sandbox, undo)

    def _memory_mib(self, name: SandboxName, changes: LaunchChanges) -> int | None:
        """Return the memory that a record's machine needs; None for other kinds."""
        record = self._record(name)
        if record is None or not boots(record.host.launch):
            return None
        launch = record.host.launch
        mib = changes.memory_mib or launch.memory_mib
        # guard: an arena is memory that is promised
        if getattr(launch, "pixel_arena", False):
            from broker.host.vmm.arena import ARENA_BYTES

            mib += ARENA_BYTES >> 20
        # guard: a renderer's memory is promised with its machine
        if getattr(launch, "gpu", "") == "render":
            from broker.host.gpu.gpu_renderer import DATA_BYTES

            mib += DATA_BYTES >> 20
        return mib

    def _name_for(
        self, name: SandboxName, taken: frozenset[SandboxName]
    ) -> SandboxName:
        """Return the name of the next sandbox of a record.  Raises RefusedError."""
        record = self._record(name)
        if record is None:
            problem = self._ground.records.now.broken.get(name)
            mistake = "" if problem is None else f": {problem.first_line()}"
            raise RefusedError(
                f"this host has no valid record '{name}'{mistake}",
                hint=did_you_mean(name, self._ground.records.now.records)
                or "add a file NAME.toml to sandboxes.d on the host; to check the records there, run 'brokerctl policy check'",
            )
        return sandbox_name(record, taken, self._ground.records.now)

    def _doors_of(self, claim: VsockClaim) -> Admission | None:
        active = self.role.active_leases()
        return next((x.doors for x in active if x.held.claim == claim), None)
