"""Hot-plug events of the kernel, or of udevd where that runs.

An event is a hint only: it names a port, and the device in that port is read from
sysfs afterwards.  So a burst of events costs one look at each port, a lost
event (ENOBUFS) a look at all of them, and no property of an event, which a
device can choose, is believed.

With udevd its broadcasts are awaited, because until then the device's node
does not have its owner and mode yet (libudev(3), udev_monitor_new_from_netlink).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path

import pyudev
import trio

from broker.core.errors import SetupError
from broker.ipc.devices.description import PORT, Device
from broker.ipc.in_thread import NoThreadError, in_thread
from broker.root.sysfs import DEVICES, DeviceGoneError, describe, ports

_UDEVD = Path("/run/udev/control")
_AGAIN_SECONDS = 1.0
_BURST = 256
"""Messages that are read before the ports are looked at."""
_LOOKERS = trio.CapacityLimiter(16)
"""Separate threads: devices are taken back by the others."""


class Watcher:
    """Receives changes of the ports: ``seen`` or ``removed``, each called at once."""

    def __init__(
        self,
        *,
        seen: Callable[[Device], None],
        removed: Callable[[str], None],
        malformed: Callable[[str, str], None],
        root: Path = DEVICES,
    ) -> None:
        """Set up a watcher; the functions are called for each change of a port."""
        self._seen, self._removed, self._malformed = seen, removed, malformed
        self._root = root
        self._known: set[str] = set()
        self._stale: set[str] = set()
        self._looking: dict[str, trio.Lock] = {}

    async def look_at_all(self) -> None:
        """Look at every port: at the start, and after events were lost."""
        await self.look_at([*ports(self._root), *self._known])

    async def look_at(self, names: Iterable[str]) -> None:
        """Look at these ports, each once; returns when all were seen."""
        async with trio.open_nursery() as nursery:
            for port in dict.fromkeys(names):
                nursery.start_soon(self._look_at, port)

    async def _look_at(self, port: str) -> None:
        """Describe a port's device in a thread and report it.

        One at a time for a port.
        """
        # guard: one look for many events
        if port in self._stale:
            return  # a read that has not begun yet
        self._stale.add(port)
        # In a thread, one for a port: the kernel reads strings under the device's
        # lock, which a device that does not answer keeps for seconds.
        async with self._looking.setdefault(port, trio.Lock()):
            self._stale.discard(port)
            try:
                found = await self._describe(port)
            except DeviceGoneError:
                self._gone(port)
            else:
                self._found(port, found)

    async def _describe(self, port: str) -> Device | str:
        """Describe the device in a port, in a thread; waits for room for that."""
        while True:
            try:
                # guard: devices that do not answer have threads of their own
                return await in_thread(describe, port, self._root, limiter=_LOOKERS)
            # guard: a device for which there is no thread ends no service
            except NoThreadError:
                await trio.sleep(_AGAIN_SECONDS)

    def _gone(self, port: str) -> None:
        self._known.discard(port)
        self._removed(port)

    def _found(self, port: str, found: Device | str) -> None:
        """Report the device of a port, or that its description is malformed."""
        self._known.add(port)
        if isinstance(found, str):
            # Nothing about it is known, so nothing may be decided about it.
            # guard: malformed devices are gone
            self._removed(port)
            self._malformed(port, found)
        else:
            self._seen(found)


def udevd_runs() -> bool:
    """Return whether udevd takes the kernel's events and broadcasts them."""
    return _UDEVD.exists()


class UsbMonitor:
    """A netlink socket that hears of USB devices."""

    def __init__(self, source: str | None = None) -> None:
        """Open a netlink monitor of USB events from ``source``: ``udev`` or ``kernel``.

        Raises SetupError.
        """
        self.source = source or ("udev" if udevd_runs() else "kernel")
        try:
            self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), self.source)
            self._monitor.filter_by("usb")
            self._monitor.set_receive_buffer_size(1 << 20)
        except OSError:
            # More than net.core.rmem_max needs CAP_NET_ADMIN; less only means
            # that events may be lost, and then every port is looked at.
            self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), self.source)
            self._monitor.filter_by("usb")
        except (pyudev.DeviceNotFoundError, ImportError) as error:
            raise SetupError(f"cannot watch for devices: {error}") from error
        self._monitor.start()

    def fileno(self) -> int:
        """The socket."""
        fd: int = self._monitor.fileno()
        return fd

    def drain(self) -> set[str] | None:
        """Read all waiting events; return the ports they name, None: some were lost."""
        found: set[str] = set()
        for _ in range(_BURST):
            try:
                device = self._monitor.poll(timeout=0)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise
            if device is None:
                # Nothing more, or a message that is not about USB: the caller
                # waits for the socket in both cases.
                break
            port = str(device.sys_name).partition(":")[0]
            if PORT.fullmatch(port):
                found.add(port)
        return found


async def watch(
    watcher: Watcher,
    *,
    source: str | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Follow hot-plug events and look at the ports they name, until cancelled.

    Started when the devices that are there were looked at.
    """
    monitor = UsbMonitor(source)  # before the look: nothing falls in between
    await watcher.look_at_all()
    task_status.started()
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(monitor.fileno())
            found = monitor.drain()
            if found is None:
                nursery.start_soon(watcher.look_at_all)
            elif found:
                nursery.start_soon(watcher.look_at, sorted(found))
