"""Questions of the DNS by TCP (RFC 7766): the few segments that the name server answers.

A guest asks so where an answer did not fit into a datagram.  No kernel sees these
connections: this is as much of TCP as a question and its answer take.  Segments are
taken in order, an answer is sent whole, its first segments again each second until they
are acknowledged, and the options, windows and urgent data of a guest are not looked at.

Sans-IO.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.core.limits import network as limits
from broker.host.network.frameguard.packets import (
    ACK,
    FIN,
    RST,
    SYN,
    Packet,
    reset_back,
    segment_back,
)

_SEGMENT_BYTES = 1200
"""Less than every guest's MTU, and than the MSS of each of our cards."""
_AGAIN_BYTES = 16 * _SEGMENT_BYTES
"""Of answers without an acknowledgement that are sent again each second."""
_LENGTH_BYTES = 2
_HELD_BYTES = 2 * (limits.STREAM_ANSWER_BYTES + _LENGTH_BYTES)
"""Of the answers of one connection that are not acknowledged: two of the longest."""
_NUMBERS = 1 << 32

Answer = Callable[[bytes], None]


@dataclass(eq=False)
class DnsStream:
    """One connection.  ``expected``: the guest's next byte; ``sent``: our next one."""

    first: Packet
    expected: int
    acknowledged: int
    """The first of our bytes that the guest does not have yet."""
    used: float
    untrusted_data: bytearray = field(default_factory=bytearray)
    unacknowledged: bytes = b""
    asked: int = 0
    """Questions without an answer yet."""
    is_open: bool = False
    """Whether the guest has acknowledged our SYN."""
    guest_ended: bool = False
    ended: bool = False
    """Whether our FIN was sent: it counts as a byte after ``unacknowledged``."""
    tries: int = 0
    tried: int = 0
    """Bytes at the beginning of ``unacknowledged`` that were sent again last."""

    @property
    def sent(self) -> int:
        """The number after the last byte that was sent."""
        return self.acknowledged + len(self.unacknowledged) + self.ended & _NUMBERS - 1


class DnsStreams:
    """The connections of one guest to its name server."""

    def __init__(
        self,
        to_guest: Callable[[bytes], None],
        ask: Callable[[bytes, Answer, float], None],
    ) -> None:
        """Set up the TCP side.

        ``ask`` takes a DNS message and where its answer goes.
        """
        self._to_guest = to_guest
        self._ask = ask
        self._streams: OrderedDict[int, DnsStream] = OrderedDict()

    def take(self, packet: Packet, now: float) -> None:
        """Handle a guest's TCP segment to port 53 of the name server."""
        stream = self._streams.get(packet.source)
        if packet.flags & RST:
            self._streams.pop(packet.source, None)
        elif packet.flags & SYN:
            self._begin(packet, now)
        elif stream is None:
            self._to_guest(reset_back(packet))
        elif packet.flags & ACK:
            stream.used = now
            self._acknowledge(stream, packet)
            self._read(stream, packet, now)

    def _begin(self, packet: Packet, now: float) -> None:
        """Accept a guest's connection; resets the oldest beyond the limit."""
        # guard: connections to the name server are few
        while len(self._streams) >= limits.DNS_STREAMS:
            _, old = self._streams.popitem(last=False)
            self._send(old, RST | ACK)
        number = secrets.randbelow(_NUMBERS)
        stream = DnsStream(packet, packet.sequence + 1 & _NUMBERS - 1, number, now)
        self._streams.pop(packet.source, None)
        self._streams[packet.source] = stream
        self._send(stream, SYN | ACK)
        stream.acknowledged = number + 1 & _NUMBERS - 1

    def _acknowledge(self, stream: DnsStream, packet: Packet) -> None:
        """Note the guest's acknowledgement of an answer."""
        taken = packet.acknowledged - stream.acknowledged & _NUMBERS - 1
        if taken > len(stream.unacknowledged) + stream.ended:
            return
        stream.is_open = True
        stream.tried -= taken
        # guard: a guest that acknowledges little gives up its answer
        if taken and stream.tried <= 0:
            stream.tries = 0
        if taken > len(stream.unacknowledged):
            self._forget(stream)
            return
        stream.unacknowledged = stream.unacknowledged[taken:]
        stream.acknowledged = packet.acknowledged

    def _read(self, stream: DnsStream, packet: Packet, now: float) -> None:
        """Read a segment's data in order; drop any other."""
        if not packet.data and not packet.flags & FIN:
            return
        if self._streams.get(packet.source) is not stream or not stream.is_open:
            return
        # guard: a question passes in order
        if packet.sequence == stream.expected and not stream.guest_ended:
            stream.untrusted_data += packet.data
            stream.guest_ended = bool(packet.flags & FIN)
            stream.expected += len(packet.data) + stream.guest_ended
            stream.expected &= _NUMBERS - 1
        self._send(stream, ACK)
        self._take_messages(stream, now)
        self._end(stream)

    def _take_messages(self, stream: DnsStream, now: float) -> None:
        """Take complete questions out of the stream; reset one against the limits."""
        data = stream.untrusted_data
        while len(data) >= _LENGTH_BYTES:
            size = int.from_bytes(data[:_LENGTH_BYTES])
            # guard: questions by TCP are few and short
            if size > limits.QUESTION_BYTES or stream.asked >= limits.DNS_STREAMS:
                self._reset(stream)
                return
            if len(data) < _LENGTH_BYTES + size:
                return
            message = bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + size])
            del data[: _LENGTH_BYTES + size]
            stream.asked += 1
            self._ask(message, lambda answer: self._answer(stream, answer), now)

    def _answer(self, stream: DnsStream, answer: bytes) -> None:
        """Queue an answer in a stream.

        Reset one whose guest acknowledges too little.
        """
        if self._streams.get(stream.first.source) is not stream:
            return
        stream.asked -= 1
        at = len(stream.unacknowledged)
        stream.unacknowledged += len(answer).to_bytes(_LENGTH_BYTES) + answer
        # guard: answers that are not acknowledged are bounded
        if len(stream.unacknowledged) > _HELD_BYTES:
            self._reset(stream)
            return
        self._send_data(stream, at, len(stream.unacknowledged))
        self._end(stream)

    def _send_data(self, stream: DnsStream, begin: int, end: int) -> None:
        for at in range(begin, end, _SEGMENT_BYTES):
            data = stream.unacknowledged[at : at + _SEGMENT_BYTES]
            self._send(stream, ACK, data, stream.acknowledged + at)

    def _end(self, stream: DnsStream) -> None:
        """Close our side, where the guest has closed its side and has its answers."""
        if stream.guest_ended and not stream.asked and not stream.ended:
            number = stream.sent
            stream.ended = True
            self._send(stream, FIN | ACK, number=number)

    def tick(self, now: float) -> None:
        """Send unacknowledged bytes again, and end idle streams; each second."""
        for stream in list(self._streams.values()):
            waits = bool(stream.unacknowledged) or stream.ended
            stream.tries += waits
            # guard: a connection to the name server ends
            if now - stream.used > limits.LOOKUP_SECONDS or stream.tries > limits.TRIES:
                self._reset(stream)
            elif waits:
                # guard: little is sent again at a time
                stream.tried = min(len(stream.unacknowledged), _AGAIN_BYTES)
                self._send_data(stream, 0, stream.tried)
                if stream.ended:
                    number = stream.sent - 1
                    self._send(stream, FIN | ACK, number=number)

    def _send(
        self,
        stream: DnsStream,
        flags: int,
        data: bytes = b"",
        number: int | None = None,
    ) -> None:
        """Send a segment to the guest."""
        at = (
            (stream.acknowledged if flags & SYN else stream.sent)
            if number is None
            else number
        )
        frame = segment_back(
            stream.first, at & _NUMBERS - 1, stream.expected, flags, data
        )
        self._to_guest(frame)

    def _reset(self, stream: DnsStream) -> None:
        self._send(stream, RST | ACK)
        stream.untrusted_data.clear()
        stream.ended = True
        self._forget(stream)

    def _forget(self, stream: DnsStream) -> None:
        if self._streams.get(stream.first.source) is stream:
            del self._streams[stream.first.source]
