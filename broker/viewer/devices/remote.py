"""The devices of the host: at the other end of the link, or of the pair of sockets.

Implements ``host_viewer.DeviceSource``.  The host's claims about its devices are trusted
for these devices only: which sandbox gets one is decided here, and the host hands
out only devices that its records allow.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.limits import devices as limits
from broker.ipc.devices.messages import DeviceItem, Devices
from broker.ipc.host_rows import (
    ATTACH,
    DETACH,
    DEVICE_ENDED,
    DEVICES,
    DEVICES_CHANGED,
    DeviceAttach,
    DeviceDetach,
    DeviceEnded,
    DeviceListRequest,
)
from broker.ipc.host_viewer import DeviceAttachment
from broker.net.link_service.far_end import FarEnd
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves

OTHER_MACHINE = "plug the device into the host, not into this machine; to list the host's devices, run 'brokerctl device list'"
"""The hint where a port of the viewer's machine has been named."""


class RemoteDevices:
    """Asks the host of the current epoch about its devices."""

    def __init__(
        self, epoch: Callable[[], FarEnd], *, elsewhere: str = OTHER_MACHINE
    ) -> None:
        """Set up access to the host's devices.

        ``epoch`` raises UpstreamError without host.
        """
        self._epoch = epoch
        self.elsewhere = elsewhere
        self._attachments: dict[tuple[FarEnd, str], DeviceAttachment] = {}
        self.changed = trio.Event()

    def host_changed(self) -> None:
        """The host's list has changed, or there is another host."""
        self.changed.set()
        self.changed = trio.Event()

    def host_ended(self, epoch: FarEnd, untrusted_name: str, reason: str) -> None:
        """Handle the host's report that an attachment has ended."""
        attachment = self._attachments.get((epoch, untrusted_name))
        if attachment is not None:
            attachment.end(printable(reason))

    async def devices(self) -> Devices:
        """Fetch the list of all devices of the host.

        Raises UpstreamError, SetupError.
        """
        epoch, after = self._epoch(), 0
        found: list[DeviceItem] = []
        while True:
            reply = await epoch.call(DEVICES, DeviceListRequest(after))
            for device in reply.devices:
                # guard: pages of devices end
                if device.number <= after or len(found) >= limits.DEVICES:
                    raise UpstreamError("the host sent an endless list of devices")
                after = device.number
                found.append(device)
            if not reply.more or not reply.devices:
                problems = list(reply.problems)
                return Devices(0, found, reply.strict, reply.source, problems)

    @asynccontextmanager
    async def attached(
        self, number: int, lease: Lease
    ) -> AsyncIterator[DeviceAttachment]:
        """Have the host attach a device while the block runs.  Raises VitrailError."""
        epoch = self._epoch()
        made: DeviceAttachment | None = None
        try:
            reply = await epoch.call(ATTACH, DeviceAttach(number, lease.id))
            made = DeviceAttachment(reply.attachment, reply.backend)
            self._attachments[epoch, made.name] = made
            if not epoch.live:
                self.epoch_ended(epoch)
            yield made
        finally:
            if made is not None:
                self._attachments.pop((epoch, made.name), None)
            # Also of an attach that was given up before its reply.
            with trio.move_on_after(limits.DEVICE_DETACH_SECONDS, shield=True):
                # Refused: the epoch has taken it along.
                with contextlib.suppress(VitrailError):
                    await epoch.call(DETACH, DeviceDetach(number))

    def epoch_ended(self, epoch: FarEnd) -> None:
        """The link was lost: its host takes everything back."""
        for (owner, _), made in self._attachments.items():
            if owner is epoch:
                made.end("the link was lost")
        self.host_changed()


@dataclass(frozen=True)
class DeviceReports:
    """Serves a host's reports about devices, on one connection."""

    devices: RemoteDevices
    epoch: FarEnd

    @serves(DEVICES_CHANGED)
    async def note_changed(self, _: ServedCall[Empty], __: Empty) -> None:
        """Have the list of devices fetched again."""
        self.devices.host_changed()

    @serves(DEVICE_ENDED)
    async def note_ended(self, _: ServedCall[Empty], report: DeviceEnded) -> None:
        """End an attachment that the host has taken back."""
        self.devices.host_ended(self.epoch, report.attachment, report.reason)
