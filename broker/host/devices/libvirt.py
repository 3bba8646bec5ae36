"""libvirt: a device of this machine on a live domain, by ``virsh``.

The XML names bus and address, never a vendor and product: libvirt would take
whichever device has these.  An address is another one after each plug-in, so a device
that was swapped meanwhile is not found.  An alias of our own names the device
afterwards (https://libvirt.org/formatdomain.html, "USB / PCI / SCSI devices").
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import devices as limits
from broker.helpers.process.spawn import run_tool

_XML = "<hostdev mode='subsystem' type='usb'><source><address bus='{bus}' device='{address}'/></source><alias name='{alias}'/></hostdev>"
_NO_BUS = "No free USB ports"
_HELP = "use a domain of qemu:///system, or add a udev rule that lets your user open the device node"


class LibvirtDevice:
    """One USB device of one running domain."""

    def __init__(self, uri: str, domain: str, attachment: str) -> None:
        self._connect = ("virsh", "--quiet", "--connect", uri)
        self._domain = domain
        self._alias = f"ua-vitrail-{attachment}"

    async def attach(self, bus: int, address: int) -> None:
        """Plug the device into the domain; ``bus`` and ``address`` as in /dev/bus/usb.

        Raises RefusedError when the domain has no USB port, UpstreamError when libvirt
        refuses for another reason, SetupError without virsh.  Runs virsh(1), once or
        more.
        """
        xml = _XML.format(bus=bus, address=address, alias=self._alias)
        try:
            with _file(xml) as (fd, path):
                await self._virsh("attach-device", path, "--live", fds=(fd,))
        except UpstreamError as error:
            # It may have come through: a device in no list must not stay.
            await self.detach()
            if _NO_BUS in str(error):
                raise RefusedError(
                    f"cannot attach the device: domain '{self._domain}' has no free USB port",
                    hint="detach one of its devices, or add a USB controller to the domain",
                ) from error
            raise UpstreamError(str(error), hint=_HELP) from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.detach()
            raise

    async def detach(self) -> None:
        """Unplug the device and wait until the domain has released it; idempotent.

        Raises UpstreamError when it has not within ``DEVICE_DETACH_SECONDS``.  Runs
        virsh(1) until the domain's XML is without it.
        """
        with trio.move_on_after(limits.DEVICE_DETACH_SECONDS):
            while await self.present():
                try:
                    await self._virsh("detach-device-alias", self._alias, "--live")
                except UpstreamError:
                    # An earlier one may still be in progress; see ``present``.
                    await trio.sleep(0.1)
            return
        raise UpstreamError(
            f"libvirt did not detach {self._alias} from domain '{self._domain}' within {limits.DEVICE_DETACH_SECONDS:g} s"
        )

    async def present(self) -> bool:
        """Return whether the live domain has the device; False if it does not run.

        Runs virsh(1).
        """
        try:
            xml = await self._virsh("dumpxml")
        except UpstreamError:
            return False
        return f"<alias name='{self._alias}'/>".encode() in xml

    async def _virsh(self, verb: str, *words: str, fds: tuple[int, ...] = ()) -> bytes:
        """Run a verb of ``virsh`` on the domain; return its output."""
        return await run_tool(
            [*self._connect, verb, self._domain, *words],
            env=dict(os.environ),
            deadline=limits.DEVICE_DETACH_SECONDS,
            pass_fds=fds,
        )


@contextmanager
def _file(text: str) -> Iterator[tuple[int, str]]:
    """Write text to a memory file; yield its descriptor and a path for children."""
    fd = os.memfd_create("device.xml")
    try:
        os.write(fd, text.encode())
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
