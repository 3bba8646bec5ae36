"""The process between the network namespace of a box and a switch.

    program in the box ─ eth0 ═ veth ═ packet socket ═ stream of frames ═ switch

It is ``packet_guard cable veth``, without a filter, for the switch is one.
Its arguments are the descriptors of the switch's stream, of a pipe for the word that the
interface is up and of the network namespace.  Then the interface: name, addresses,
router.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from broker.host.network.addresses import ipv6_beside
from broker.host.network.frameguard.interfaces import SandboxInterface, carry
from broker.host.network.frameguard.veth import LENGTH, Card, PacketGuard

_DISABLED = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


class CableGuard(PacketGuard):
    """``PacketGuard`` that carries each frame."""

    @override
    def _passed(self) -> Iterator[bytes]:
        for untrusted_frame in self._read_frames():
            yield LENGTH.pack(len(untrusted_frame)) + untrusted_frame

    @override
    def _may_enter(self, frame: bytes) -> bool:
        return True


def can_ipv6() -> bool:
    """Return whether interfaces of this kernel have IPv6, as it is set."""
    try:
        return _DISABLED.read_text().strip() == "0"
    except OSError:  # a kernel without IPv6
        return False


def lay_to_switch(switch: str, ready: str, namespace: str, *words: str) -> int:
    """Make a box's interface and carry its frames to and from a switch."""
    side = socket.socket(fileno=int(switch))
    return carry(
        SandboxInterface(int(namespace), int(ready), card=_card(*words)),
        lambda packets, addresses: CableGuard(packets, side, addresses),
        ipv6=can_ipv6(),
    )


def _card(name: str, address: str, mac: str, router: str = "") -> Card:
    way6 = ipv6_beside(router) if router else ""
    return Card(name, address, router, mac, ipv6_beside(address), way6)
