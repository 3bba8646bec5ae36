"""The process between the network namespace of a box or VMM and a switch.

    program in the box ─ eth0 ═ veth ═ packet socket ═ stream of frames ═ switch

It is ``veth`` or ``tap`` without a filter, for the switch is one.  Its arguments are
that word, and the descriptors of the switch's stream, of a pipe for the word that the
interface is up and of the network namespace.  Then the interface: name, addresses,
router; or the VMM's pidfd, and the device's name.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from broker.host.network.addresses import ipv6_beside
from broker.host.network.frameguard.frameguard import Addresses
from broker.host.network.frameguard.tap import make_tap
from broker.host.network.frameguard.veth import (
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
    """Return whether interfaces of this kernel have IPv6, as it is set."""
    try:
        return disabled.read_text().strip() == "0"
    except OSError:  # a kernel without IPv6
        return False


def main() -> int:
    """Make an interface (TAP or veth) and carry its frames to and from a switch."""
    kind, *words = sys.argv[1:]
    switch, ready, namespace = map(int, words[:3])
    leader = int(words[3]) if kind == "tap" else -1
    try:
        addresses = Addresses()
        if kind == "tap":
            packets = make_tap(namespace, words[4])
        else:
            packets = lay_cable(namespace, ipv6=can_ipv6(), card=_card(*words[3:]))
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    side = socket.socket(fileno=switch)
    guard = CableGuard(packets, side, addresses, leader=leader)
    return carry_to_the_end(guard, ready)


def _card(name: str, address: str, mac: str, router: str = "") -> Card:
    way6 = ipv6_beside(router) if router else ""
    return Card(name, address, router, mac, ipv6_beside(address), way6)


if __name__ == "__main__":
    sys.exit(main())
