"""What the flow filter remembers: places that were asked about, flows, first packets.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from broker.core.limits import network as limits
from broker.host.network.flowguard.quic_hello import QuicHellos
from broker.host.network.flowguard.tls_hello import (
    ANSWER,
    MAX_HELLO_STREAM,
    asks_again,
)
from broker.host.network.frameguard.packets import SYN, TCP, Packet

FlowKey = tuple[int, int, bytes, int]
"""Protocol, the guest's port, the other address (4 or 16 bytes) and its port."""
WAITING_BYTES = 1 << 15
"""Of the packets that wait for one answer.  A VMM's device has frames of 64 KiB."""
_HEAD_BYTES = 128
"""At least Ethernet's header and those of a plain packet, with TCP's options."""


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
    waiting: list[Callable[[float], None]] = field(default_factory=list)
    waiting_bytes: int = 0
    flows: int = 0

    def wait(self, size: int, again: Callable[[float], None]) -> None:
        """Queue ``again``, to be called with the time of the decision about the place.

        Drops the packet if there is no room; the guest retransmits it.
        """
        # guard: few packets wait for an answer
        if len(self.waiting) >= limits.WAITING:
            return
        # guard: packets that wait for an answer are short
        if self.waiting_bytes + size > WAITING_BYTES:
            return
        self.waiting.append(again)
        self.waiting_bytes += size

    def go_on(self, now: float) -> None:
        """Have what waits go on; it may wait again."""
        waiting, self.waiting, self.waiting_bytes = self.waiting, [], 0
        for again in waiting:
            # guard: a flow's idle time begins with its answer
            again(now)


@dataclass(eq=False)
class CarriedFlow:
    """A flow that is carried."""

    number: int
    key: FlowKey
    guest: bytes
    """The guest's address.  To passt before 2024 its flows to one place by one port are
    one connection, whichever of the guest's addresses they are of, and to later ones not:
    so one address has it at a time."""
    destination: Destination
    names: tuple[str, ...]
    """The names that led to its address; empty: it is open by its address."""
    head: bytes
    """Of the guest's last packet: resets of the flow are made from it."""
    size: int
    """Of that packet's frame."""
    used: float
    sent: int = 0
    received: int = 0
    reported: int = 0
    """Bytes of both ways that the viewer knows of."""
    hello: bytearray | None = None
    """The first bytes while they are looked at; None: they were."""
    hellos: int = 0
    """How many were whole in these bytes, and passed."""
    answer: bytes = b""
    """The first bytes of the server's answer to them."""
    answer_end: int = 0
    """The sequence number of the next one."""
    first: int = 0
    """The sequence number of the first of a connection."""
    checked: bytes = b""
    """They, until the far end has them: a segment may not change them."""
    quic: QuicHellos | None = None
    """The hellos of one of UDP that is open by name."""
    named: str | None = None
    """The server that the hellos name; None: there was none yet."""
    ending: int = 0

    def note(self, untrusted_frame: bytes) -> None:
        """Keep what a reset after this packet of the guest is made from."""
        # guard: no frame of a flow is kept whole
        self.head = untrusted_frame[:_HEAD_BYTES]
        self.size = len(untrusted_frame)

    def end_hello(self) -> None:
        """Look at no further byte of its beginning."""
        # guard: what follows a hello is not kept
        self.checked = bytes(self.hello or b"")[:MAX_HELLO_STREAM]
        self.hello = None

    def take_answer(self, packet: Packet) -> None:
        """Read on in the server's answer; without a retry there is no second hello."""
        if packet.flags & SYN:
            self.answer_end = packet.sequence + 1
        fresh = packet.data[self.answer_end - packet.sequence & 0xFFFFFFFF :]
        if not fresh or self.named is None or len(self.answer) >= ANSWER:
            return
        self.answer_end += len(fresh)
        self.answer = (self.answer + fresh)[:ANSWER]
        # guard: a hello is the last one if its server says so
        if asks_again(self.answer) is False:
            self.end_hello()

    def begins_another(self, packet: Packet) -> bool:
        """Return whether a packet begins a new connection on this flow's ports.

        passt opens one where it has closed the first, and nobody would have asked about
        it or looked at its hello.  A first packet that is sent again is the same
        connection, if it is of the same address.
        """
        # guard: a flow is of one address of the guest's
        if packet.sender != self.guest:
            return True
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
