"""IP packets that frameguard, flowguard and the switch parse and build.

A machine's packet guard runs the first two, the process of a switch the third.

RFC 791 and 792 (IPv4), 8200 and 4443 (IPv6), 768, 9293.

Sans-IO.  ``read`` knows one plain form and no other: any later reader must see
the same packet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ETHERNET, IP_HEADER = 14, 20
IP6_HEADER = 40
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
ECHO, ECHO_REPLY = {ICMP: 8, ICMP6: 128}, {ICMP: 0, ICMP6: 129}
"""Types of the messages of a ping."""
_IP = struct.Struct(">BBHHHBBH4s4s")
_IP6 = struct.Struct(">IHBB16s16s")
_TCP = struct.Struct(">HHIIBBHHH")
_SEGMENT = struct.Struct(">12xHBxH2xHxB2x4s4sHH8xBB")
_SEGMENT6 = struct.Struct(">12xHIHBx16s16sHH8xBB")
_UDP = struct.Struct(">4H")
_NEIGHBOUR = struct.Struct(">BBHI16sBB6s")
_SOLICITED_OVERRIDE = 3 << 29
_WINDOW = 4096
"""Bytes that a guest may send to its name server before the next acknowledgement."""
_UNREACHABLE, _PROHIBITED = 3, 13
_UNREACHABLE6, _PROHIBITED6 = 1, 1


@dataclass(frozen=True)
class Packet:
    """One packet.  ``source`` and ``target`` are ports; of an echo its identifier."""

    frame: bytes
    protocol: int
    sender: bytes
    receiver: bytes
    source: int
    target: int
    payload: int
    """Where its payload begins in the frame."""
    end: int
    """Where the packet ends in the frame."""
    flags: int = 0
    sequence: int = 0
    acknowledged: int = 0
    kind: int = 0

    @property
    def data(self) -> bytes:
        """Its payload."""
        return self.frame[self.payload : self.end]


def read(untrusted_frame: bytes) -> Packet | None:
    """Return the packet of a frame; None if it is not of the plain form.

    Plain: IPv4 without options, not a fragment, its lengths within the frame; IPv6
    without further headers (fragments have one), of the length of the frame.
    """
    if untrusted_frame[12:14] == IPV6:
        return _read6(untrusted_frame)
    if untrusted_frame[12:14] != IPV4 or len(untrusted_frame) < ETHERNET + IP_HEADER:
        return None
    first, _, size, _, fragment, _, protocol, _, sender, receiver = _IP.unpack_from(
        untrusted_frame, ETHERNET
    )
    end = ETHERNET + size
    # guard: packets have one plain form
    if (
        first != 0x45
        or fragment & 0x3FFF
        or not IP_HEADER <= size <= len(untrusted_frame) - ETHERNET
    ):
        return None
    if protocol == ICMP6:
        return None
    at = ETHERNET + IP_HEADER
    # guard: what follows a packet in its frame is cut off
    untrusted_frame = untrusted_frame[:end]
    return _read_inside(untrusted_frame, (protocol, sender, receiver), at, end)


def _read6(untrusted_frame: bytes) -> Packet | None:
    """Parse an IPv6 packet; None if it is not plain."""
    if len(untrusted_frame) < ETHERNET + IP6_HEADER:
        return None
    first, size, protocol, _, sender, receiver = _IP6.unpack_from(
        untrusted_frame, ETHERNET
    )
    at = ETHERNET + IP6_HEADER
    # guard: packets of IPv6 have one plain form
    if first >> 28 != 6 or at + size != len(untrusted_frame) or protocol == ICMP:
        return None
    head = (protocol, sender, receiver)
    return _read_inside(untrusted_frame, head, at, at + size)


def _read_inside(
    untrusted_frame: bytes, head: tuple[int, bytes, bytes], at: int, end: int
) -> Packet | None:
    """Parse what an IP packet carries, from ``at`` to ``end``; None if malformed."""
    protocol, sender, receiver = head
    if protocol == TCP and end - at >= _TCP.size:
        source, target, sequence, acknowledged, offset, flags, *_ = _TCP.unpack_from(
            untrusted_frame, at
        )
        payload = at + (offset >> 4) * 4
        if not at + _TCP.size <= payload <= end:
            return None
        return Packet(
            untrusted_frame, protocol, sender, receiver, source, target,
            payload, end, flags, sequence, acknowledged,
        )  # fmt: skip
    if protocol == UDP and end - at >= _UDP.size:
        source, target, length, _ = _UDP.unpack_from(untrusted_frame, at)
        if length != end - at:
            return None
        payload = at + _UDP.size
        return Packet(
            untrusted_frame, protocol, sender, receiver, source, target, payload, end
        )
    if protocol in {ICMP, ICMP6} and end - at >= 8:
        number = int.from_bytes(untrusted_frame[at + 4 : at + 6])
        return Packet(
            untrusted_frame, protocol, sender, receiver, number, number,
            at + 8, end, kind=untrusted_frame[at],
        )  # fmt: skip
    return None


def segment(untrusted_frame: bytes) -> tuple[bytes, bytes, int, int] | None:
    """Return addresses and ports of a TCP segment that neither begins nor ends a flow.

    Only flowguard calls this: for most frames, at a fraction of the cost of ``read``.
    None: the caller must call ``read``.
    """
    if len(untrusted_frame) < ETHERNET + IP_HEADER + _TCP.size:
        return None
    kind, first, size, fragment, protocol, sender, receiver, source, target, offset, flags = (
        _SEGMENT.unpack_from(untrusted_frame)
    )  # fmt: skip
    if kind == 0x86DD:
        return _segment6(untrusted_frame)
    if (
        kind != 0x0800
        or first != 0x45
        or fragment & 0x3FFF
        or protocol != TCP
        or flags & (FIN | SYN | RST)
        or not IP_HEADER + _TCP.size <= size <= len(untrusted_frame) - ETHERNET
        or not _TCP.size <= (offset >> 4) * 4 <= size - IP_HEADER
    ):
        return None
    return sender, receiver, source, target


def _segment6(untrusted_frame: bytes) -> tuple[bytes, bytes, int, int] | None:
    """Parse an IPv6 TCP segment; None if it is not plain."""
    if len(untrusted_frame) < ETHERNET + IP6_HEADER + _TCP.size:
        return None
    _, first, size, protocol, sender, receiver, source, target, offset, flags = (
        _SEGMENT6.unpack_from(untrusted_frame)
    )
    if (
        first >> 28 != 6
        or protocol != TCP
        or flags & (FIN | SYN | RST)
        or ETHERNET + IP6_HEADER + size != len(untrusted_frame)
        or not _TCP.size <= (offset >> 4) * 4 <= size
    ):
        return None
    return sender, receiver, source, target


def checksum(data: bytes) -> int:
    """Compute the internet checksum of RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def _frame(
    to: bytes,
    sender: bytes,
    receiver: bytes,
    protocol: int,
    body: bytes,
    *,
    hops: int = 64,
) -> bytes:
    """Build a frame with an IP header."""
    if len(sender) == 16:
        head = _IP6.pack(6 << 28, len(body), protocol, hops, sender, receiver)
        return to + IPV6 + head + body
    head = _IP.pack(
        0x45, 0, IP_HEADER + len(body), 0, 0x4000, 64, protocol, 0, sender, receiver
    )
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return to + IPV4 + head + body


def _summed(
    sender: bytes, receiver: bytes, protocol: int, body: bytes, at: int
) -> bytes:
    pseudo = sender + receiver + struct.pack(">HI", protocol, len(body))
    found = checksum(pseudo + body) or 0xFFFF
    return body[:at] + struct.pack(">H", found) + body[at + 2 :]


def _back(packet: Packet) -> bytes:
    return packet.frame[6:12] + packet.frame[:6]


def datagram_back(packet: Packet, data: bytes) -> bytes:
    """Return a datagram that answers a guest's."""
    body = _UDP.pack(packet.target, packet.source, _UDP.size + len(data), 0) + data
    body = _summed(packet.receiver, packet.sender, UDP, body, 6)
    return _frame(_back(packet), packet.receiver, packet.sender, UDP, body)


def neighbour_back(packet: Packet, asked: bytes, mac: bytes) -> bytes:
    """Return the answer of a neighbour (RFC 4861, 4.4) to a question for its card."""
    body = _NEIGHBOUR.pack(136, 0, 0, _SOLICITED_OVERRIDE, asked, 2, 1, mac)
    body = _summed(asked, packet.sender, ICMP6, body, 2)
    to = packet.frame[6:12] + mac
    return _frame(to, asked, packet.sender, ICMP6, body, hops=255)


def refusal(packet: Packet) -> bytes:
    """Return the frame that refuses a guest's first packet: a TCP reset, or ICMP."""
    if packet.protocol == TCP:
        return reset_back(packet)
    quoted = packet.frame[ETHERNET : packet.payload]
    if len(packet.sender) == 16:
        body = struct.pack(">BBHI", _UNREACHABLE6, _PROHIBITED6, 0, 0) + quoted
        body = _summed(packet.receiver, packet.sender, ICMP6, body, 2)
        return _frame(_back(packet), packet.receiver, packet.sender, ICMP6, body)
    body = struct.pack(">BBHI", _UNREACHABLE, _PROHIBITED, 0, 0) + quoted
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    return _frame(_back(packet), packet.receiver, packet.sender, ICMP, body)


def reset_back(packet: Packet) -> bytes:
    """Return the RST that ends a connection for the sender of its last packet."""
    if packet.flags & ACK:
        sequence, flags, acknowledged = packet.acknowledged, RST, 0
    else:
        sequence, flags = 0, RST | ACK
        acknowledged = _behind(packet)
    body = _TCP.pack(
        packet.target, packet.source, sequence, acknowledged, 5 << 4, flags, 0, 0, 0
    )
    body = _summed(packet.receiver, packet.sender, TCP, body, 16)
    return _frame(_back(packet), packet.receiver, packet.sender, TCP, body)


def segment_back(
    packet: Packet, sequence: int, acknowledged: int, flags: int, data: bytes = b""
) -> bytes:
    """Return a TCP segment that answers this one."""
    body = _TCP.pack(
        packet.target, packet.source, sequence, acknowledged,
        5 << 4, flags, _WINDOW, 0, 0,
    )  # fmt: skip
    body = _summed(packet.receiver, packet.sender, TCP, body + data, 16)
    return _frame(_back(packet), packet.receiver, packet.sender, TCP, body)


def reset_on(packet: Packet) -> bytes:
    """Return the RST that ends a connection for the receiver of its last packet."""
    body = _TCP.pack(
        packet.source, packet.target, _behind(packet), packet.acknowledged,
        5 << 4, RST | packet.flags & ACK, 0, 0, 0,
    )  # fmt: skip
    body = _summed(packet.sender, packet.receiver, TCP, body, 16)
    return _frame(packet.frame[:12], packet.sender, packet.receiver, TCP, body)


def _behind(packet: Packet) -> int:
    size = packet.end - packet.payload + bool(packet.flags & (SYN | FIN))
    return packet.sequence + size & 0xFFFFFFFF


def is_dhcp(client: int, server: int, packet: Packet) -> bool:
    """Return whether a packet between these ports is of DHCP (RFC 2131)."""
    # guard: DHCP is of IPv4
    return (
        packet.protocol == UDP
        and (client, server) == (68, 67)
        and len(packet.sender) == 4
    )
