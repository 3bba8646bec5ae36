"""The process between a box whose flows are decided and passt: ``network = "rules"``.

    program in the box ─ eth0 ═ veth ═ packet socket, flow filter ═ passt
                                             ║ asks      ║ names
                                           viewer     name server

It is ``packet_guard flows`` for ``veth``, for ``tap`` of another VMM than QEMU, or for
``qemu``: the guard of frames with a table of flows.  Its arguments are those of that
guard, then the descriptors of sockets: one to the viewer, and one connected to
each of this machine's name servers; at last the file that names these.  It can open no other one: where an answer was cut, a
process that it has forked asks by TCP (``name_streams``), and another one makes sockets to
the name servers that take the place of these (``name_servers``).  If the viewer's end closes,
every flow ends, and none begins.

The host starts it for a sandbox; it is jailed once its sockets are open.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

from broker.core import limits
from broker.core.errors import SetupError
from broker.core.framing import FrameReader
from broker.core.limits import network as network_limits
from broker.core.streams import network_flows as m
from broker.host.network.addresses import (
    GATEWAY6,
    GUEST,
    GUEST6,
    RESOLVER,
)
from broker.host.network.flowguard import name_servers, name_streams, quic_hello
from broker.host.network.flowguard.flow_filter import FlowFilter
from broker.host.network.frameguard.ethernet_frames import joined
from broker.host.network.frameguard.frameguard import Addresses, confined_run
from broker.host.network.frameguard.interfaces import SandboxInterface, carry, not_made
from broker.host.network.frameguard.veth import LENGTH, PacketGuard, take_frames

_MAX_DATAGRAM = 65535
_PAUSE = 1000
_ANSWERS = 64
"""Datagrams of the name server that are read before the others are served."""


class FlowGuard(PacketGuard):
    """``PacketGuard`` that carries the flows of a ``FlowFilter``."""

    _pause: int | None = _PAUSE
    calls: tuple[str, ...] = ("recvmsg",)
    _leases = False
    """Whether passt tells the guest its address."""

    def __init__(
        self,
        packets: socket.socket,
        passt: socket.socket,
        addresses: Addresses,
        *,
        viewer: socket.socket,
        resolvers: Sequence[socket.socket],
        streams: socket.socket,
        servers: socket.socket,
    ) -> None:
        super().__init__(packets, passt, addresses)
        self._viewer = viewer
        self._streams = streams
        self._servers: socket.socket | None = servers
        self._asked_servers = 0.0
        self._can_stream = True
        """Whether the process that asks by TCP runs."""
        for one in (viewer, streams, *resolvers):
            one.settimeout(0)
        self._resolvers = [one.detach() for one in resolvers]
        self._reader = FrameReader(m.MESSAGE_BYTES)
        self._unsent = bytearray()
        self._looked = time.monotonic()
        self.flows = FlowFilter(
            GUEST,
            RESOLVER,
            lambda frame: not self._filter.may_pass(frame),
            leases=self._leases,
            guest6=GUEST6 if addresses.ipv6 else "",
            gateway6=GATEWAY6,
            name_servers=len(resolvers),
        )

    @override
    def _poll_events(self, side: socket.socket) -> int:
        """Return the poll(2) events of a socket; no POLLIN while it exceeds its rate."""
        wanted = super()._poll_events(side)
        if not self.flows.rates.limited:
            return wanted
        early = self.flows.rates.early(time.monotonic(), outward=side is self._packets)
        # guard: a side that is too fast is not read
        if early > 0:
            self._pause = min(self._pause or _PAUSE, int(early * 1000) + 1)
            wanted &= ~select.POLLIN
        return wanted

    @override
    def _more(self) -> dict[int, int]:
        found = dict.fromkeys(self._resolvers, select.POLLIN)
        if self._can_stream:
            found[self._streams.fileno()] = select.POLLIN
        if self._servers is not None:
            found[self._servers.fileno()] = select.POLLIN
        if self.flows.connected:
            wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            found[self._viewer.fileno()] = wanted
        return found

    @override
    def _serve_more(self, fd: int, happened: int) -> None:
        if fd in self._resolvers:
            self._read_answers(fd)
        elif fd == self._streams.fileno():
            self._read_stream_answer()
        elif self._servers is not None and fd == self._servers.fileno():
            self._take_servers(self._servers)
        elif happened & ~select.POLLOUT:
            self._read_viewer()
        self._flush_flows()

    def _read_viewer(self) -> None:
        """Read messages of the viewer: verdicts and limits; close at its end."""
        try:
            data = self._viewer.recv(_MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.flows.lost()
            return
        now = time.monotonic()
        for body in self._reader.feed(data):
            self.flows.decided(m.decode_to_filter(body), now)

    @override
    def _refresh(self) -> None:
        super()._refresh()
        self.flows.cut_own(self._filter.is_own)
        self._flush_flows()
        self._ask_for_servers()

    def _ask_for_servers(self) -> None:
        """Ask whether this machine has other name servers, or another address."""
        self._asked_servers = time.monotonic()
        if self._servers is not None:
            with suppress(OSError):  # many looks wait
                self._servers.send(name_servers.LOOK)

    def _take_servers(self, servers: socket.socket) -> None:
        """Take sockets to other name servers in the place of the former ones."""
        try:
            data, found, *_ = socket.recv_fds(servers, 1, network_limits.NAME_SERVERS)
        except BlockingIOError:
            return
        if not data:  # that process has ended: the former ones remain
            servers.close()
            self._servers = None
            return
        former, self._resolvers = self._resolvers, found
        for fd in former:
            os.close(fd)
        self.flows.ask_others(len(found))

    def _read_answers(self, resolver: int) -> None:
        """Pass answers of a resolver to the flows."""
        for _ in range(_ANSWERS):
            try:
                untrusted_answer = os.read(resolver, _MAX_DATAGRAM)
            except OSError:  # none is left, or nothing listens there
                return
            self.flows.answered(untrusted_answer, time.monotonic())

    def _read_stream_answer(self) -> None:
        """Pass an answer that came by TCP to the flows."""
        try:
            untrusted_answer = self._streams.recv(_MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            untrusted_answer = b""
        # Without that process an answer that is cut has none by TCP.
        self._can_stream = bool(untrusted_answer)
        self.flows.answered(untrusted_answer, time.monotonic(), by_stream=True)

    @override
    def _carry(self, side: socket.socket) -> bool:
        """Read and filter what one side has sent; False at its end."""
        now = time.monotonic()
        rates = self.flows.rates
        if side is self._packets:
            for untrusted_frame in self._read_frames():
                rates.count(len(untrusted_frame), now, outward=True)
                self.flows.outward(untrusted_frame, now)
            data = b"."
        else:
            data = self._read_passt()
            rates.count(len(data), now, outward=False)
            for frame in self._whole_frames():
                self.flows.inward(frame, now)
        self._flush_flows()
        return bool(data)

    @override
    def _look(self) -> None:
        """Do what time asks for: expire flows, report bytes, flush."""
        now = time.monotonic()
        self._pause = _PAUSE
        if now - self._looked >= network_limits.REPORT_SECONDS:
            self._looked = now
            self.flows.tick(now)
            self.flows.report_bytes()
            self._flush_flows()

    def _flush_flows(self) -> None:
        """Send what the flows have queued, to viewer, passt and guest."""
        flows = self.flows
        for message in flows.to_viewer:
            self._unsent += m.encode(message)
        flows.to_viewer.clear()
        if self._unsent:
            self._tell_viewer()
        if flows.to_passt:
            frames = [LENGTH.pack(len(frame)) + frame for frame in flows.to_passt]
            flows.to_passt.clear()
            self._send_outward(joined(frames))
        flows.count_answers(time.monotonic())
        for frame in flows.to_guest:
            self._put(frame)
        flows.to_guest.clear()
        self._flush_questions()

    def _flush_questions(self) -> None:
        """Send queued questions to name servers, by UDP and by TCP."""
        flows = self.flows
        late = time.monotonic() - self._asked_servers
        if flows.to_resolver and late > network_limits.NAME_SERVERS_SECONDS:
            self._ask_for_servers()
        for question in flows.to_resolver:
            try:
                os.write(self._resolvers[flows.name_server], question)
            except OSError as error:
                # As a lost datagram: the guest asks again.
                if error.errno not in {errno.ECONNREFUSED, errno.EAGAIN, errno.ENOBUFS}:
                    break
        flows.to_resolver.clear()
        for question in flows.to_streams:
            try:
                self._streams.send(bytes([flows.name_server]) + question)
            except OSError:  # as a lost datagram
                break
        flows.to_streams.clear()

    def _tell_viewer(self) -> None:
        """Send queued messages to the viewer; lose a viewer that does not read."""
        # guard: a viewer that does not read decides nothing
        if (
            len(self._unsent) > network_limits.FLOW_REPORT_BYTES
            and self.flows.connected
        ):
            self.flows.lost()
        if not self.flows.connected:
            self._unsent.clear()
            # guard: a viewer learns that nothing it permitted is open any more
            self._viewer.close()
        try:
            while self._unsent:
                del self._unsent[: self._viewer.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.flows.lost()


class QemuFlowGuard(FlowGuard):
    """``FlowGuard`` whose first side is QEMU's stream of frames, with their lengths."""

    _leases = True

    def __init__(
        self,
        qemu: socket.socket,
        passt: socket.socket,
        addresses: Addresses,
        *,
        viewer: socket.socket,
        resolvers: Sequence[socket.socket],
        streams: socket.socket,
        servers: socket.socket,
    ) -> None:
        super().__init__(
            *(qemu, passt, addresses),
            viewer=viewer,
            resolvers=resolvers,
            streams=streams,
            servers=servers,
        )
        self._untrusted = bytearray()
        """What QEMU has sent of a frame."""
        self._unsent_frames = bytearray()

    @override
    def _read_frames(self) -> Iterator[bytes]:
        untrusted_data = self._receive(self._packets)
        if not untrusted_data:
            raise ConnectionResetError("QEMU is no longer running")
        self._untrusted += untrusted_data
        yield from take_frames(self._untrusted)

    @override
    def _put(self, frame: bytes) -> None:
        # guard: a guest that does not read holds few frames
        if len(self._unsent_frames) < limits.FRAMES_READ_BYTES:
            self._unsent_frames += LENGTH.pack(len(frame)) + frame

    @override
    def _waits(self, side: socket.socket) -> bool:
        if side is self._packets:
            return bool(self._unsent_frames)
        return super()._waits(side)

    @override
    def _flush(self, side: socket.socket) -> None:
        """Send queued frames to QEMU."""
        if side is not self._packets:
            super()._flush(side)
            return
        try:
            while self._unsent_frames:
                del self._unsent_frames[: side.send(self._unsent_frames)]
        except BlockingIOError:
            return

    @override
    def _flush_flows(self) -> None:
        super()._flush_flows()
        self._flush(self._packets)


def guard_flows(kind: str, resolv_conf: Path, *fds: int) -> int:
    """Run the frame filter that asks about flows, for an interface of this kind."""
    quic_hello.load()
    if kind == "qemu":
        return _serve_qemu(resolv_conf, *fds)
    return _serve_interface(resolv_conf, *fds)


def _serve_qemu(
    resolv_conf: Path, qemu: int, passt: int, asks: int, *names: int
) -> int:
    """Serve a machine of QEMU with its descriptors."""
    resolvers = [socket.socket(fileno=one) for one in names]
    streams, servers = _start_parts(resolvers, resolv_conf)
    guard = QemuFlowGuard(
        socket.socket(fileno=qemu),
        socket.socket(fileno=passt),
        Addresses(),
        viewer=socket.socket(fileno=asks),
        resolvers=resolvers,
        streams=streams,
        servers=servers,
    )
    confined_run(guard)


def _start_parts(
    resolvers: Sequence[socket.socket], resolv_conf: Path
) -> tuple[socket.socket, socket.socket]:
    """Start what asks by TCP and what finds name servers; return the ends to both."""
    servers, news = name_servers.start(resolvers, resolv_conf)
    return name_streams.start(resolvers, news), servers


def _serve_interface(
    resolv_conf: Path, passt: int, ready: int, netns: int, *fds: int
) -> int:
    """Serve a box's interface in its network namespace."""
    side, viewer, *resolvers = (socket.socket(fileno=one) for one in (passt, *fds))
    try:
        streams, servers = _start_parts(
            resolvers, resolv_conf
        )  # in the host's network namespace
    except (OSError, SetupError) as error:
        return not_made(error)
    return carry(
        SandboxInterface(netns, ready),
        lambda packets, addresses: FlowGuard(
            packets,
            side,
            addresses,
            viewer=viewer,
            resolvers=resolvers,
            streams=streams,
            servers=servers,
        ),
    )
