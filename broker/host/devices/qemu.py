"""QEMU's ``usb-host``: a device of this machine on a machine's USB bus, by QMP.

QEMU gets the open device node as a descriptor (``add-fd``), never a number or
a vendor and product: ``vendorid=``/``productid=`` succeed without any such device
and then take whichever comes with that id.  ``device_del`` gives the device
back to this machine's drivers, so it is made unauthorized before.
"""

from __future__ import annotations

import itertools
import re

import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import devices as limits
from broker.host.vmm.qmp import Qmp, QmpError, fdset_of

_NO_BUS = re.compile(r"No 'usb-bus' bus found|Bus '.*' not found")
_NO_PORT = re.compile(r"usb port .* not found \(in use\?\)|no free port", re.IGNORECASE)
_numbers = itertools.count(1)


class QemuDevice:
    """One ``usb-host`` of one machine."""

    backend = "qemu"

    def __init__(self, qmp: Qmp, attachment: str) -> None:
        self._qmp = qmp
        self._id = f"vitrail-{attachment}-{next(_numbers)}"
        self._fdset: int | None = None

    async def attach(self, node: int) -> None:
        """Plug the device whose open node this is into QEMU; the caller keeps the node.

        Raises RefusedError when the machine has no USB or no free port,
        UpstreamError when QEMU refuses for another reason.
        """
        found = await self._qmp.execute("add-fd", fds=(node,))
        self._fdset = fdset_of(found)
        arguments = {
            "driver": "usb-host",
            "id": self._id,
            "hostdevice": f"/dev/fdset/{self._fdset}",
        }
        try:
            await self._qmp.execute(
                "device_add", arguments, deadline=limits.DEVICE_ATTACH_SECONDS
            )
        except QmpError as error:
            await self._forget()
            raise _explained(error) from error
        except BaseException:
            # It may have come through: a device that is in no list must
            # not stay in the guest.
            with trio.CancelScope(shield=True):
                await self.detach()
            raise

    async def detach(self) -> None:
        """Unplug the device and wait until QEMU has released it; idempotent.

        Raises UpstreamError when it has not within ``DEVICE_DETACH_SECONDS``.
        """
        try:
            await self._qmp.execute("device_del", {"id": self._id})
        except QmpError as error:
            await self._forget()
            if error.kind != "DeviceNotFound":
                raise
            return
        with trio.move_on_after(limits.DEVICE_DETACH_SECONDS):
            while await self.present():  # noqa: ASYNC110 -- see ``present``
                await trio.sleep(0.02)
            await self._forget()
            return
        raise UpstreamError(
            f"QEMU did not detach {self._id} within {limits.DEVICE_DETACH_SECONDS:g} s"
        )

    async def present(self) -> bool:
        """Return whether QEMU has the device.

        Looked up rather than awaited as DEVICE_DELETED: a guest can cause so many
        events that one is dropped.
        """
        found = await self._qmp.execute("qom-list", {"path": "/machine/peripheral"})
        return isinstance(found, list) and any(
            isinstance(item, dict) and item.get("name") == self._id for item in found
        )

    async def _forget(self) -> None:
        """Remove the device's descriptor from QEMU."""
        if self._fdset is not None:
            number, self._fdset = self._fdset, None
            try:
                await self._qmp.execute("remove-fd", {"fdset-id": number})
            except QmpError:
                return  # QEMU has closed it with the device


def _explained(error: QmpError) -> RefusedError | UpstreamError:
    """Convert QEMU's error to an error that says what to do."""
    if _NO_BUS.search(error.desc):
        return RefusedError(
            "cannot attach the device: the virtual machine has no USB controller",
            hint="add a USB controller, or load vhci-hcd and start vitrail_devices.py in the guest; see docs/devices.md",
        )
    if _NO_PORT.search(error.desc):
        return RefusedError(
            "cannot attach the device: all USB ports of the virtual machine are in use",
            hint="detach one of its devices with 'brokerctl device detach PORT'",
        )
    return error
