"""Which of a guest's Ethernet frames may reach passt.

passt turns a guest's packets into connections of a process on this machine.
The guest's root chooses every byte of a packet, and older passt (Debian 12's
among them) connects to 127.0.0.1 when a packet says so: with some routes
inside the guest, every service on the host's loopback is open to it.  So each
frame passes here first.

What the guest may send: ARP, DHCP, IPv6's questions for neighbours, and IPv4 and IPv6
to addresses that are not this machine's and not special.  Everything else is dropped,
as a firewall drops: VLAN tags, further headers of IPv6, loopback, link-local (the
clouds' metadata services among them), multicast, broadcast, IPv4 addresses in those of
IPv6 that are closed, and every address this machine itself has.  ``datagram_peers``
has what may come from passt.

Passt must see the frames that were judged: ``joined`` cuts what passes into sends
that end where a frame ends, because older passt loses its place in the stream when
a read ends inside a frame, and takes payload for frames then.

Sans-IO: it is the core of a separate process.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Container, Iterable

from broker.core import limits
from broker.host.network.addresses import GATEWAY
from broker.host.network.frameguard.neighbours import is_dhcpv6, is_discovery
from broker.host.network.frameguard.packets import IPV6, read
from policy.destinations import embedded_ipv4

_LENGTH = struct.Struct(">I")
_ETHERNET = 14
_ARP = b"\x08\x06"
_IPV4 = b"\x08\x00"
_BROADCAST = b"\xff\xff\xff\xff"
_UDP = 17
_DHCP_SERVER = 67
_DHCP_CLIENT = b"\0D"
_GATEWAY = ipaddress.IPv4Address(GATEWAY).packed

_CLOSED = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # 'this host': connecting to it reaches our loopback
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; most clouds' metadata service
        "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata, 192.0.0.192
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# A set of first octets decides most frames with one look.
_CLOSED_OCTETS = frozenset(
    octet
    for octet in range(256)
    if any(
        net.overlaps(ipaddress.IPv4Network((octet << 24, 8)))
        for net in _CLOSED
        if net.prefixlen <= 8
    )
)
_LINK_LOCAL = b"\xa9\xfe"
_ASSIGNMENTS = b"\xc0\x00\x00"
_METADATA = frozenset(
    ipaddress.IPv4Address(text).packed
    for text in (
        "168.63.129.16",  # Azure's WireServer
        "100.100.100.200",  # Alibaba Cloud
    )
)
"""Public addresses at which a cloud gives any program of a machine the machine's
own credentials.  A guest is not a program of the machine.  Azure's is the name server
there, too, so port 53 stays open."""
_TCP = 6
_DNS = 53
_NOT_GLOBAL6 = frozenset({0x00, 0xFE, 0xFF})
"""First octets of IPv6 (RFC 4291): loopback and IPv4 addresses that the kernel takes for
those (::ffff:127.0.0.1); link-local and site-local; multicast.  fc00::/7 is not among
them: it is a network as 10.0.0.0/8 is."""
_METADATA6 = frozenset(
    ipaddress.IPv6Address(text).packed
    for text in (
        "fd00:ec2::254",  # Amazon
        "fd20:ce::254",  # Google
        "fd00:c1::a9fe:a9fe",  # Oracle
        "fd00:42::42",  # Scaleway
    )
)


class FrameError(ValueError):
    """The stream holds no frames any more; it cannot be read on."""


class FrameFilter:
    """Judges the receiver of each frame of a guest.

    ``own`` is what this machine takes for itself: networks as first address
    and number of bits.  It may be replaced at any time.
    """

    def __init__(self, own: Iterable[tuple[bytes, int]] = ()) -> None:
        self.own = own

    @property
    def own(self) -> frozenset[tuple[bytes, int]]:
        """See the class."""
        return self._own

    @own.setter
    def own(self, own: Iterable[tuple[bytes, int]]) -> None:
        """Set the own addresses that guests may not reach."""
        self._own = frozenset(own)
        # Single addresses are found in a set; networks are few.
        self._addresses = frozenset(
            first for first, bits in self._own if bits == 8 * len(first)
        )
        sizes = ((first, bits, 8 * len(first)) for first, bits in self._own)
        self._networks = tuple(
            (size, int.from_bytes(first), (1 << size) - (1 << (size - bits)))
            for first, bits, size in sizes
            if bits < size
        )

    def is_own(self, target: bytes) -> bool:
        """Return whether an address is one of the host's own."""
        if target in self._addresses:
            return True
        number, bits = int.from_bytes(target), 8 * len(target)
        # guard: local routes are own addresses
        return any(
            size == bits and number & mask == first
            for size, first, mask in self._networks
        )

    def may_pass(self, untrusted_frame: bytes) -> bool:
        """Return whether a guest's Ethernet frame may reach passt."""
        kind = untrusted_frame[12:14]
        if kind == _ARP:
            return True
        if kind == IPV6:
            return self._may_pass6(untrusted_frame)
        packet = untrusted_frame[_ETHERNET:]
        if kind != _IPV4 or len(packet) < 20 or packet[0] >> 4 != 4:
            return False
        target = packet[16:20]
        # passt gives the gateway's address to datagrams of this machine's own addresses,
        # so a guest that sends one there would be answered by any program of the machine.
        # guard: the gateway is sent no datagrams but those of DHCP
        if target == _BROADCAST or (target == _GATEWAY and packet[9] == _UDP):
            return _is_dhcp(packet)
        return not self._is_closed(target, packet)

    def _is_closed(self, target: bytes, packet: bytes) -> bool:
        """Return whether the guest may not send to an IPv4 address."""
        # guard: a cloud's metadata
        return (
            target[0] in _CLOSED_OCTETS
            or target[:2] == _LINK_LOCAL
            or target[:3] == _ASSIGNMENTS
            or (
                target in _METADATA
                and not (packet and _is_to(packet, _DNS, {_UDP, _TCP}))
            )
            or self.is_own(target)
        )

    def _may_pass6(self, untrusted_frame: bytes) -> bool:
        """Return whether a guest may send an IPv6 packet to its receiver."""
        packet = read(untrusted_frame)
        if packet is None:
            return False
        target = packet.receiver
        if target[0] in _NOT_GLOBAL6:
            inside = embedded_ipv4(target)
            # guard: a link's own packets are questions for neighbours
            if not inside:
                return is_discovery(packet) or is_dhcpv6(packet)
        else:
            inside = embedded_ipv4(target)
        # guard: an IPv4 address in one of IPv6 is judged as it is elsewhere
        if inside and self._is_closed(inside, b""):
            return False
        return not (target in _METADATA6 or self.is_own(target))


class FrameStream:
    """A stream of frames, each after its length, without those that may not pass.

    QEMU and passt send one.  Holds at most one frame beyond the last input.
    """

    def __init__(self, may_pass: Callable[[bytes], bool]) -> None:
        self._may_pass = may_pass
        self.dropped = 0
        self._buffer = bytearray()

    def feed(self, untrusted_data: bytes) -> list[bytes]:
        """Return the whole frames of this data that may pass, in order, as ``joined`` takes them.

        Raises FrameError for a length of less than an Ethernet header or
        beyond ``limits.FRAME_BYTES``.
        """
        self._buffer += untrusted_data
        data = bytes(self._buffer)
        passed: list[bytes] = []
        run = start = 0  # from run to start: frames that pass
        while len(data) - start >= _LENGTH.size:
            (untrusted_size,) = _LENGTH.unpack_from(data, start)
            if not _ETHERNET <= untrusted_size <= limits.FRAME_BYTES:
                raise FrameError(f"invalid frame size: {untrusted_size} bytes")
            end = start + _LENGTH.size + untrusted_size
            if len(data) < end:
                break
            if end - run > limits.FRAMES_SEND_BYTES:
                passed.append(data[run:start])
                run = start
            if not self._may_pass(data[start + _LENGTH.size : end]):
                passed.append(data[run:start])
                run = end
                self.dropped += 1
            start = end
        passed.append(data[run:start])
        del self._buffer[:start]
        return passed


def joined(runs: Iterable[bytes]) -> list[bytes]:
    """Join runs of whole frames, with their lengths, to what each send(2) may carry.

    A run is either at most ``limits.FRAMES_SEND_BYTES`` or a single frame.  The
    kernel puts a send of this size into one buffer, and a reader's read ends where
    a buffer ends, so it ends where a frame ends.  A longer frame (VMMs with virtio's
    offloads send some) becomes two sends that share their buffers with no other
    frame: every passt reads a frame's rest once, and the rest is one buffer.
    """
    sends: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    for run in runs:
        # guard: a send ends where a frame ends
        if size + len(run) > limits.FRAMES_SEND_BYTES:
            sends.append(b"".join(waiting))
            waiting, size = [], 0
        # guard: a long frame is two sends
        if len(run) > limits.FRAMES_SEND_BYTES:
            half = len(run) // 2
            sends += (run[:half], run[half:])
        else:
            waiting.append(run)
            size += len(run)
    sends.append(b"".join(waiting))
    return [send for send in sends if send]


def _is_dhcp(packet: bytes) -> bool:
    source = (packet[0] & 15) * 4
    from_client = packet[source : source + 2] == _DHCP_CLIENT
    return from_client and _is_to(packet, _DHCP_SERVER, {_UDP})


def _is_to(packet: bytes, port: int, protocols: Container[int]) -> bool:
    """Return whether a packet is unfragmented and sent to this port."""
    header = (packet[0] & 15) * 4
    if packet[9] not in protocols or header < 20 or len(packet) < header + 8:
        return False
    fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
    found = int.from_bytes(packet[header + 2 : header + 4], "big")
    return fragment == 0 and found == port
