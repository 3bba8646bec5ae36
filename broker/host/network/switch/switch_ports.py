"""The ports of a switch, and the message by which the host adds one."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv6Address

from broker.core.limits import network as limits
from broker.core.token_bucket import TokenBucket
from broker.host.network.addresses import LAN, PROVIDED, ipv6_beside

LAN_WORD, THROUGH_WORD = "lan:", "through:"
"""The beginnings of ``launch.network`` of a member and of a client."""
_MAC = b"\x52\x56"
ROUTER = 1
"""The last octet of a provider's address, and of the name server of a lan."""


class PortRole(IntEnum):
    """Which other ports a port reaches."""

    MEMBER = 1
    """The other members."""
    PROVIDER = 2
    """All clients."""
    CLIENT = 3
    """The provider, also as router."""


def mac_of(address: bytes) -> bytes:
    """Return the MAC address of the card with this address."""
    return _MAC + address


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


_PORT = struct.Struct(">4sB")


def pack_port(address: bytes, role: PortRole, name: str) -> bytes:
    """Return the message that adds a port; its descriptor goes with it."""
    return _PORT.pack(address, role) + name.encode()


def unpack_port(number: int, message: bytes) -> SwitchPort:
    """Return the port of a message of the host."""
    address, role = _PORT.unpack_from(message)
    name = message[_PORT.size :].decode()
    return SwitchPort(number, address, PortRole(role), name)


@dataclass(frozen=True)
class SwitchPlace:
    """Where a sandbox is plugged in."""

    switch: str
    """The switch's name: what ``launch.network`` says of members and clients."""
    role: PortRole

    @property
    def network(self) -> str:
        """The first three octets of the switch's addresses."""
        return LAN if self.role is PortRole.MEMBER else PROVIDED


def is_shared(network: str) -> bool:
    """Whether a ``launch.network`` is of a switch."""
    return network.startswith((LAN_WORD, THROUGH_WORD))


def name_server(network: str) -> str:
    """Return the name server of a sandbox at a switch: the lan's, or its provider."""
    octets = LAN if network.startswith(LAN_WORD) else PROVIDED
    return f"{octets}.{ROUTER}"
