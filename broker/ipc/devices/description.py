"""One plugged-in device as everything else of Vitrail sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from broker.core.errors import PeerError
from broker.core.escape import code_of, printable
from broker.core.limits import devices as limits
from broker.ipc.devices.descriptors import HUB, Descriptors, InterfaceClass

PORT = re.compile(r"[0-9]{1,4}-[0-9]{1,3}(?:\.[0-9]{1,3}){0,6}")
"""A device's name on the bus (``2-1.4``): bus, then the ports on the way to it."""

_CLASSES = {
    0x01: "audio",
    0x02: "communication",
    0x03: "input",
    0x06: "camera",
    0x07: "printer",
    0x08: "storage",
    0x09: "hub",
    0x0B: "smart card",
    0x0E: "video",
    0xE0: "wireless",
}


def word(untrusted_bytes: bytes) -> str:
    """Decode and escape a string of a device.

    Raises PeerError for a text that is longer than any string descriptor: a
    shortened serial number would be equal to another's.
    """
    untrusted_text = untrusted_bytes.removesuffix(b"\n").decode(
        "utf-8", "backslashreplace"
    )
    most = limits.DEVICE_WORD_CHARACTERS
    clean = printable(untrusted_text, most * 10)
    # guard: a string of a device has no space but the ordinary one
    clean = "".join(c if c.isprintable() else code_of(c) for c in clean)
    # guard: a string is never shortened
    if len(clean) > most:
        raise PeerError(f"the device has a string of more than {most} characters")
    return clean


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device in its port, from one plug-in to the next.

    ``port``, ``bus``, ``number`` and ``removable`` are the kernel's words, all
    else is what the device says about itself; texts are escaped.
    """

    port: str
    bus: int
    number: int
    """The address on the bus; another one after each plug-in (``devnum``)."""
    descriptors: Descriptors
    serial: str = ""
    manufacturer: str = ""
    product: str = ""
    driver: str = ""
    """Drivers of its interfaces, with commas; empty: nothing is bound."""
    removable: str = "unknown"
    """``removable``, ``fixed`` or ``unknown``, as the firmware says of the port."""
    speed: str = ""
    """Megabits a second, as sysfs has it: ``480``, ``1.5``."""
    authorized: bool = True

    @property
    def id(self) -> str:
        """``VVVV:PPPP``."""
        return self.descriptors.id

    @property
    def digest(self) -> str:
        """The digest of the descriptors, which ``hash=`` in a rule is compared with."""
        return self.descriptors.digest

    @property
    def interfaces(self) -> tuple[InterfaceClass, ...]:
        """See ``Descriptors.interfaces``."""
        return self.descriptors.interfaces

    @property
    def hub(self) -> bool:
        """Return whether the device is a hub: never attached, nor all behind it."""
        return self.descriptors.cls == HUB or any(i.cls == HUB for i in self.interfaces)

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """Return the values that must stay the same for a device's verdict to hold."""
        return (
            self.port,
            self.bus,
            self.number,
            self.digest,
            self.serial,
            self.manufacturer,
            self.product,
        )

    @property
    def node(self) -> str:
        """Its device node."""
        return f"/dev/bus/usb/{self.bus:03d}/{self.number:03d}"

    @property
    def name(self) -> str:
        """For an event: ``usb 0951:1666``."""
        return f"usb {self.id}"

    @property
    def title(self) -> str:
        """For a user: the manufacturer, the product, the kinds of its interfaces."""
        words = " ".join(w for w in (self.manufacturer, self.product) if w)
        return f"{words or self.id} ({self.kinds})"

    @property
    def kinds(self) -> str:
        """Return the classes of the device's interfaces in words, each once."""
        names = (_CLASSES.get(i.cls, f"class {i.cls:02x}") for i in self.interfaces)
        kinds = list(dict.fromkeys(names))
        # guard: a title names few kinds
        more = len(kinds) - limits.DEVICE_KINDS
        if more > 0:
            kinds[limits.DEVICE_KINDS :] = [f"{more} more kinds"]
        return ", ".join(kinds) or "no interface"
