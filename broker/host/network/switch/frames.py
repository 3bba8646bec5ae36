"""Which frames a switch of sandboxes carries: ``launch.network`` of ``lan:`` and ``through:``.

Each port has a fixed address of IPv4, and those of IPv6 and of its card that are made
of it.  A frame is carried from its port's own addresses to one other port, and no frame
is carried to all: the switch answers ARP and neighbour discovery itself, and a port
learns of no other one what it does not ask for.  Ports of one lan reach each other.  Clients of a provider reach the provider
only, which is the router on their way to everything else; if it does not run, no
port is there to carry their frames to.

VLAN tags, broadcast and multicast are dropped, and with them DHCP and routers'
announcements, for addresses are given to a sandbox when it starts; of IPv6 also all
further headers (fragments have one).

Sans-IO: frames in, (port, frame) out.

The process of the switch runs this, jailed; the host only starts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv6Address

from broker.core.limits import network as limits
from broker.core.token_bucket import TokenBucket
from broker.host.network.addresses import ipv6_beside
from broker.host.network.flowguard.dns_messages import (
    AAAA,
    NOERROR,
    NXDOMAIN,
    A,
    DnsError,
    NameAddresses,
    error_reply,
    read_question,
    reply,
)
from broker.host.network.flowguard.rates import took
from broker.host.network.frameguard.neighbours import (
    ASKED,
    is_arp,
    is_link_local,
    is_own_arp,
)
from broker.host.network.frameguard.packets import (
    ETHERNET,
    ICMP6,
    IP_HEADER,
    IPV6,
    UDP,
    Packet,
    datagram_back,
    neighbour_back,
    read,
)
from broker.host.network.switch.switch_ports import ROUTER, PortRole, mac_of

_IPV4 = b"\x08\x00"
_REQUEST, _REPLY = b"\x00\x01", b"\x00\x02"
_ARP_HEAD = b"\x08\x06\x00\x01\x08\x00\x06\x04"
_DNS = 53
_NAME_SECONDS = 60
_DOMAIN = ".internal"
_NOT_UNICAST = frozenset({0, 127, *range(224, 256)})
_NOT_UNICAST6 = frozenset({0, 0xFE, 0xFF})
"""First octets of addresses that no packet is routed to."""
_CARRIED6 = frozenset({1, 2, 3, 4, 128, 129})
"""ICMPv6 that a port may send to another: errors and echo, and nothing of a link's own."""


def _bucket() -> TokenBucket:
    return TokenBucket(limits.NEIGHBOURS_PER_SECOND, limits.NEIGHBOURS_BURST)


@dataclass(frozen=True, eq=False)
class SwitchPort:
    """One sandbox's place at the switch."""

    number: int
    address: bytes
    role: PortRole
    name: str
    """By which other members find it."""
    pace: TokenBucket = field(default_factory=_bucket)
    """Of the answers that the switch itself gives."""

    @cached_property
    def mac(self) -> bytes:
        """The address of its card."""
        return mac_of(self.address)

    @cached_property
    def address6(self) -> bytes:
        """Its address of IPv6."""
        return IPv6Address(ipv6_beside(".".join(map(str, self.address)))).packed


class LanSwitch:
    """The ports of one switch.

    ``network``: the first three octets of all addresses.  ``send`` gets a port's number
    and a frame for it.
    """

    def __init__(self, network: bytes, send: Callable[[int, bytes], None]) -> None:
        self._network = network
        router = SwitchPort(-1, network + bytes([ROUTER]), PortRole.PROVIDER, "")
        self._router, self._router6 = router.address, router.address6
        self._send = send
        self._ports: dict[int, SwitchPort] = {}
        self._by_address: dict[bytes, SwitchPort] = {}

    def join(self, port: SwitchPort) -> int | None:
        """Add a port; return the number of the removed port that had its address."""
        old = self._by_address.get(port.address)
        if old is not None:
            self.leave(old.number)
        self._ports[port.number] = self._by_address[port.address] = port
        self._by_address[port.address6] = port
        return None if old is None else old.number

    def leave(self, number: int) -> None:
        """Remove a port, if it is there."""
        port = self._ports.pop(number, None)
        if port is not None:
            del self._by_address[port.address], self._by_address[port.address6]

    def take(self, number: int, untrusted_frame: bytes, now: float) -> None:
        """Handle a frame that came from a port: check it, then send it on."""
        port = self._ports.get(number)
        # guard: a port sends from its own card
        if port is None or untrusted_frame[6:12] != port.mac:
            return
        if is_arp(untrusted_frame):
            self._answer_arp(port, untrusted_frame, now)
        elif untrusted_frame[12:14] == _IPV4:
            self._carry(port, untrusted_frame, now)
        elif untrusted_frame[12:14] == IPV6:
            packet = read(untrusted_frame)
            if packet is not None:
                self._carry6(port, packet, now)

    def _answer_arp(self, port: SwitchPort, untrusted_frame: bytes, now: float) -> None:
        """Answer a guest's ARP question about a reachable address."""
        # guard: a port asks for others, and tells nothing
        if (
            not is_own_arp(untrusted_frame, port.address)
            or untrusted_frame[20:22] != _REQUEST
        ):
            return
        asked = untrusted_frame[38:42]
        found = self._reached(port, asked)
        is_names = port.role is PortRole.MEMBER and asked == self._router
        # guard: answers of a switch have a pace
        if (is_names or (found and found.address == asked)) and took(port.pace, now):
            head = port.mac + mac_of(asked) + _ARP_HEAD + _REPLY
            there, here = mac_of(asked) + asked, port.mac + port.address
            self._send(port.number, head + there + here)

    def _carry(self, port: SwitchPort, untrusted_frame: bytes, now: float) -> None:
        """Carry an IPv4 packet to its port, if the ports' roles permit it."""
        size = int.from_bytes(untrusted_frame[16:18])
        # guard: frames of a switch have one plain form
        if (
            untrusted_frame[14:15] != b"\x45"
            or not IP_HEADER <= size <= len(untrusted_frame) - ETHERNET
        ):
            return
        sender, receiver = untrusted_frame[26:30], untrusted_frame[30:34]
        # guard: a port sends from its own address
        if not self._is_sender(port, sender):
            return
        if port.role is PortRole.MEMBER and receiver == self._router:
            self._answer_name(port, untrusted_frame, now)
            return
        to = self._reached(port, receiver)
        # guard: a frame is for the card of its receiver
        if to is not None and untrusted_frame[:6] == to.mac:
            self._send(to.number, untrusted_frame[: ETHERNET + size])

    def _carry6(self, port: SwitchPort, packet: Packet, now: float) -> None:
        """Carry an IPv6 packet to its port, or answer a neighbour's question."""
        if packet.protocol == ICMP6 and packet.kind == ASKED:
            self._answer_neighbour(port, packet, now)
            return
        # guard: a port tells others nothing of the link
        if packet.protocol == ICMP6 and packet.kind not in _CARRIED6:
            return
        # guard: a port sends from its own address of IPv6
        if not self._is_sender(port, packet.sender):
            return
        to = self._reached(port, packet.receiver)
        # guard: a frame of IPv6 is for the card of its receiver
        if to is not None and packet.frame[:6] == to.mac:
            self._send(to.number, packet.frame)

    def _answer_neighbour(self, port: SwitchPort, packet: Packet, now: float) -> None:
        """Answer a neighbour's question about a reachable address."""
        # The kernel asks by the link's own address whether a neighbour is still there.
        if packet.sender != port.address6 and not is_link_local(packet.sender):
            return
        asked = packet.data[:16]
        # guard: a question names one neighbour
        if len(asked) != 16:
            return
        found = self._by_address.get(asked)
        # guard: neighbours are those that a port reaches, and seldom
        if found is self._reached(port, asked) is not None and took(port.pace, now):
            assert found is not None
            self._send(port.number, neighbour_back(packet, asked, found.mac))

    def _is_inside(self, address: bytes) -> bool:
        """Return whether an address belongs to this switch's network."""
        if len(address) == 16:
            return address[:8] == self._router6[:8]
        return address[:3] == self._network

    def _is_sender(self, port: SwitchPort, sender: bytes) -> bool:
        """Return whether a port may send from an address."""
        if sender == (port.address if len(sender) == 4 else port.address6):
            return True
        # guard: a provider does not speak for its clients
        return (
            port.role is PortRole.PROVIDER
            and not self._is_inside(sender)
            and _is_unicast(sender)
        )

    def _reached(self, port: SwitchPort, receiver: bytes) -> SwitchPort | None:
        """Return the port by which a receiver is reached; None: it is not reached."""
        if port.role is PortRole.CLIENT:
            router = self._router if len(receiver) == 4 else self._router6
            # guard: clients of a provider do not reach each other
            if not _is_unicast(receiver) or (
                self._is_inside(receiver) and receiver != router
            ):
                return None
            receiver = router
        found = self._by_address.get(receiver)
        return None if found is port else found

    def _answer_name(
        self, port: SwitchPort, untrusted_frame: bytes, now: float
    ) -> None:
        """Answer a question for a sandbox's name at the switch."""
        packet = read(untrusted_frame)
        if (
            packet is None
            or packet.protocol != UDP
            or packet.target != _DNS
            or not took(port.pace, now)
        ):
            return
        try:
            question = read_question(packet.data)
        except DnsError:
            if error := error_reply(packet.data):
                self._send(port.number, datagram_back(packet, error))
            return
        # Some resolvers ask for no name of one label.
        name = question.name.removesuffix(_DOMAIN)
        ports = [port for port in self._ports.values() if port.name == name]
        found: tuple[bytes, ...] = ()
        if question.code:
            ports = []
        if question.kind == A:
            found = tuple(port.address for port in ports)
        elif question.kind == AAAA:
            found = tuple(port.address6 for port in ports)
        code = question.code or (NOERROR if ports else NXDOMAIN)
        answer = reply(question, code, NameAddresses(found, _NAME_SECONDS))
        self._send(port.number, datagram_back(packet, answer))


def _is_unicast(address: bytes) -> bool:
    return address[0] not in (_NOT_UNICAST if len(address) == 4 else _NOT_UNICAST6)
