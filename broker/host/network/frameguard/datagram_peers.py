"""Which datagrams and echo replies of passt reach the guest: answers of its own peers.

A socket of passt takes datagrams from everybody: programs of this machine, hosts of the
local network.  So each guest's port has the peers to which it has sent, for as long as a
flow of UDP or ICMP lives (RFC 4787, address-dependent filtering).

It is for ``network = "user"``; the flow filter has its table of flows.  Sans-IO.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address

from broker.core.limits import network as limits
from broker.host.network.addresses import GATEWAY
from broker.host.network.frameguard.neighbours import is_lease, is_link_local
from broker.host.network.frameguard.packets import (
    ECHO,
    ECHO_REPLY,
    ETHERNET,
    ICMP,
    ICMP6,
    IPV4,
    IPV6,
    UDP,
    is_dhcp,
    read,
)

_IDLE = {
    UDP: limits.IDLE_SECONDS["udp"],
    ICMP: limits.IDLE_SECONDS["icmp"],
    ICMP6: limits.IDLE_SECONDS["icmp"],
}
"""How long a guest's peer may answer after the last datagram, in seconds."""
_GATEWAY = IPv4Address(GATEWAY).packed
_PROTOCOL, _PROTOCOL6 = ETHERNET + 9, ETHERNET + 6
"""Offsets of the protocol in a frame of IPv4, and of IPv6 without further headers."""
_DATAGRAMS = frozenset(bytes([protocol]) for protocol in _IDLE)


class DatagramPeers:
    """The hosts that a guest has sent datagrams to, of each port and echo identifier."""

    def __init__(self) -> None:
        self._used: OrderedDict[tuple[int, int, bytes], float] = OrderedDict()
        """When a peer's last datagram passed, in either direction; the oldest is first."""

    def may_leave(self, untrusted_frame: bytes, now: float) -> bool:
        """Return whether a guest's frame may pass; note the peer of a datagram."""
        if not _has_datagram(untrusted_frame):
            return True
        packet = read(untrusted_frame)
        # passt takes each piece for a datagram, with the ports that its data names.
        # guard: a datagram is not in pieces
        if packet is None:
            return False
        asks = packet.kind == ECHO.get(packet.protocol, 0)
        if asks and not is_dhcp(packet.source, packet.target, packet):
            self._note((packet.protocol, packet.source, packet.receiver), now)
            # guard: a guest's peers are bounded
            if len(self._used) > limits.DATAGRAM_PEERS:
                self._used.popitem(last=False)
        return True

    def may_enter(self, frame: bytes, now: float) -> bool:
        """Return whether a frame of passt may reach the guest."""
        if not _has_datagram(frame):
            return True
        packet = read(frame)
        if packet is None:
            return False
        if is_lease(packet):
            return packet.sender == _GATEWAY or is_link_local(packet.sender)
        # passt's own: discovery of neighbours, and errors about a flow of the guest.
        if packet.kind != ECHO_REPLY.get(packet.protocol, 0):
            return True
        key = (packet.protocol, packet.target, packet.sender)
        used = self._used.get(key)
        # guard: a datagram comes from a host that the guest has sent to
        if used is None or now - used > _IDLE[packet.protocol]:
            return False
        self._note(key, now)
        return True

    def _note(self, key: tuple[int, int, bytes], now: float) -> None:
        self._used[key] = now
        self._used.move_to_end(key)

    def forget(self, is_own: Callable[[bytes], bool]) -> None:
        """Forget peers whose address is this machine's now."""
        for key in [key for key in self._used if is_own(key[2])]:
            del self._used[key]


def _has_datagram(untrusted_frame: bytes) -> bool:
    """Return whether a frame's IP header says that it has UDP or ICMP."""
    if untrusted_frame[12:14] == IPV6:
        return untrusted_frame[_PROTOCOL6 : _PROTOCOL6 + 1] in _DATAGRAMS
    if untrusted_frame[12:14] == IPV4:
        return untrusted_frame[_PROTOCOL : _PROTOCOL + 1] in _DATAGRAMS
    return False
