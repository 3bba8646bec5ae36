"""What a guest and passt say to each other: addresses and neighbours, not flows.

Sans-IO.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from broker.core.limits import network as limits
from broker.core.token_bucket import TokenBucket
from broker.host.network.flowguard.rates import took
from broker.host.network.frameguard.neighbours import (
    FROM_PASST,
    is_dhcpv6,
    is_discovery,
    is_lease,
    is_link_local,
    is_own_arp,
    told_address,
)
from broker.host.network.frameguard.packets import ICMP6, Packet, is_dhcp

_PREFIX = 8
"""Bytes of a guest's network of IPv6."""


class LinkPackets:
    """The guest's addresses, and the packets that are about them."""

    def __init__(
        self,
        guest: str,
        to_passt: Callable[[bytes], None],
        *,
        leases: bool,
        guest6: str,
        gateway6: str,
    ) -> None:
        """Set up link packets' handling; see ``flow_filter.FlowFilter``."""
        self._guest = IPv4Address(guest).packed
        self._to_passt = to_passt
        self._leases = TokenBucket(1, limits.LEASES_BURST) if leases else None
        self._prefix = IPv6Address(guest6).packed[:_PREFIX] if guest6 else None
        self._gateway6 = IPv6Address(gateway6).packed if guest6 else b""
        self._neighbours = TokenBucket(
            limits.NEIGHBOURS_PER_SECOND, limits.NEIGHBOURS_BURST
        )

    @property
    def has_ipv6(self) -> bool:
        """Return whether the guest has IPv6."""
        return self._prefix is not None

    def take_arp(self, untrusted_frame: bytes, now: float) -> None:
        """Take a frame of ARP."""
        # guard: a guest speaks for its own address, and seldom
        if is_own_arp(untrusted_frame, self._guest) and took(self._neighbours, now):
            self._to_passt(untrusted_frame)

    def is_guest(self, sender: bytes) -> bool:
        """Return whether an address is one of the guest's."""
        return sender == self._guest or (
            len(sender) == 16 and sender[:_PREFIX] == self._prefix
        )

    def takes(self, packet: Packet, now: float) -> bool:
        """Handle a packet for passt itself (DHCP, neighbour discovery).

        False for others.
        """
        if is_dhcp(packet.source, packet.target, packet) or is_dhcpv6(packet):
            # guard: questions for an address are few, and only where it is not known
            if self._leases is not None and took(self._leases, now):
                self._to_passt(packet.frame)
            return True
        if not is_discovery(packet):
            return False
        told = told_address(packet)
        # guard: a guest speaks for its own addresses of IPv6, and seldom
        if (
            self._prefix is not None
            and self._is_own6(packet.sender)
            and (not told or self._is_own6(told))
            and took(self._neighbours, now)
        ):
            self._to_passt(packet.frame)
        return True

    def _is_own6(self, address: bytes) -> bool:
        return self.is_guest(address) or (
            is_link_local(address) and address != self._gateway6
        )

    def may_come(self, packet: Packet) -> bool:
        """Return whether a packet of passt (DHCP, neighbour discovery) may pass."""
        if packet.protocol == ICMP6 and packet.kind in FROM_PASST:
            return self._prefix is not None
        return self._leases is not None and is_lease(packet)
