"""The process's part of the flow filter: sockets, and a viewer that does not read."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from broker.core.errors import UpstreamError
from broker.core.lease import Lease, Opening
from broker.core.limits import network as limits
from broker.core.names import LeaseId, SandboxName
from broker.core.services import NETWORK
from broker.core.streams import network_flows as m
from broker.host.network.frameguard import Addresses
from broker.host.network.rules import FlowGuard
from broker.host.viewer_link import RemoteViewer
from tests.broker.host.network.test_flow_filter import WWW, tcp


@pytest.fixture
def guard():
    """A guard with socket pairs; their far ends are the fixture's as well."""
    with ExitStack() as ours:
        kinds = (*[socket.SOCK_STREAM] * 3, socket.SOCK_DGRAM)
        pairs = [socket.socketpair(type=kind) for kind in kinds]
        for end in (end for pair in pairs for end in pair):
            ours.enter_context(end)
        packets, passt, viewer, resolver = pairs
        addresses = Addresses()
        ours.enter_context(addresses.news)
        ours.enter_context(addresses._asking)
        made = FlowGuard(
            packets[0], passt[0], addresses, viewer=viewer[0], resolver=resolver[0]
        )
        yield made, viewer[1]


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


def test_the_end_of_the_viewer_ends_the_flows(guard):
    guard, viewer = guard
    guard.flows.outward(tcp(receiver=WWW), 1.0)
    guard._flush_flows()
    viewer.close()
    guard._serve_more(guard._viewer.fileno(), 1)
    assert not guard.flows.connected
    assert guard._viewer.fileno() not in guard._more()


async def test_no_link_carries_a_filters_questions():
    """On two machines such a sandbox has no flow, until a link carries them."""
    lease = Lease(LeaseId("0" * 16), SandboxName("work"), SandboxName("work"), 1)
    viewer = RemoteViewer.__new__(RemoteViewer)
    mine, theirs = socket.socketpair()
    with theirs, pytest.raises(UpstreamError, match="no link carries"):
        await viewer.stream_opened(
            Opening(lease, NETWORK, 1, ""), mine, task_status=None
        )
