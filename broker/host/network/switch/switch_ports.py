"""The ports of a switch, and the message by which the host adds one.

The host adds and removes ports, the switch's process takes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from broker.host.network.addresses import LAN, PROVIDED

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


_PORT = struct.Struct(">4sB")


def pack_port(address: bytes, role: PortRole, name: str) -> bytes:
    """Return the message that adds a port; its descriptor goes with it."""
    return _PORT.pack(address, role) + name.encode()


def unpack_port(message: bytes) -> tuple[bytes, PortRole, str]:
    """Return the address, role and name of a message of the host."""
    address, role = _PORT.unpack_from(message)
    return address, PortRole(role), message[_PORT.size :].decode()


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
    """Return whether a ``launch.network`` is of a switch."""
    return network.startswith((LAN_WORD, THROUGH_WORD))


def name_server(network: str) -> str:
    """Return the name server of a sandbox at a switch: the lan's, or its provider."""
    octets = LAN if network.startswith(LAN_WORD) else PROVIDED
    return f"{octets}.{ROUTER}"
