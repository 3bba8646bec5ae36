"""A USB device's directory in sysfs, held open.

Everything is read and written through one descriptor of the directory.  It
stays bound to the kernel's device object: when that is unplugged, reading and
writing fail, whatever is plugged into the same port afterwards.  A path would
lead to the new device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from broker.core.errors import PeerError, UpstreamError
from broker.core.limits import devices as limits
from broker.ipc.devices.description import PORT, Device, word
from broker.ipc.devices.descriptors import parse_descriptors
from broker.wire.memory import SHORT_OF_DESCRIPTORS, SHORT_OF_MEMORY

DEVICES = Path("/sys/bus/usb/devices")
_ATTRIBUTE_BYTES = 4096
"""sysfs gives at most a page of a text attribute."""


_OUT_OF_DESCRIPTORS = SHORT_OF_DESCRIPTORS | SHORT_OF_MEMORY


class DeviceGoneError(UpstreamError):
    """The device was unplugged."""


class SysfsDevice:
    """One plugged-in device; to be closed."""

    def __init__(self, port: str, root: Path = DEVICES) -> None:
        """Open the device's directory in sysfs.

        Raises DeviceGoneError for an empty port.
        """
        # guard: ports are names
        if not PORT.fullmatch(port):
            raise DeviceGoneError(f"'{port[:40]}' is not a port with a device")
        self.port = port
        self.root = root
        try:
            self._fd = os.open(root / port, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                raise self._gone(error) from error
            raise DeviceGoneError(f"port {port} is empty") from error

    def close(self) -> None:
        """Let go of the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, name: str, limit: int = _ATTRIBUTE_BYTES) -> bytes:
        """Return an attribute, b'' where the device has none.

        Raises DeviceGoneError.  The content is the device's own word.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            self._still_there()
            return b""
        except OSError as error:
            raise self._gone(error) from error
        try:
            return _read_all(fd, limit)
        except OSError as error:
            raise self._gone(error) from error
        finally:
            os.close(fd)

    def write(self, name: str, text: str) -> None:
        """Write an attribute of the device.  Raises DeviceGoneError, UpstreamError."""
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                os.write(fd, text.encode("ascii"))
            finally:
                os.close(fd)
        except OSError as error:
            self._still_there()
            raise UpstreamError(
                f"the kernel rejected {name}={text} for port {self.port}: {error.strerror}"
            ) from error

    def there(self) -> bool:
        """Return whether the device is still plugged in."""
        try:
            self._still_there()
        except DeviceGoneError:
            return False
        return True

    def _still_there(self) -> None:
        try:
            os.stat("devnum", dir_fd=self._fd)
        except OSError as error:
            raise self._gone() from error

    def _gone(self, error: OSError | None = None) -> UpstreamError:
        # guard: a device that cannot be read is not unplugged
        if error is not None and error.errno in _OUT_OF_DESCRIPTORS:
            return UpstreamError(f"cannot read port {self.port}: {error.strerror}")
        return DeviceGoneError(f"the device in port {self.port} was unplugged")

    def number(self, name: str) -> int:
        """Return an attribute that the kernel writes as a number.  Raises DeviceGoneError."""
        text = self.read(name).strip()
        if not text.isdigit() or len(text) > 9:
            raise self._gone()
        return int(text)

    def describe(self) -> Device:
        """Read the device's description.

        Raises DeviceGoneError, PeerError when its description is malformed.
        """
        most = limits.DEVICE_DESCRIPTOR_BYTES
        number = self.number("devnum")
        made = Device(
            port=self.port,
            bus=self.number("busnum"),
            number=number,
            descriptors=parse_descriptors(self.read("descriptors", most + 1)),
            serial=word(self.read("serial")),
            manufacturer=word(self.read("manufacturer")),
            product=word(self.read("product")),
            driver=",".join(self._drivers()),
            removable=self._removable(),
            speed=word(self.read("speed")),
            authorized=self.read("authorized").strip() != b"0",
        )
        if self.number("devnum") != number:
            raise self._gone()
        return made

    def _removable(self) -> str:
        text = self.read("removable").strip()
        known = {b"removable": "removable", b"fixed": "fixed"}
        return known.get(text, "unknown")

    def _drivers(self) -> Iterator[str]:
        """Yield the drivers that the device or its interfaces are bound to."""
        own = self.driver()
        if own not in {"", "usb"}:
            yield own
        found: set[str] = set()
        try:
            names = sorted(os.listdir(self._fd))  # noqa: PTH208 -- a descriptor
        except OSError as error:
            raise self._gone() from error
        for name in names[: 2 * limits.DEVICE_INTERFACES]:
            if name.startswith(f"{self.port}:"):
                found.add(self.driver(f"{name}/"))
        yield from sorted(found - {""})

    def driver(self, prefix: str = "") -> str:
        """Return the name of the driver that it is bound to, '' without one."""
        try:
            link = os.readlink(f"{prefix}driver", dir_fd=self._fd)
        except OSError:
            return ""
        return link.rpartition("/")[2]


def _read_all(fd: int, limit: int) -> bytes:
    found = b""
    while len(found) < limit and (more := os.read(fd, limit - len(found))):
        found += more
    return found


def ports(root: Path = DEVICES) -> list[str]:
    """Return the ports that have a device.  Raises UpstreamError without USB."""
    try:
        names = sorted(entry.name for entry in root.iterdir())
    except OSError as error:
        raise UpstreamError(f"cannot list USB devices: {error.strerror}") from error
    return [name for name in names if PORT.fullmatch(name)]


def describe(port: str, root: Path = DEVICES) -> Device | str:
    """Describe the device in a port, or return why it cannot be described.

    Raises DeviceGoneError when there is none.
    """
    found = SysfsDevice(port, root)
    try:
        return found.describe()
    except PeerError as error:
        return str(error)
    finally:
        found.close()
