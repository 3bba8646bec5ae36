"""The process between QEMU's network device and passt: ``ethernet_frames`` at work.

It is ``packet_guard frames qemu``, and the loop of its other modes.
Its arguments are the descriptors of two stream sockets, QEMU's and passt's.
What QEMU sends is filtered by its receiver, what passt sends by ``datagram_peers``.
Either side's end is ours.  The set of this machine's addresses follows the kernel's
announcements (rtnetlink(7)), because laptops change networks.  It is read from
the routes of type local: each address has one, and whole networks may have one
without any address ("AnyIP", ``ip route add local 192.0.2.0/24 dev lo``).

One thread, no files, a seccomp filter that leaves it reading, writing and
polling.  It holds at most two buffers, and reads no side whose other side
does not take.  What it writes to passt ends where frames end, see ``joined``.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NoReturn

from broker.core import limits
from broker.helpers.filters.descriptor_filter import keep_descriptors_only
from broker.host.network.addresses import template_interface
from broker.host.network.frameguard.datagram_peers import DatagramPeers
from broker.host.network.frameguard.ethernet_frames import (
    FrameError,
    FrameFilter,
    FrameStream,
    joined,
)
from broker.host.network.frameguard.host_pace import HostPace

_ANNOUNCED = 0x10 | 0x40 | 0x100 | 0x400
"""Addresses and routes of IPv4 and of IPv6 (RTMGRP_IPV4_IFADDR and so on)."""
_STALE_SECONDS = 2.0
"""How long frames are dropped at most that were sent while this process was stopped."""
_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 16}
_RTM_NEWROUTE, _RTM_GETROUTE, _NLMSG_DONE, _NLMSG_ERROR = 24, 26, 3, 2
_NLM_F_DUMP = 0x301  # REQUEST | ROOT | MATCH
_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RTA_DST, _RTN_LOCAL, _RTN_ANYCAST = 1, 2, 4
_TABLES = frozenset({253, 254, 255})
"""default, main and local.  Others are asked for marked packets only: a transparent
proxy has a local route to everything in one, which is not for passt's sockets."""


class Addresses:
    """This machine's addresses, as the kernel has them.

    ``news`` becomes readable when they change.  ``ipv6``: passt can give a guest IPv6.
    """

    def __init__(self) -> None:
        _, self.ipv6 = template_interface()
        self.news = _netlink(_ANNOUNCED)
        self._asking = _netlink(0)

    def read(self) -> frozenset[tuple[bytes, int]]:
        """Ask the kernel for all of them, as networks.  Raises OSError."""
        return frozenset().union(*map(self._read, _FAMILIES))

    def _read(self, family: int) -> frozenset[tuple[bytes, int]]:
        """Ask the kernel for its local routes of one family (rtnetlink(7))."""
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        size = _HEADER.size + len(body)
        self._asking.send(_HEADER.pack(size, _RTM_GETROUTE, _NLM_F_DUMP, 1, 0) + body)
        found: set[tuple[bytes, int]] = set()
        while True:
            for kind, payload in _messages(self._asking.recv(1 << 16)):
                if kind == _NLMSG_DONE:
                    return frozenset(found)
                if kind == _NLMSG_ERROR:
                    raise OSError("cannot read addresses from the kernel")
                if kind == _RTM_NEWROUTE:
                    found |= _local(payload)


def _netlink(groups: int) -> socket.socket:
    """Open a socket for the kernel's messages about interfaces, of these groups."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    sock.bind((0, groups))
    return sock


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    """Split netlink data into messages: kind and payload."""
    out: list[tuple[int, bytes]] = []
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, *_ = _HEADER.unpack_from(data, at)
        out.append((kind, data[at + _HEADER.size : at + size]))
        at += max(size + 3 & ~3, _HEADER.size)
    return out


def _local(payload: bytes) -> set[tuple[bytes, int]]:
    """Parse a route; return its network if it leads to this machine itself."""
    family, bits, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(payload)
    size = _FAMILIES.get(family)
    # guard: a proxy's table is not ours
    if size is None or kind not in {_RTN_LOCAL, _RTN_ANYCAST} or table not in _TABLES:
        return set()
    found = {(bytes(size), bits)} if bits == 0 else set()
    at = _RTMSG.size
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        value = payload[at + _ATTRIBUTE.size : at + length]
        if kind == _RTA_DST and len(value) == size:
            found.add((value, bits))
        at += max(length + 3 & ~3, _ATTRIBUTE.size)
    return found


class FrameGuard:
    """The loop of frameguard, netguard and flowguard: carries both directions.

    It ends with one side.
    """

    calls: tuple[str, ...] = ()
    """System calls that it makes beyond those of descriptors."""

    def __init__(
        self,
        qemu: socket.socket,
        passt: socket.socket,
        addresses: Addresses,
    ) -> None:
        self._addresses = addresses
        self._filter = FrameFilter(addresses.read())
        self._peers, self._pace = DatagramPeers(), HostPace()
        self._from_guest = FrameStream(self._may_leave)
        self._from_passt = FrameStream(self._may_enter)
        self._now = time.monotonic()
        self._sides = (qemu, passt)
        self._inward = memoryview(b"")  # waits to be written to QEMU
        self._outward: deque[bytes] = deque()  # sends that wait for passt
        self._stale, self._stale_until = False, 0.0
        self._received = memoryview(bytearray(limits.FRAMES_READ_BYTES))
        qemu.settimeout(0)
        passt.settimeout(0)
        _make_room(passt)

    def run(self) -> None:
        """Filter frames until QEMU or passt has gone, or QEMU sends no more."""
        poll = select.poll()
        watched: dict[int, int] = {}
        while True:
            wanted = self._wanted()
            if wanted != watched:  # seldom, and most of what a frame would cost
                for fd in watched.keys() - wanted.keys():
                    poll.unregister(fd)
                for fd, events in wanted.items():
                    poll.register(fd, events)
                watched = wanted
            try:
                ready = poll.poll(0 if self._stale else self._pause)
                if self._stale:
                    self._stale = self._has_backlog(ready)
                for fd, happened in ready:
                    if not self._happened(fd, happened):
                        return
                self._look()
            except (FrameError, ConnectionError):
                return

    def drop_backlog(self, *_signal: object) -> None:
        """Drop what the guest has sent while a lockdown had stopped this process.

        passt of 2023 loops for ever at some bursts of repeated packets.
        """
        self._stale, self._stale_until = True, time.monotonic() + _STALE_SECONDS

    def _has_backlog(self, ready: Sequence[tuple[int, int]]) -> bool:
        """Return whether the guest's old frames are still being read."""
        self._outward.clear()
        inside = self._sides[0].fileno()
        # A guest that sends without a pause gets its network back, too.
        late = time.monotonic() > self._stale_until
        return not late and any(fd == inside for fd, _ in ready)

    def _wanted(self) -> dict[int, int]:
        """Return the descriptors to poll, each with its poll(2) events."""
        inside, outside = self._sides
        always = {self._addresses.news.fileno(): select.POLLIN}
        always[inside.fileno()] = self._poll_events(inside)
        always[outside.fileno()] = self._poll_events(outside)
        return always | self._more()

    def _happened(self, fd: int, happened: int) -> bool:
        """Serve one ready descriptor; return False once the machine has ended."""
        if fd == self._addresses.news.fileno():
            self._refresh()
            return True
        for side in self._sides:
            if fd == side.fileno():
                return self._serve(side, happened)
        self._serve_more(fd, happened)
        return True

    _pause: int | None = None
    """Milliseconds after which ``_look`` is called at the latest; None: no need."""

    def _more(self) -> dict[int, int]:
        """Further descriptors to poll, and for what."""
        return {}

    def _serve_more(self, fd: int, happened: int) -> None:
        """Serve one of them."""

    def _look(self) -> None:
        """See to what time brings."""

    def _waits(self, side: socket.socket) -> bool:
        """Return whether something waits to be written to this side."""
        return bool(self._inward if side is self._sides[0] else self._outward)

    def _other(self, side: socket.socket) -> socket.socket:
        return self._sides[side is self._sides[0]]

    def _poll_events(self, side: socket.socket) -> int:
        wanted = select.POLLOUT if self._waits(side) else 0
        return wanted if self._waits(self._other(side)) else wanted | select.POLLIN

    def _serve(self, side: socket.socket, happened: int) -> bool:
        self._now = time.monotonic()
        if happened & select.POLLOUT:
            self._flush(side)
        if happened & select.POLLIN and not self._waits(self._other(side)):
            return self._carry(side)
        return not happened & (select.POLLHUP | select.POLLERR | select.POLLNVAL)

    def _carry(self, side: socket.socket) -> bool:
        """Read one side's data, and send what may pass to the other side."""
        untrusted_data = self._receive(side)
        if side is self._sides[0]:
            self._send_outward(joined(self._from_guest.feed(untrusted_data)))
        else:
            passed = b"".join(self._from_passt.feed(untrusted_data))
            self._inward = memoryview(passed)
            self._flush(self._sides[0])
        return bool(untrusted_data)

    def _may_leave(self, untrusted_frame: bytes) -> bool:
        return (
            self._filter.may_pass(untrusted_frame)
            and self._pace.may_leave(untrusted_frame, self._now)
            and self._peers.may_leave(untrusted_frame, self._now)
        )

    def _may_enter(self, frame: bytes) -> bool:
        return self._peers.may_enter(frame, self._now)

    def _receive(
        self, side: socket.socket, size: int = limits.FRAMES_READ_BYTES
    ) -> bytes:
        # recv() would have the kernel map and clear memory of this size each time, which
        # takes longer than all else that is done for a small frame.
        return bytes(self._received[: side.recv_into(self._received, size)])

    def _send_outward(self, sends: Iterable[bytes]) -> None:
        frames = list(sends)
        # guard: what was sent in a lockdown stays in the sandbox
        if self._stale:
            return
        self._outward.extend(frames)
        self._flush(self._sides[1])

    def _flush(self, side: socket.socket) -> None:
        """Send queued data to one side, as far as it takes it."""
        try:
            if side is self._sides[0]:
                while self._inward:
                    self._inward = self._inward[side.send(self._inward) :]
            else:
                self._flush_outward()
        except BlockingIOError:
            return

    def _flush_outward(self) -> None:
        """Send queued frames to passt.  Raises FrameError for a cut one."""
        while self._outward:
            sent = self._sides[1].send(self._outward[0])
            # guard: passt takes a send whole
            if sent != len(self._outward[0]):
                raise FrameError("the kernel truncated a send")
            self._outward.popleft()

    def _refresh(self) -> None:
        """Read the host's own addresses again after a change."""
        try:
            self._addresses.news.recv(1 << 16)
        except OSError as error:  # ENOBUFS: announcements were lost; ask again
            if error.errno != errno.ENOBUFS:
                raise
        self._filter.own = self._addresses.read()
        # guard: an address that this machine gets is not a guest's peer any more
        self._peers.forget(self._filter.is_own)


def _make_room(passt: socket.socket) -> None:
    """Set the send buffer of passt's socket.  Raises OSError if it stays too small."""
    passt.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.FRAMES_SOCKET_BYTES)
    room = passt.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    # guard: passt's socket has room for a send
    if room < limits.FRAMES_SOCKET_BYTES:
        raise OSError(errno.ENOBUFS, "the socket buffer is too small (wmem_max)")


def guard_frames(qemu: int, passt: int) -> NoReturn:
    """Run the frame filter between two descriptors: QEMU's side and passt's."""
    sides = socket.socket(fileno=qemu), socket.socket(fileno=passt)
    confined_run(FrameGuard(*sides, Addresses()))


def confined_run(guard: FrameGuard) -> NoReturn:
    """Confine this process, carry a guard's frames to the end, and exit."""
    signal.signal(signal.SIGCONT, guard.drop_backlog)
    keep_descriptors_only(*guard.calls)
    try:
        guard.run()
    except OSError as error:
        if error.errno != errno.ENETDOWN:  # the interface has gone
            raise
    os._exit(0)  # the interpreter's own end needs system calls that it gave up
