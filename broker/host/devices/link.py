"""The host's devices for a viewer in another process, here or on another machine.

The viewer decides and names a plug-in by number and a sandbox by lease; what may
leave this machine at all stays bounded by ``devices.toml``.  Its devices end with the
epoch: a viewer that cannot be asked any more has taken every permission back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import trio

from broker.core.errors import (
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import fit
from broker.core.lease import Lease
from broker.core.limits import devices as device_limits
from broker.core.limits import link as limits
from broker.core.names import take_lease_id
from broker.core.stderr_log import log_exception
from broker.ipc.devices.messages import Devices
from broker.ipc.host_rows import (
    ATTACH,
    DETACH,
    DEVICE_ENDED,
    DEVICES,
    DEVICES_CHANGED,
    DeviceAttach,
    DeviceDetach,
    DeviceEnded,
    DeviceHanded,
    DeviceListRequest,
    DevicesReply,
)
from broker.ipc.host_viewer import (
    DeviceAttachment,
    DeviceSource,
    HeldTask,
    TaskStatus,
    first_of,
)
from broker.net.link_service.far_end import FarEnd
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves


@dataclass(eq=False)
class _Handed(HeldTask):
    """An attachment of one epoch."""

    epoch: FarEnd
    device: int
    attachment: DeviceAttachment | None = None


class DeviceRequests:
    """Serves a viewer's requests about devices."""

    def __init__(
        self, source: Callable[[], DeviceSource], epoch: Callable[[], FarEnd | None]
    ) -> None:
        """Set up service of a viewer's requests; ``epoch`` returns the link's epoch."""
        self._source_of = source
        self._epoch = epoch
        self._handed: set[_Handed] = set()
        self._nursery: trio.Nursery | None = None
        self._there = trio.Event()

    @property
    def _source(self) -> DeviceSource:
        return self._source_of()

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Report changes until cancelled; then detach every device."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                changed = self._source.changed
                self._there = trio.Event()
                epoch = self._epoch()
                if epoch is not None and epoch.live:
                    with contextlib.suppress(VitrailError):  # the next one asks
                        await epoch.call(DEVICES_CHANGED, Empty())
                await first_of(changed, self._there)

    def announce(self) -> None:
        """There is another epoch, whose viewer has not asked yet."""
        self._there.set()

    async def list_devices(self, after: int) -> DevicesReply:
        """Return the devices with a number above ``after``.  Raises VitrailError."""
        return _page(after, await self._source.devices())

    async def attach(self, epoch: FarEnd, request: DeviceAttach) -> DeviceHanded:
        """Attach a device for a viewer.  Raises RefusedError beyond the limit."""
        if self._nursery is None:
            raise RefusedError("this host is starting or shutting down")
        if len(self._handed) >= device_limits.DEVICES:
            raise RefusedError(f"cannot attach more than {len(self._handed)} devices")
        handed = _Handed(epoch, request.device)
        self._handed.add(handed)
        attachment: DeviceAttachment = await self._nursery.start(
            self._hold, handed, request
        )
        return DeviceHanded(attachment.name, attachment.backend)

    async def _hold(
        self,
        handed: _Handed,
        request: DeviceAttach,
        *,
        task_status: trio.TaskStatus[DeviceAttachment],
    ) -> None:
        """Hold a device attached until it is detached.

        ``started`` once it is attached.
        """
        try:
            lease = _announced(handed.epoch, request.lease)
            with handed.scope:
                await self._carry(handed, lease, task_status)
            _must_have_begun(handed)
        except Exception as error:
            if handed.attachment is None:
                raise
            log_exception(error)
        finally:
            self._handed.discard(handed)
            handed.over.set()
        await self._report(handed)

    async def _carry(
        self,
        handed: _Handed,
        lease: Lease,
        task_status: trio.TaskStatus[DeviceAttachment],
    ) -> None:
        """Hold a device attached until it ends, is detached or the epoch is over."""
        async with (
            self._source.attached(handed.device, lease) as made,
            trio.open_nursery() as nursery,
        ):
            handed.attachment = made
            # guard: devices end with the epoch
            nursery.start_soon(_cancel_after, handed.epoch.over, handed.scope)
            task_status.started(made)
            await made.ended.wait()
            nursery.cancel_scope.cancel()

    async def _report(self, handed: _Handed) -> None:
        """Tell the viewer that a device has ended, unless it asked for that."""
        made = handed.attachment
        if made is None or handed.reason or not handed.epoch.live:
            return
        name, reason = made.name, fit(made.reason, limits.LINK_TEXT_CHARACTERS)
        with contextlib.suppress(VitrailError):
            await handed.epoch.call(DEVICE_ENDED, DeviceEnded(name, reason))

    async def detach(self, epoch: FarEnd, request: DeviceDetach) -> None:
        """Detach a device of a viewer, and wait until it is taken back."""
        for handed in list(self._handed):
            # Each viewer one.
            if handed.epoch is epoch and handed.device == request.device:
                await handed.take_back("the viewer detached it")


class DeviceCalls:
    """Serves the calls of one viewer's connection about devices."""

    def __init__(self, requests: DeviceRequests, epoch: FarEnd) -> None:
        self._requests = requests
        self._epoch = epoch

    @serves(DEVICES)
    async def list_devices(
        self, _: ServedCall[DevicesReply], request: DeviceListRequest
    ) -> DevicesReply:
        """Return a page of the host's devices.  Raises SetupError, UpstreamError."""
        return await self._requests.list_devices(request.after)

    @serves(ATTACH)
    async def attach(
        self, _: ServedCall[DeviceHanded], request: DeviceAttach
    ) -> DeviceHanded:
        """Attach a device to an announced sandbox.  Raises VitrailError."""
        return await self._requests.attach(self._epoch, request)

    @serves(DETACH)
    async def detach(self, _: ServedCall[Empty], request: DeviceDetach) -> Empty:
        """Detach a device; return when it is taken back."""
        await self._requests.detach(self._epoch, request)
        return Empty()


def _announced(epoch: FarEnd, untrusted_lease: str) -> Lease:
    """Return the announced lease that a viewer names.  Raises RefusedError."""
    announced = epoch.leases.usable(take_lease_id(untrusted_lease))
    # guard: devices go to announced leases
    if announced is None:
        raise RefusedError("the sandbox is not running: it has no lease")
    return announced.lease


def _must_have_begun(handed: _Handed) -> None:
    if handed.attachment is None:
        raise UpstreamError("the device was detached while it was being attached")


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _page(after: int, found: Devices) -> DevicesReply:
    """Return the devices after ``after``, as many as fit into a reply."""
    problems = [fit(text, limits.LINK_TEXT_CHARACTERS) for text in found.problems]
    rest = sorted(
        (item for item in found.devices if item.number > after),
        key=lambda item: item.number,
    )
    page = rest[: limits.LINK_DEVICES]
    return DevicesReply(
        page,
        more=len(rest) > len(page),
        strict=found.strict,
        source=found.source,
        problems=tuple(problems[: limits.LINK_WARNINGS]),
    )
