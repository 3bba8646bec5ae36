"""Ports that were given to usbip-host, so that a killed service leaves none there.

The kernel goes on speaking with a guest when ``vitrail-devices`` is killed.  A file
for each port, made before the first write to sysfs, tells the next start which
of the devices at usbip-host are ours to take back; the others are the
administrator's.
"""

from __future__ import annotations

from pathlib import Path

from broker.core.errors import UpstreamError
from broker.core.stderr_log import log_stderr
from broker.ipc.devices.description import PORT
from broker.root import usbip
from broker.root.sysfs import DEVICES, DeviceGoneError, SysfsDevice


class ExportedPorts:
    """A directory with an empty file for each port that may be at usbip-host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, port: str) -> None:
        """Note a port, before it is bound.  Raises UpstreamError: then it must not be."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            (self._folder / port).touch()
        except OSError as error:
            raise UpstreamError(
                f"{self._folder / port} cannot be written: {error.strerror}"
            ) from error

    def discard(self, port: str) -> None:
        """Forget a port that is back at this machine's drivers."""
        (self._folder / port).unlink(missing_ok=True)

    async def recover(self, *, authorize: bool, root: Path = DEVICES) -> None:
        """Take back what an earlier run left; ``authorize`` as for ``usbip.release``."""
        try:
            names = sorted(entry.name for entry in self._folder.iterdir())
        except FileNotFoundError:
            return
        for port in filter(PORT.fullmatch, names):
            await _recover(port, authorize=authorize, root=root)
            self.discard(port)


async def _recover(port: str, *, authorize: bool, root: Path) -> None:
    try:
        held = SysfsDevice(port, root)
    except DeviceGoneError:
        return
    try:
        # guard: only devices of usbip-host
        if held.driver() == "usbip-host":
            log_stderr(f"vitrail-devices: port {port} is taken back from usbip-host")
            await usbip.release(held, authorize=authorize)
    finally:
        held.close()
