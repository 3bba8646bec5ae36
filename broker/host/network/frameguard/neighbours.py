"""Parses a guest's ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).

Runs in the packet filters: frameguard, netguard, flowguard and switch.  passt answers the
requests.  Sans-IO.
"""

from __future__ import annotations

from broker.host.network.frameguard.packets import (
    ETHERNET,
    ICMP6,
    UDP,
    Packet,
    is_dhcp,
)

_ARP = b"\x08\x06"
_ETHERNET_IPV4 = b"\x00\x01\x08\x00\x06\x04"
_OPERATIONS = frozenset({b"\x00\x01", b"\x00\x02"})
_NOBODY = bytes(4)
ROUTER_ASKED, ROUTER, ASKED, TELLS = 133, 134, 135, 136
_FROM_GUEST = frozenset({ROUTER_ASKED, ASKED, TELLS})
FROM_PASST = frozenset({ROUTER, ASKED, TELLS})
_ONE_LINK = 255
"""The hop limit of what no router has passed on."""
_HOPS = ETHERNET + 7
_ROUTERS = bytes.fromhex("ff02" + "00" * 13 + "02")
_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")
_SOLICITED = bytes.fromhex("ff02" + "00" * 9 + "01ff")
_SERVERS = bytes.fromhex("ff02" + "00" * 11 + "010002")


def is_arp(untrusted_frame: bytes) -> bool:
    """Return whether a frame says that it is one of ARP."""
    return untrusted_frame[12:14] == _ARP


def is_own_arp(untrusted_frame: bytes, guest: bytes) -> bool:
    """Return whether an ARP frame speaks for its sender and the guest only."""
    return (
        untrusted_frame[14:20] == _ETHERNET_IPV4
        and untrusted_frame[20:22] in _OPERATIONS
        and untrusted_frame[22:28] == untrusted_frame[6:12]
        and untrusted_frame[28:32] in {guest, _NOBODY}
        and len(untrusted_frame) >= 42
    )


def is_link_local(address: bytes) -> bool:
    """Return whether an IPv6 address is link-local (fe80::/10)."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def is_discovery(packet: Packet) -> bool:
    """Return whether an IPv6 packet is router or neighbour discovery."""
    receiver = packet.receiver
    return (
        packet.protocol == ICMP6
        and packet.kind in _FROM_GUEST
        and packet.frame[_HOPS] == _ONE_LINK
        and (
            receiver in {_ROUTERS, _NODES}
            or receiver.startswith(_SOLICITED)
            or is_link_local(receiver)
        )
    )


def told_address(packet: Packet) -> bytes:
    """Return the address of which a packet tells; empty if it asks only."""
    return packet.data[:16] if packet.kind == TELLS else b""


def is_dhcpv6(packet: Packet) -> bool:
    """Return whether a packet asks for an address (RFC 8415)."""
    ports = (packet.source, packet.target)
    return (
        packet.protocol == UDP and packet.receiver == _SERVERS and ports == (546, 547)
    )


def is_lease(packet: Packet) -> bool:
    """Return whether a packet of passt answers one of DHCP or DHCPv6."""
    ports = (packet.source, packet.target)
    return is_dhcp(packet.target, packet.source, packet) or (
        packet.protocol == UDP and ports == (547, 546)
    )
