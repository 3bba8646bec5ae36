"""The process's part of the flow filter: sockets, and a viewer that does not read."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack, contextmanager

import pytest

from broker.core import limits as machine_limits
from broker.core.limits import network as limits
from broker.core.streams import network_flows as m
from broker.host.network.flowguard.rules import FlowGuard, QemuFlowGuard
from broker.host.network.frameguard.ethernet_frames import FrameError
from broker.host.network.frameguard.frameguard import Addresses
from broker.host.network.frameguard.veth import LENGTH, take_frames
from tests.broker.host.network.test_flow_filter import WWW, is_reset, tcp


@contextmanager
def guarding(kind):
    """A guard with socket pairs; yields it and their far ends."""
    with ExitStack() as ours:
        packets = [socket.SOCK_SEQPACKET] * 2
        kinds = (*[socket.SOCK_STREAM] * 3, socket.SOCK_DGRAM, *packets)
        pairs = [socket.socketpair(type=kind) for kind in kinds]
        for end in (end for pair in pairs for end in pair):
            ours.enter_context(end)
        packets, passt, viewer, resolver, streams, servers = pairs
        addresses = Addresses()
        ours.enter_context(addresses.news)
        ours.enter_context(addresses._asking)
        made = kind(
            packets[0],
            passt[0],
            addresses,
            viewer=viewer[0],
            resolvers=[resolver[0]],
            streams=streams[0],
            servers=servers[0],
        )
        made.far_servers = servers[1]
        made.far_streams = streams[1]
        made.far_passt = passt[1]
        yield made, viewer[1], packets[1]


@pytest.fixture
def guard():
    with guarding(FlowGuard) as (made, viewer, _):
        yield made, viewer


@pytest.fixture
def machine():
    """A guard of QEMU, and QEMU's end."""
    with guarding(QemuFlowGuard) as (made, _, qemu):
        yield made, qemu


def framed(*frames):
    return b"".join(LENGTH.pack(len(one)) + one for one in frames)


def test_frames_of_qemu_are_cut_by_their_lengths(machine):
    """However they arrive; each is read by the filter, and answers go back framed."""
    guard, qemu = machine
    refused = tcp(ports=(40000, 853))
    stream = framed(refused, refused)
    for piece in (stream[:3], stream[3:50], stream[50:]):
        qemu.send(piece)
        assert guard._carry(guard._packets)
    answers = take_frames(bytearray(qemu.recv(10_000)))
    assert [is_reset(one) for one in answers] == [True, True]


def test_a_frame_that_is_too_long_ends_the_guard(machine):
    guard, qemu = machine
    qemu.send(LENGTH.pack(machine_limits.FRAME_BYTES + 1))
    with pytest.raises(FrameError):
        guard._carry(guard._packets)


def test_the_end_of_qemu_ends_the_guard(machine):
    guard, qemu = machine
    qemu.close()
    with pytest.raises(ConnectionError):
        guard._carry(guard._packets)


def test_a_guest_that_does_not_read_holds_few_frames(machine):
    """Beyond it they are lost, and passt is not read."""
    guard, _ = machine
    refused = tcp(ports=(40000, 853))
    for _ in range(3 * machine_limits.FRAMES_READ_BYTES // len(refused)):
        guard.flows.outward(refused, 1.0)
        guard._flush_flows()
    held = len(guard._unsent_frames)
    most = machine_limits.FRAMES_READ_BYTES + machine_limits.FRAME_BYTES
    assert 0 < held <= most
    assert not guard._poll_events(guard._sides[1]) & select.POLLIN


def test_a_side_that_is_too_fast_is_not_read(guard):
    """The other one is, and it is looked at again when it may be read."""
    made, _ = guard
    allowed = m.FlowLimits(1024, 100, 50, 10_000, None, encrypted_hello=True)
    made.flows.decided(allowed, 1.0)
    inside, outside = made._sides
    assert made._poll_events(inside) & select.POLLIN
    made.flows.rates.count(50_000, time.monotonic(), outward=True)
    assert not made._poll_events(inside) & select.POLLIN
    assert made._poll_events(outside) & select.POLLIN
    made.flows.rates.limit(None, None)
    assert made._poll_events(inside) & select.POLLIN


def test_an_answer_of_the_name_server_is_counted_when_it_is_sent(guard):
    made, _ = guard
    made.flows.decided(
        m.FlowLimits(1024, 100, 50, None, 10_000, encrypted_hello=True), 1.0
    )
    inside, outside = made._sides
    made.flows.to_guest += [bytes(1000)] * 20  # passt's: counted when they came
    made._flush_flows()
    assert made._poll_events(outside) & select.POLLIN
    for size in (100, 20_000):
        made.flows._answer(bytes(size))
        made._flush_flows()
        assert made._poll_events(inside) & select.POLLIN
        assert bool(made._poll_events(outside) & select.POLLIN) is (size == 100)


def test_a_viewer_that_does_not_read_decides_nothing(guard):
    guard, viewer = guard
    guard.flows.outward(tcp(), 1.0)
    guard._flush_flows()
    assert viewer.recv(1000)
    guard.flows.decided(m.FlowAnswer(1, allowed=True), 1.0)
    assert len(guard.flows.to_passt) == 1
    guard.flows.to_viewer += [m.FlowEnded(1, 1, 1, "x" * 900)] * (
        limits.FLOW_REPORT_BYTES * 4 // 900
    )
    guard._flush_flows()
    guard._flush_flows()
    assert not guard.flows.connected
    # It has permits and rows of what it believes open, and perhaps half a message.
    viewer.settimeout(0)
    while viewer.recv(1 << 16):
        pass
    guard._flush_flows()


def test_the_end_of_the_viewer_ends_the_flows(guard):
    guard, viewer = guard
    guard.flows.outward(tcp(receiver=WWW), 1.0)
    guard._flush_flows()
    viewer.close()
    guard._serve_more(guard._viewer.fileno(), 1)
    assert not guard.flows.connected
    assert guard._viewer.fileno() not in guard._more()


def test_other_name_servers_take_the_place_of_the_first(guard):
    """And remain when the process that finds them has ended."""
    made, _ = guard
    near, far = socket.socketpair(type=socket.SOCK_DGRAM)
    with near, far:
        far.settimeout(30)
        made.flows.to_resolver.append(b"before")
        made._flush_flows()
        assert made.far_servers.recv(10) == b"?", "it has looked as it was asked"
        socket.send_fds(made.far_servers, [b"?"], [near.fileno()])
        made._serve_more(made._servers.fileno(), select.POLLIN)
        made.far_servers.close()
        made._serve_more(made._servers.fileno(), select.POLLIN)
        for question in (b"one", b"two"):
            made.flows.to_resolver.append(question)
            made._flush_flows()
            assert far.recv(100) == question
