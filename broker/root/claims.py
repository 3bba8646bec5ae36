"""Ports whose devices are handed over, by the services of all users of this machine.

A file for each port, in a directory of root's; the service that has the device out
keeps it locked (flock(2)), by usbip or as a node.  The kernel keeps speaking with a
guest when a service is killed.  Its files remain, unlocked, and tell the next start of
any service which of the devices at usbip-host are to be taken back; the others are the
administrator's.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from broker.core.errors import RefusedError, UpstreamError
from broker.core.stderr_log import log_stderr
from broker.ipc.devices.description import PORT
from broker.root import usbip
from broker.root.sysfs import DEVICES, DeviceGoneError, SysfsDevice


class Claims:
    """The directory of these files, made where it is missing."""

    def __init__(self, shared: Path) -> None:
        self._folder = shared / "ports"

    def take(self, port: str) -> int:
        """Lock a port, before sysfs is written; return the descriptor that holds it.

        Raises RefusedError when a service has its device, UpstreamError when that is
        unknown: then it must not be handed over.
        """
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            return self._lock(port)
        except BlockingIOError:
            raise RefusedError(
                f"cannot attach the device in port {port}: a sandbox of another user has it",
                hint=f"ask that user to run 'brokerctl device detach {port}'",
            ) from None
        except OSError as error:
            raise UpstreamError(
                f"cannot write {self._folder / port}: {error.strerror}"
            ) from error

    def _lock(self, port: str) -> int:
        """Open and lock the file of a port.

        Raises BlockingIOError when it is locked.
        """
        while True:
            fd = os.open(
                self._folder / port, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                # guard: a device is handed over by one service of the machine
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                there = (self._folder / port).stat()
            except FileNotFoundError:  # removed by its holder
                os.close(fd)
            except BaseException:
                os.close(fd)
                raise
            else:
                if os.path.samestat(there, os.fstat(fd)):
                    return fd
                os.close(fd)

    def give_up(self, port: str, fd: int) -> None:
        """Forget a port whose device is back at this machine's drivers."""
        (self._folder / port).unlink(missing_ok=True)
        os.close(fd)

    def is_taken(self, port: str) -> bool:
        """Return whether some service has the port's device, or is about to have it."""
        try:
            fd = os.open(self._folder / port, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    async def recover(self, *, authorize: bool, root: Path = DEVICES) -> None:
        """Take back devices that killed services left with the kernel's usbip-host."""
        try:
            names = sorted(entry.name for entry in self._folder.iterdir())
        except FileNotFoundError:
            return
        for port in filter(PORT.fullmatch, names):
            try:
                fd = self.take(port)
            except RefusedError:
                continue
            if await _recover(port, authorize=authorize, root=root):
                self.give_up(port, fd)
            else:
                os.close(fd)


async def _recover(port: str, *, authorize: bool, root: Path) -> bool:
    """Release a port's device from usbip-host; return whether that is done."""
    try:
        held = SysfsDevice(port, root)
    except DeviceGoneError:
        return True
    try:
        # guard: only devices of usbip-host
        if held.driver() == "usbip-host":
            log_stderr(f"vitrail-devices: taking port {port} back from usbip-host")
            return await usbip.release(held, authorize=authorize)
    finally:
        held.close()
    return True
