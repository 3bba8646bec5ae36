"""Messages between a broker and ``vitrail-devices``, which has the rights.

JSON, one message a packet (SOCK_SEQPACKET).  A broker asks about plug-ins by
number and never names a path, a port or a file; what may leave this machine at
all is bounded by the records that ``vitrail-devices`` reads itself.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

import msgspec

from broker.core.decoding import OneLineMessage, Reader, reader
from broker.core.limits import devices as limits
from broker.core.limits import link as link_limits

_Word = Annotated[str, msgspec.Meta(max_length=120)]
_Text = Annotated[str, msgspec.Meta(max_length=link_limits.LINK_TEXT_CHARACTERS)]
_Name = Annotated[str, msgspec.Meta(max_length=64)]
Way = Literal["usbip", "node"]


class ListDevices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="list"):
    """Ask for all devices."""

    id: int


class Attach(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="attach"):
    """Hand a device over.

    ``usbip``: the socket that comes along is given to the kernel.  ``node``: the
    open device node comes back, for QEMU.
    """

    id: int
    number: int
    sandbox: _Name
    lease: _Name
    way: Way


class Detach(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="detach"):
    """Take a device back."""

    id: int
    attachment: _Name


class FindMachine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="find"):
    """Ask how a sandbox's machine takes a device, as ``devices.toml`` says."""

    id: int
    sandbox: _Name


Request = ListDevices | Attach | Detach | FindMachine


class DeviceItem(OneLineMessage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One plug-in, in the host's list and in the link's: ``vitrail-devices`` cuts it."""

    number: Annotated[int, msgspec.Meta(ge=1, le=link_limits.LINK_COUNTER)]
    port: _Word
    device_id: _Word
    serial: _Text
    digest: _Word
    interfaces: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=8)]],
        msgspec.Meta(max_length=limits.DEVICE_INTERFACES),
    ]
    title: _Text
    driver: _Text
    removable: _Word
    state: _Word
    authorized: bool
    hub: bool
    sandboxes: Annotated[
        list[_Word], msgspec.Meta(max_length=limits.DEVICE_LISTED_SANDBOXES)
    ]
    """Which sandboxes this machine's records let it go to; ``*``: any."""
    lease: _Word = ""
    attachment: _Word = ""


class Devices(msgspec.Struct, frozen=True, tag="devices"):
    """The answer to ``ListDevices``."""

    id: int
    devices: list[DeviceItem]
    strict: bool
    source: str
    problems: list[str]


class Attached(msgspec.Struct, frozen=True, tag="attached"):
    """A device was handed over; usbip needs ``devid`` and ``speed`` in the guest."""

    id: int
    attachment: str
    devid: int = 0
    speed: int = 0
    bus: int = 0
    address: int = 0


class MachineWay(msgspec.Struct, frozen=True, tag="way"):
    """``kind``: ``qmp``, ``libvirt``, ``crosvm``; empty: the file does not say."""

    id: int
    kind: str = ""
    target: str = ""
    uri: str = ""


class DeviceDone(msgspec.Struct, frozen=True, tag="done"):
    """A request was carried out."""

    id: int


class DeviceRefused(msgspec.Struct, frozen=True, tag="refused"):
    """A request was not carried out."""

    id: int
    message: str
    hint: str = ""


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    """The list has changed.  Sent unasked."""


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """An attachment has ended, not by a request.  Sent unasked."""

    attachment: str
    reason: str


Reply = Devices | Attached | MachineWay | DeviceDone | DeviceRefused | Changed | Ended

HANDOVER = struct.Struct("<8sII")
"""Header that a guest reads before its kernel gets the socket: MAGIC, devid, speed."""
MAGIC = b"VitrUSB1"


def handover(devid: int, speed: int) -> bytes:
    """Return the header that announces the device of a connection to a guest."""
    return HANDOVER.pack(MAGIC, devid, speed)


def encode(message: msgspec.Struct) -> bytes:
    """Return a message's packet."""
    return msgspec.json.encode(message)


decode_request: Reader[Request] = reader(
    msgspec.json.Decoder(Request), "cannot decode the message"
)
"""Return a request."""
decode_reply: Reader[Reply] = reader(
    msgspec.json.Decoder(Reply), "cannot decode the message"
)
"""Return a reply."""
