"""USB descriptors and devices for tests."""

from __future__ import annotations

import struct

from broker.ipc.devices.description import Device
from broker.ipc.devices.descriptors import parse_descriptors


def descriptors(
    *interfaces: tuple[int, int, int], vendor=0x0951, product=0x1666, cls=0
) -> bytes:
    """A device descriptor and one configuration with these interfaces."""
    device = struct.pack(
        "<BBHBBBBHHHBBBB",
        18,
        1,
        0x0200,
        cls,
        0,
        0,
        64,
        vendor,
        product,
        0x0100,
        1,
        2,
        3,
        1,
    )
    body = b"".join(
        struct.pack("<9B", 9, 4, number, 0, 1, *kind, 0)
        + struct.pack("<BBBBHB", 7, 5, 0x81, 2, 512, 0)
        for number, kind in enumerate(interfaces)
    )
    head = struct.pack(
        "<BBHBBBBB", 9, 2, 9 + len(body), len(interfaces), 1, 0, 0x80, 50
    )
    return device + head + body


STICK, KEYBOARD, HUB = (8, 6, 0x50), (3, 1, 1), (9, 0, 0)


def device(*interfaces, port="2-1", number=5, raw=None, **more) -> Device:
    """A described device; a stick unless told otherwise."""
    kinds = {k: more.pop(k) for k in ("vendor", "product_number") if k in more}
    if "product_number" in kinds:
        kinds["product"] = kinds.pop("product_number")
    data = raw or descriptors(*(interfaces or (STICK,)), **kinds)
    return Device(
        port=port,
        bus=int(port.partition("-")[0]),
        number=number,
        descriptors=parse_descriptors(data),
        **more,
    )
