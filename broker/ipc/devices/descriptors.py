"""USB descriptors as the kernel shows them in sysfs ``descriptors``.

The device descriptor, then every configuration with all that belongs to it
(USB 2.0, 9.5 and 9.6; Documentation/ABI/stable/sysfs-bus-usb).  All of it is
the device's own word: it is bounded, walked once, and refused as a whole when
a length does not fit, because half a list of interfaces would be a list without
the keyboard at its end.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from typing_extensions import override

from broker.core.errors import PeerError
from broker.core.limits import devices as limits

_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_DEVICE_TYPE, _INTERFACE_TYPE = 0x01, 0x04
_INTERFACE_BYTES = 9
HID, HUB = 0x03, 0x09


class InterfaceClass(NamedTuple):
    """bInterfaceClass, bInterfaceSubClass and bInterfaceProtocol."""

    cls: int
    sub: int
    proto: int

    @override
    def __str__(self) -> str:
        return f"{self.cls:02x}:{self.sub:02x}:{self.proto:02x}"


class Descriptors(NamedTuple):
    """Contents of the descriptors of a device.

    ``interfaces``: of every configuration and alternate setting, in descriptor
    order, so that a keyboard that waits in a second configuration is seen.
    """

    vendor: int
    product: int
    cls: int
    interfaces: tuple[InterfaceClass, ...]
    digest: str
    """SHA-256 of all bytes, in hexadecimal."""

    @property
    def id(self) -> str:
        """``VVVV:PPPP``."""
        return f"{self.vendor:04x}:{self.product:04x}"


def parse_descriptors(untrusted_bytes: bytes) -> Descriptors:
    """Parse a device's descriptors.  Raises PeerError when they are malformed."""
    if len(untrusted_bytes) > limits.DEVICE_DESCRIPTOR_BYTES:
        most = limits.DEVICE_DESCRIPTOR_BYTES
        raise PeerError(f"the device has more than {most} bytes of descriptors")
    if len(untrusted_bytes) < _DEVICE.size:
        raise PeerError("the device descriptor is truncated")
    size, kind, _, cls, _, _, _, vendor, product, *_ = _DEVICE.unpack_from(
        untrusted_bytes
    )
    if (size, kind) != (_DEVICE.size, _DEVICE_TYPE):
        raise PeerError("the descriptors do not begin with a device descriptor")
    interfaces = _interfaces(memoryview(untrusted_bytes)[_DEVICE.size :])
    digest = hashlib.sha256(untrusted_bytes).hexdigest()
    return Descriptors(vendor, product, cls, interfaces, digest)


def _interfaces(untrusted: memoryview) -> tuple[InterfaceClass, ...]:
    """Return the classes of the interfaces in a device's descriptors."""
    interfaces: list[InterfaceClass] = []
    at = 0
    while at < len(untrusted):
        if len(untrusted) - at < 2:
            raise PeerError("a descriptor is truncated")
        size, kind = untrusted[at], untrusted[at + 1]
        # guard: descriptors are whole
        if size < 2 or at + size > len(untrusted):
            raise PeerError(f"a descriptor has an invalid length of {size} bytes")
        if kind == _INTERFACE_TYPE:
            if size < _INTERFACE_BYTES:
                raise PeerError(f"an interface descriptor has only {size} bytes")
            interfaces.append(InterfaceClass(*untrusted[at + 5 : at + 8]))
            # guard: interfaces are counted
            if len(interfaces) > limits.DEVICE_INTERFACES:
                most = limits.DEVICE_INTERFACES
                raise PeerError(f"the device has more than {most} interfaces")
        at += size
    return tuple(interfaces)
