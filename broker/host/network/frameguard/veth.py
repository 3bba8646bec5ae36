"""The process between a box's network namespace and passt.

    program in the box ─ eth0 ═ veth ═ packet socket, filter ═ passt

Its arguments are descriptors: passt's stream socket, a pipe for the word that the
box's interface is up, and the box's network namespace.

A box has an interface and no right over it: the cable (veth(4)) is made
from here, with the rights that the owner of a user namespace has over it
(user_namespaces(7)), and its other end lies in a network namespace that has nothing
else.  So nothing inside has to be a wall: each frame is checked outside by the same
filter as a machine's (``microvm.ethernet_frames``), whatever the box sends.  Rules of
nftables inside the box's namespace would be a second implementation of the filter.

The filter's table follows the addresses of the network namespace that this process
was started in, as ``frameguard`` does.  It ends with the box's interface, which the
kernel removes with the box's last process, and with passt.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess  # noqa: TID251 -- in namespaces that only this process enters
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from broker.core import limits
from broker.core.limits import network as network_limits
from broker.host.network.addresses import (
    GATEWAY,
    GATEWAY6,
    GUEST,
    GUEST6,
    MTU,
    neighbours6,
)
from broker.host.network.frameguard.ethernet_frames import FrameError, joined
from broker.host.network.frameguard.frameguard import Addresses, FrameGuard

_OUTSIDE = "vitrail0"

NEWUSER, NEWNET = 0x10000000, 0x40000000
NS_GET_USERNS = 0xB701
_CAPABILITIES = (12, 13, 21)  # CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
_CAP_VERSION = 0x20080522
_PR_CAP_AMBIENT, _RAISE = 47, 2
_SOL_PACKET, _IGNORE_OUTGOING, _ALL_PROTOCOLS = 263, 23, 3
_ATTACH_FILTER = 26
_UNTAGGED = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x28, 0, 0, 0xFFFFF030),  # load whether a tag is present
        (0x15, 0, 1, 0),
        (0x06, 0, 0, 0xFFFFFFFF),  # take all of the frame
        (0x06, 0, 0, 0),
    )
)
"""A packet filter (bpf_insn of linux/filter.h) that drops frames with a VLAN tag, which
the kernel takes out of the frame before a packet socket gets it."""
_SIOCETHTOOL, _SET_TX_CHECKSUMS = 0x8946, 0x17
_IPV6 = Path("/proc/sys/net/ipv6/conf")
_TCP = Path("/proc/sys/net/ipv4")
_NOWHERE, _TABLE, _AFTER_ALL = "169.254.0.1", 100, 32800
"""A router that is not there; the table with its route, and the place of that table's
rule, behind those of the kernel (ip-rule(8))."""
_PLACES = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where ip(8) is: on some systems only where administrators have their programs."""
_BATCH = 64
"""Frames read from the box before the other side is served."""
LENGTH = struct.Struct(">I")
libc = ctypes.CDLL(None, use_errno=True)


# A box's frames are checked outside it. A box or container with `network = "user"` must
# not reach this machine's own addresses. Rules of nftables inside its network namespace
# would be a second implementation of the frame filter, and would hold only as long as
# nothing inside gains a right over that namespace. pasta and slirp4netns have no list
# of closed addresses that follows this machine's, and both need `/dev/net/tun`. Instead
# a veth pair leads out of the box, a packet socket at its other end reads the frames,
# and the filter of micro VMs is between it and `passt`. The broker's user owns the user
# namespace of the box, and so may add the interface before the box's program runs;
# nothing inside may change it. The price is one copy of each frame in Python (the rate
# of a micro VM's network).
@dataclass(frozen=True)
class Card:
    """A box's interface, and its address of IPv4."""

    name: str = "eth0"
    address: str = GUEST
    router: str = GATEWAY
    """Empty: only its network is reached by it."""
    mac: str = ""
    """Empty: the kernel draws one."""
    address6: str = GUEST6
    router6: str = GATEWAY6
    """As ``router``."""


PASST_CARD = Card()
"""That of a box behind passt."""


def lay_cable(
    namespace: int, *, ipv6: bool = False, card: Card = PASST_CARD
) -> socket.socket:
    """Create an interface in a network namespace; return the cable's other end.

    ``ipv6``: with an address of that, too.

    This process changes its user and network namespaces.  Raises OSError with the
    step that the kernel refuses.
    """
    owner = fcntl.ioctl(namespace, NS_GET_USERNS)
    check(libc.setns(owner, NEWUSER), "cannot enter its user namespace")
    check(libc.unshare(NEWNET), "cannot create a network namespace")
    keep_rights()
    outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    # None of our addresses on it, IPv6's included: it is a wire, not a network.
    run_ip(
        f"link add {_OUTSIDE} type veth peer name {card.name} netns /proc/self/fd/{namespace}\n",
        namespace,
    )
    # A box cannot write raw frames; where /proc/sys is read-only, that is all.
    with suppress(OSError):
        without_ipv6(_OUTSIDE)
    lines = f"link set {_OUTSIDE} mtu {MTU} addrgenmode none\nlink set {_OUTSIDE} up\n"
    run_ip(lines, namespace)
    packets = open_packets(_OUTSIDE)
    check(libc.setns(namespace, NEWNET), "cannot enter its network namespace")
    _checksums_in_software(card.name)
    _set_tcp()
    run_ip(_card_lines(card, ipv6=ipv6), namespace)
    check(libc.setns(outside, NEWNET), "")
    for fd in (owner, outside, namespace):
        os.close(fd)
    return packets


def _card_lines(card: Card, *, ipv6: bool) -> str:
    """Return ip(8)'s lines that set a card up.

    The kernel counts neighbours for the machine (gc_thresh3 of arp(7), 1,024 of each
    family), so few addresses are a box's neighbours: its router alone, if it has one.
    """
    on = f"dev {card.name}"
    lines = [
        "link set lo up",
        f"link set {card.name} mtu {MTU} addrgenmode none",
        *([f"link set {card.name} address {card.mac}"] if card.mac else []),
        f"link set {card.name} up",
    ]
    if card.router:
        # guard: of a box behind a router, that is the only neighbour
        lines += [
            f"address add {card.address}/32 {on}",
            f"route add {card.router} {on}",
            f"route add default via {card.router}",
        ]
    else:
        # A socket that is bound to an interface takes all for neighbours that no route
        # leads to, so there is one for those, which leads nowhere.
        # guard: of a box without a router, no other network is full of neighbours
        lines += [
            f"address add {card.address}/24 {on}",
            f"route append default via {_NOWHERE} {on} onlink table {_TABLE}",
            f"rule add oif {card.name} lookup {_TABLE} pref {_AFTER_ALL}",
        ]
    if ipv6:
        # guard: few addresses of IPv6 are neighbours
        lines.append(f"address add {card.address6}/128 {on} nodad")
        if card.router6:
            lines += [
                f"route add {card.router6} {on}",
                f"route add default via {card.router6} {on}",
            ]
        else:
            lines += (
                f"route add {network} {on}" for network in neighbours6(card.address6)
            )
    return "".join(f"{line}\n" for line in lines)


def keep_rights() -> None:
    """Make capabilities ambient, so that ``ip`` inherits them (capabilities(7))."""
    mask = sum(1 << number for number in _CAPABILITIES)
    header = struct.pack("=Ii", _CAP_VERSION, 0)
    sets = struct.pack("=6I", mask, mask, mask, 0, 0, 0)
    check(libc.capset(header, sets), "capset")
    for number in _CAPABILITIES:
        check(libc.prctl(_PR_CAP_AMBIENT, _RAISE, number, 0, 0), "ambient capability")


def run_ip(batch: str, namespace: int) -> None:
    """Run ip(8) with these lines as its batch; pass it the namespace's descriptor.

    Raises OSError.
    """
    program = shutil.which("ip", path=_PLACES)
    if program is None:
        raise OSError(errno.ENOENT, "the program 'ip' is not installed")
    done = subprocess.run(
        [program, "-batch", "-"],
        input=batch.encode(),
        pass_fds=(namespace,),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(0, f"ip: {done.stderr.decode(errors='replace').strip()}")


def open_packets(interface: str) -> socket.socket:
    """Return a socket of all frames that arrive at an interface, and none of its own."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    packets = socket.socket(socket.AF_PACKET, kind, 0)
    # Set before frames arrive: the socket would receive its frames.
    packets.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    program = array.array("B", _UNTAGGED)
    filter_ = struct.pack("HP", len(program) // 8, program.buffer_info()[0])
    # guard: a frame with a VLAN tag is not taken for one without
    packets.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filter_)
    # As much as the machine lets a user have (rmem_max): a window of a fast connection
    # arrives at once, and what does not fit is lost.
    packets.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, network_limits.PASST_SOCKET_BYTES
    )
    packets.bind((interface, _ALL_PROTOCOLS))
    return packets


def _checksums_in_software(interface: str) -> None:
    """Turn off checksum and segmentation offload of an interface.

    A veth pair leaves both out (the frames never reach a wire), and passt passes on
    the frames that it receives.
    """
    value = array.array("I", [_SET_TX_CHECKSUMS, 0])
    request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request.ljust(40, b"\0"))


def without_ipv6(interface: str) -> None:
    """Disable IPv6 on the host's end of the cable, before it is up.

    Frames reach it beside the packet socket: a router's advertisement would give it an
    address, a neighbour and as many routes as it names.  Raises OSError.  Writes the
    kernel's setting below ``/proc/sys``.
    """
    if _IPV6.exists():
        # guard: the kernel of the wire takes no advertisements
        (_IPV6 / interface / "disable_ipv6").write_text("1")


def _set_tcp() -> None:
    """Set the box's TCP: congestion control reno, and short windows (tcp(7)).

    Its connections end at passt or at a neighbour, after queues of a few MiB, and the
    machine's default may be BBR, which does not slow down where they overflow.  Towards
    the world passt's sockets have that of the machine.
    """
    # Where /proc/sys is read-only, as in a container, all stays as it is.
    with suppress(OSError):
        (_TCP / "tcp_congestion_control").write_text("reno")
        most = network_limits.BOX_TCP_BYTES
        for name in ("tcp_rmem", "tcp_wmem"):
            least, first, _ = (_TCP / name).read_text().split()
            (_TCP / name).write_text(f"{least} {min(int(first), most)} {most}")


def check(result: int, what: str) -> None:
    """Raise OSError where a call of ``libc`` failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what} ({os.strerror(code)})")


def take_frames(unread: bytearray) -> list[bytes]:
    """Cut the complete frames off the beginning of a stream and return them.

    Raises FrameError for a too long frame.
    """
    found: list[bytes] = []
    start = 0
    while len(unread) - start >= LENGTH.size:
        (size,) = LENGTH.unpack_from(unread, start)
        if size > limits.FRAME_BYTES:
            raise FrameError(f"invalid frame size: {size} bytes")
        end = start + LENGTH.size + size
        if len(unread) < end:
            break
        found.append(bytes(unread[start + LENGTH.size : end]))
        start = end
    del unread[:start]
    return found


class PacketGuard(FrameGuard):
    """``FrameGuard`` whose first side is a packet socket: a frame a call, no lengths."""

    def __init__(
        self,
        packets: socket.socket,
        passt: socket.socket,
        addresses: Addresses,
    ) -> None:
        super().__init__(packets, passt, addresses)
        self._packets = packets
        self._unread = bytearray()  # of passt
        self._unput: deque[bytes] = deque()  # frames that wait for the interface

    @override
    def _carry(self, side: socket.socket) -> bool:
        """Read one side's frames or data and carry them; False at passt's end."""
        if side is self._packets:
            self._send_outward(joined(self._passed()))
            return True
        data = self._read_passt()
        for frame in filter(self._may_enter, self._whole_frames()):
            self._put(frame)
        return bool(data)

    def _read_passt(self) -> bytes:
        data = self._receive(self._sides[1])
        self._unread += data
        return data

    def _read_frames(self) -> Iterator[bytes]:
        for _ in range(_BATCH):
            try:
                yield self._receive(self._packets, limits.FRAME_BYTES)
            except BlockingIOError:
                return

    def _passed(self) -> Iterator[bytes]:
        """Frames of the box that may pass, as passt reads them."""
        for untrusted_frame in self._read_frames():
            # guard: a box's frames pass the filter
            if self._may_leave(untrusted_frame):
                yield LENGTH.pack(len(untrusted_frame)) + untrusted_frame

    def _whole_frames(self) -> list[bytes]:
        return take_frames(self._unread)

    def _put(self, frame: bytes) -> None:
        """Queue a frame for the box; drop it when too many wait."""
        # passt of 2023 takes seconds to notice that a frame was lost, so none is lost
        # for want of room here.
        # guard: a box's interface that takes nothing holds few frames
        if len(self._unput) < network_limits.BOX_FRAMES:
            self._unput.append(frame)
        self._flush(self._packets)

    @override
    def _waits(self, side: socket.socket) -> bool:
        return bool(self._unput) if side is self._packets else super()._waits(side)

    @override
    def _flush(self, side: socket.socket) -> None:
        """Send queued frames to the box."""
        if side is not self._packets:
            super()._flush(side)
            return
        while self._unput:
            try:
                self._packets.send(self._unput[0])
            except BlockingIOError:
                return
            except OSError as error:
                # A full queue or an odd frame is a lost frame, as on every network.
                lost = {errno.ENOBUFS, errno.EINVAL, errno.EMSGSIZE}
                if error.errno not in lost:
                    raise
            self._unput.popleft()

    @override
    def _serve(self, side: socket.socket, happened: int) -> bool:
        if side is self._packets and happened & select.POLLERR:
            return False  # ENETDOWN: the box's end of the cable is gone
        return super()._serve(side, happened)
