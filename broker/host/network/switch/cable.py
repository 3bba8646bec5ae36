"""The process between a box's network namespace and a switch.

    program in the box ─ eth0 ═ veth ═ packet socket ═ stream of frames ═ switch

It is ``veth`` without a filter, for the switch is one.  Its arguments are the
descriptors of the switch's stream, of a pipe for the word that the interface is up and
of the network namespace, and the interface: name, addresses, router.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from broker.host.network.addresses import ipv6_beside
from broker.host.network.frameguard import Addresses
from broker.host.network.veth import (
    LENGTH,
    Card,
    PacketGuard,
    carry_to_the_end,
    lay_cable,
)

_DISABLED = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


class CableGuard(PacketGuard):
    """``PacketGuard`` that carries each frame."""

    @override
    def _passed(self) -> Iterator[bytes]:
        for untrusted_frame in self._read_frames():
            yield LENGTH.pack(len(untrusted_frame)) + untrusted_frame


def can_ipv6(disabled: Path = _DISABLED) -> bool:
    """Whether interfaces of this kernel have IPv6, as it is set."""
    try:
        return disabled.read_text().strip() == "0"
    except OSError:  # a kernel without IPv6
        return False


def main() -> int:
    """Entry point; see the head of this module."""
    switch, ready, namespace = map(int, sys.argv[1:4])
    name, address, mac, *router = sys.argv[4:]
    way = router[0] if router else ""
    way6 = ipv6_beside(way) if way else ""
    card = Card(name, address, way, mac, ipv6_beside(address), way6)
    try:
        addresses = Addresses()
        packets = lay_cable(namespace, ipv6=can_ipv6(), card=card)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    guard = CableGuard(packets, socket.socket(fileno=switch), addresses)
    return carry_to_the_end(guard, ready)


if __name__ == "__main__":
    sys.exit(main())
