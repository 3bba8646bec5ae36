"""Which of a guest's Ethernet frames may reach passt.

passt turns a guest's packets into connections of a process on this machine.
The guest's root chooses every byte of a packet, and older passt (Debian 12's
among them) connects to 127.0.0.1 when a packet says so: with some routes
inside the guest, every service on the host's loopback is open to it.  So each
frame passes here first.

What the guest may send: ARP, DHCP, and IPv4 to addresses that are not this
machine's and not special.  Everything else is dropped, as a firewall drops:
IPv6 (which the guest is not given), VLAN tags, loopback, link-local (the
clouds' metadata services among them), multicast, broadcast, and every address
this machine itself has.  Frames from passt are not examined.

Passt must see the frames that were judged: ``joined`` cuts what passes into sends
that end where a frame ends, because older passt loses its place in the stream when
a read ends inside a frame, and takes payload for frames then.

Sans-IO: it is the core of a process of its own.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Container, Iterable

from broker.core import limits

_LENGTH = struct.Struct(">I")
_ETHERNET = 14
_ARP = b"\x08\x06"
_IPV4 = b"\x08\x00"
_BROADCAST = b"\xff\xff\xff\xff"
_UDP = 17
_DHCP_SERVER = 67

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


class FrameError(ValueError):
    """The stream holds no frames any more; it cannot be read on."""


class FrameFilter:
    """Takes QEMU's stream (a length, a frame) and gives back what may pass.

    ``own`` is what this machine takes for itself: IPv4 networks as first address
    and number of bits.  It may be replaced at any time.  Holds at most one frame
    beyond the last input.
    """

    def __init__(self, own: Iterable[tuple[bytes, int]] = ()) -> None:
        self.own = own
        self.dropped = 0
        self._buffer = bytearray()

    @property
    def own(self) -> frozenset[tuple[bytes, int]]:
        """See the class."""
        return self._own

    @own.setter
    def own(self, own: Iterable[tuple[bytes, int]]) -> None:
        self._own = frozenset(own)
        # Single addresses are found in a set; networks are few.
        self._addresses = frozenset(first for first, bits in self._own if bits == 32)
        self._networks = tuple(
            (int.from_bytes(first), (1 << 32) - (1 << (32 - bits)))
            for first, bits in self._own
            if bits < 32
        )

    def _is_own(self, target: bytes) -> bool:
        if target in self._addresses:
            return True
        number = int.from_bytes(target)
        # guard: local routes are own addresses
        return any(number & mask == first for first, mask in self._networks)

    def feed(self, untrusted_data: bytes) -> list[bytes]:
        """Return the whole frames of this data that may pass, in order, as sends.

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
                raise FrameError(f"a frame of {untrusted_size} bytes")
            end = start + _LENGTH.size + untrusted_size
            if len(data) < end:
                break
            if end - run > limits.FRAMES_SEND_BYTES:
                passed.append(data[run:start])
                run = start
            if not self.may_pass(data[start + _LENGTH.size : end]):
                passed.append(data[run:start])
                run = end
                self.dropped += 1
            start = end
        passed.append(data[run:start])
        del self._buffer[:start]
        return joined(passed)

    def may_pass(self, untrusted_frame: bytes) -> bool:
        """Whether a frame may reach passt."""
        kind = untrusted_frame[12:14]
        if kind == _ARP:
            return True
        packet = untrusted_frame[_ETHERNET:]
        if kind != _IPV4 or len(packet) < 20 or packet[0] >> 4 != 4:
            return False
        target = packet[16:20]
        if target == _BROADCAST:
            return _is_dhcp(packet)
        # guard: a cloud's metadata
        return not (
            target[0] in _CLOSED_OCTETS
            or target[:2] == _LINK_LOCAL
            or target[:3] == _ASSIGNMENTS
            or (target in _METADATA and not _is_to(packet, _DNS, {_UDP, _TCP}))
            or self._is_own(target)
        )


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
    return _is_to(packet, _DHCP_SERVER, {_UDP})


def _is_to(packet: bytes, port: int, protocols: Container[int]) -> bool:
    """Whether it is a whole packet to that port."""
    header = (packet[0] & 15) * 4
    if packet[9] not in protocols or header < 20 or len(packet) < header + 8:
        return False
    fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
    found = int.from_bytes(packet[header + 2 : header + 4], "big")
    return fragment == 0 and found == port
