"""The host's devices: which there are, and the way into each kind of sandbox.

It decides nothing: a verdict comes from the viewer's part, and what may leave
this machine at all from ``vitrail-devices`` and its records.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.core.errors import (
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.lease import Lease, Opening
from broker.core.limits import devices as limits
from broker.core.names import LeaseId
from broker.core.stderr_log import log_exception
from broker.helpers.process.polled import happened
from broker.host.devices.crosvm import CrosvmDevice
from broker.host.devices.devices_client import DeviceClient, connect
from broker.host.devices.libvirt import LibvirtDevice
from broker.host.devices.qemu import QemuDevice
from broker.host.role import ActiveLease
from broker.host.vmm.qmp import Qmp, open_qmp
from broker.ipc.devices import messages
from broker.ipc.host_viewer import DeviceAttachment, TaskStatus
from broker.net.peers.identity import ContainerClaim, GroupClaim, SharedClaim

_RETRY_SECONDS = 5.0
_NO_WAY = "load vhci-hcd in the guest and start vitrail_devices.py there; see docs/devices.md for the methods of each kind of machine"

_CONTAINER = "use a virtual machine, or pass the device node for the container's lifetime without Vitrail: 'podman run --device /dev/bus/usb/BUS/NUMBER'"


@dataclass(eq=False)
class _Waiting:
    """A guest's connection that waits for a device."""

    conn: socket.socket
    taken: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)


class DeviceHost:
    """The host's devices, as the viewer's part uses them."""

    elsewhere = ""

    def __init__(
        self,
        qmp_of: Callable[[LeaseId], Qmp | None],
        *,
        path: Path | None = None,
        leases: Callable[[], Iterable[ActiveLease]] = tuple,
    ) -> None:
        self._qmp_of = qmp_of
        self._leases = leases
        self._path = path
        self._client: DeviceClient | None = None
        self._waiting: dict[LeaseId, list[_Waiting]] = {}
        self._attachments: dict[str, DeviceAttachment] = {}
        self._foreign: dict[Path, Qmp] = {}
        self._foreign_scope = trio.CancelScope(shield=True)
        self._opening = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._users, self._idle = 0, trio.Event()
        self.changed = trio.Event()
        """Set, and replaced, when ``devices`` would say something else."""
        self.problem = "vitrail-devices is not connected"

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection to ``vitrail-devices`` until cancelled.

        At the end, waits for the sandboxes' devices to be taken back.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await self._stay_connected()
            finally:
                self._nursery = None
                with trio.move_on_after(limits.DEVICE_DETACH_SECONDS, shield=True):
                    while self._users:
                        await self._idle.wait()
                self._foreign_scope.cancel()

    async def _stay_connected(self) -> None:
        """Connect to ``vitrail-devices``, again after each end; runs for ever."""
        while True:
            try:
                client = connect(
                    changed=self._list_changed, ended=self._ended, path=self._path
                )
                self._client, self.problem = client, ""
                self._list_changed()
                await client.run()
            except VitrailError as error:
                self.problem = str(error)
            finally:
                self._client = None
                self._lost()
            await trio.sleep(_RETRY_SECONDS)

    def _list_changed(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _lost(self) -> None:
        """``vitrail-devices`` takes everything back when it ends, and when we do."""
        for attachment in self._attachments.values():
            attachment.end("vitrail-devices has ended")
        self._list_changed()

    def _ended(self, name: str, reason: str) -> None:
        attachment = self._attachments.get(name)
        if attachment is not None:
            attachment.end(reason)

    # -- what there is -------------------------------------------------------------------

    async def devices(self) -> messages.Devices:
        """Return all devices.  Raises SetupError without ``vitrail-devices``."""
        return await self._connected().devices()

    def _connected(self) -> DeviceClient:
        """Return the connection to ``vitrail-devices``.

        Raises SetupError without one.
        """
        if self._client is None:
            raise SetupError(
                f"cannot attach or list devices: {self.problem}",
                hint="run 'sudo systemctl start vitrail-devices@$USER'; see docs/devices.md",
            )
        return self._client

    # -- guests that wait ------------------------------------------------------------------

    async def standby(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Keep a guest's connection until a device is handed to it, or it hangs up.

        Owns ``conn``.  Not a byte of it is read: a guest that sends one before
        it has a device is hung up on, because the kernel would take it for usbip.

        Raises RefusedError.
        """
        with conn:
            mine = self._waiting.setdefault(opening.lease.id, [])
            if len(mine) >= limits.DEVICE_STANDBY_PER_SANDBOX:
                raise RefusedError(f"{len(mine)} connections already wait for a device")
            waiting = _Waiting(conn)
            mine.append(waiting)
            task_status.started()
            try:
                await self._until_taken(waiting)
                if waiting.taken.is_set():
                    await waiting.over.wait()
            finally:
                if waiting in mine:
                    mine.remove(waiting)
                if not mine:
                    self._waiting.pop(opening.lease.id, None)

    async def _until_taken(self, waiting: _Waiting) -> None:
        """Wait until a device takes a guest's connection, or the guest closes it."""
        async with trio.open_nursery() as nursery:

            async def hung_up() -> None:
                # guard: a guest that waits for a device is heard, not only woken
                while not happened(waiting.conn.fileno(), select.POLLIN):
                    await trio.lowlevel.wait_readable(waiting.conn)
                nursery.cancel_scope.cancel()

            nursery.start_soon(hung_up)
            await waiting.taken.wait()
            nursery.cancel_scope.cancel()

    # -- handing over ----------------------------------------------------------------------

    @asynccontextmanager
    async def attached(
        self, number: int, lease: Lease
    ) -> AsyncIterator[DeviceAttachment]:
        """Attach a device for as long as the block runs.

        Raises RefusedError when there is no way or the records forbid it,
        UpstreamError or SetupError when it did not work.
        """
        client = self._connected()
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._in_use())
            with trio.move_on_after(limits.DEVICE_ATTACH_SECONDS) as patience:
                attachment = await self._attach(stack, client, number, lease)
            if patience.cancelled_caught:
                raise UpstreamError(
                    f"the device was not attached within {limits.DEVICE_ATTACH_SECONDS:g} s"
                )
            yield attachment

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Count a user of the connection while the block runs."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()
                self._idle = trio.Event()

    async def _attach(
        self,
        stack: contextlib.AsyncExitStack,
        client: DeviceClient,
        number: int,
        lease: Lease,
    ) -> DeviceAttachment:
        """Attach a device by the way that the sandbox's machine has."""
        waiting = next(iter(self._waiting.get(lease.id, [])), None)
        if waiting is not None:
            return await self._by_usbip(stack, client, waiting, number, lease)
        qmp = self._qmp_of(lease.id)
        if qmp is not None:
            return await self._by_qemu(stack, client, qmp, number, lease)
        way = await client.machine(lease.sandbox)
        if way.kind == "qmp":
            qmp = await self._foreign_qmp(Path(way.target))
            return await self._by_qemu(stack, client, qmp, number, lease)
        if way.kind == "crosvm":
            crosvm = CrosvmDevice(Path(way.target))
            return await self._by_node(stack, client, crosvm, number, lease)
        if way.kind == "libvirt":
            return await self._by_libvirt(stack, client, way, number, lease)
        raise self._no_way(lease)

    def _no_way(self, lease: Lease) -> RefusedError:
        """Return the reason why no device can go to a lease's sandbox."""
        claims = [x.held.claim for x in self._leases() if x.lease.id == lease.id]
        if any(isinstance(claim, SharedClaim) for claim in claims):
            return RefusedError(
                f"cannot attach a device to '{lease.sandbox}': it shares your session, so it can already open every device that you can open",
                hint="attach the device to a virtual machine instead",
            )
        if any(isinstance(claim, ContainerClaim | GroupClaim) for claim in claims):
            return RefusedError(
                f"cannot attach a device to '{lease.sandbox}': it is a container, and Vitrail cannot revoke a device node that a container has opened",
                hint=_CONTAINER,
            )
        return RefusedError(
            f"cannot attach a device to '{lease.sandbox}': no method is set up for its machine",
            hint=_NO_WAY,
        )

    async def _foreign_qmp(self, path: Path) -> Qmp:
        """Connect to a foreign QEMU's QMP once; return the connection, which is shared.

        A separate one (``-qmp unix:…``), because a monitor serves one client; kept
        open for the next device.  Raises UpstreamError.
        """
        async with self._opening:
            qmp = self._foreign.get(path)
            if qmp is None:
                if self._nursery is None:
                    raise UpstreamError("this broker is shutting down")
                qmp = self._foreign[path] = await open_qmp(path)
                self._nursery.start_soon(self._run_foreign, path, qmp)
            return qmp

    async def _run_foreign(self, path: Path, qmp: Qmp) -> None:
        """Serve a foreign machine's QMP connection until it ends."""
        # Shielded: at the end of the broker devices are pulled out through it.
        try:
            with self._foreign_scope, contextlib.suppress(UpstreamError):
                await qmp.run()
        finally:
            del self._foreign[path]

    async def _by_usbip(
        self,
        stack: contextlib.AsyncExitStack,
        client: DeviceClient,
        waiting: _Waiting,
        number: int,
        lease: Lease,
    ) -> DeviceAttachment:
        """Attach a device by usbip, over the connection on which the guest waits."""
        self._waiting[lease.id].remove(waiting)
        waiting.taken.set()
        stack.callback(waiting.over.set)
        _must_be_silent(waiting.conn)
        made = await client.export(number, lease.sandbox, lease.id, waiting.conn)
        attachment = self._made(stack, client, made.attachment, "usbip")
        # After the export: a guest that was promised a device and gets none
        # would wait for it forever.
        header = messages.handover(made.devid, made.speed)
        if waiting.conn.send(header, socket.MSG_DONTWAIT) != len(header):
            raise PeerError("the guest does not read from its connection for a device")
        return attachment

    async def _by_qemu(
        self,
        stack: contextlib.AsyncExitStack,
        client: DeviceClient,
        qmp: Qmp,
        number: int,
        lease: Lease,
    ) -> DeviceAttachment:
        """Attach a device by QEMU's ``usb-host``."""
        device = QemuDevice(qmp, f"{lease.id}-{number}")
        return await self._by_node(stack, client, device, number, lease)

    async def _by_node(
        self,
        stack: contextlib.AsyncExitStack,
        client: DeviceClient,
        device: QemuDevice | CrosvmDevice,
        number: int,
        lease: Lease,
    ) -> DeviceAttachment:
        """Attach a device by its node, which is passed to the VMM."""
        made, node = await client.node(number, lease.sandbox, lease.id)
        stack.callback(os.close, node)
        # After the other one at the end: QEMU gives a device back to this
        # machine's drivers, and where that is strict it is unauthorized before.
        stack.push_async_callback(_quietly, device)
        attachment = self._made(stack, client, made.attachment, device.backend)
        await device.attach(node)
        return attachment

    async def _by_libvirt(
        self,
        stack: contextlib.AsyncExitStack,
        client: DeviceClient,
        way: messages.MachineWay,
        number: int,
        lease: Lease,
    ) -> DeviceAttachment:
        """Attach a device to a libvirt domain by ``virsh``."""
        # The node shows that it is still the device that was decided about; libvirt
        # opens it by its address, which no later device in the port has.
        made, node = await client.node(number, lease.sandbox, lease.id)
        os.close(node)
        device = LibvirtDevice(way.uri, way.target, f"{lease.id}-{number}")
        stack.push_async_callback(_quietly, device)
        attachment = self._made(stack, client, made.attachment, "libvirt")
        await device.attach(made.bus, made.address)
        return attachment

    def _made(
        self,
        stack: contextlib.AsyncExitStack,
        client: DeviceClient,
        name: str,
        backend: str,
    ) -> DeviceAttachment:
        """Note an attachment, and detach it when the stack closes."""
        attachment = self._attachments[name] = DeviceAttachment(name, backend)

        async def take_back() -> None:
            self._attachments.pop(name, None)
            with trio.CancelScope(shield=True), contextlib.suppress(VitrailError):
                # Refused: it has ended already.
                await client.detach(name)

        stack.push_async_callback(take_back)
        return attachment


async def _quietly(device: QemuDevice | CrosvmDevice | LibvirtDevice) -> None:
    """Detach a device; ignore the errors of a machine that is ending."""
    with trio.CancelScope(shield=True):
        try:
            await device.detach()
        except UpstreamError as error:
            log_exception(error)


def _must_be_silent(conn: socket.socket) -> None:
    """Raise PeerError if a waiting guest has sent data or hung up."""
    try:
        data = conn.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    except OSError as error:
        raise PeerError("the guest closed the connection") from error
    raise PeerError(
        "the guest sent data too early" if data else "the guest closed the connection"
    )
