"""What the flow filter remembers: places that were asked about, flows, first packets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from broker.core.token_bucket import TokenBucket
from broker.host.network.packets import SYN, TCP, Packet
from broker.host.network.quic_hello import QuicHellos

FlowKey = tuple[int, int, bytes, int]
"""Protocol, the guest's port, the other address (4 or 16 bytes) and its port."""


@dataclass(eq=False)
class Destination:
    """A place that was asked about.  ``allowed`` is None until the answer."""

    number: int
    host: str
    protocol: str
    port: int | None
    allowed: bool | None = None
    until: float = 0.0
    """When a refusal or an unused answer is forgotten."""
    waiting: list[Callable[[], None]] = field(default_factory=list)
    flows: int = 0


@dataclass(eq=False)
class CarriedFlow:
    """A flow that is carried."""

    number: int
    key: FlowKey
    destination: Destination
    names: tuple[str, ...]
    """The names that led to its address; empty: it is open by its address."""
    frame: bytes
    """The guest's last packet: resets of the flow are made from it."""
    used: float
    sent: int = 0
    received: int = 0
    reported: int = 0
    """Bytes of both ways that the viewer knows of."""
    hello: bytearray | None = None
    """The first bytes while they are looked at; None: they were."""
    first: int = 0
    """The sequence number of the first of a connection."""
    checked: bytes = b""
    """They, until the far end has them: a segment may not change them."""
    quic: QuicHellos | None = None
    """The hellos of one of UDP that is open by name."""
    named: str | None = None
    """The server that these name; None: there was none yet."""
    ending: int = 0

    def begins_another(self, packet: Packet) -> bool:
        """Whether a packet begins a connection by the addresses and ports of this one.

        passt opens one where it has closed the first, and nobody would have asked about
        it or looked at its hello.  A first packet that is sent again is the same
        connection.
        """
        if packet.protocol != TCP or not packet.flags & SYN:
            return False
        return bool(self.received) or packet.sequence + 1 & 0xFFFFFFFF != self.first


@dataclass(eq=False)
class FlowAttempt:
    """A first packet, and the hosts by which it may be permitted."""

    key: FlowKey
    packet: Packet
    names: tuple[str, ...]
    port: int | None
    hosts: list[str]


def took(pace: TokenBucket, now: float) -> bool:
    """Count one event, if it is not too early for it."""
    if pace.early(now) > 0:
        return False
    pace.take(now)
    return True
