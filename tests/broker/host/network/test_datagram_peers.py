"""Which datagrams and echo replies reach a guest, and how fast it may find new hosts."""

from __future__ import annotations

import struct

import pytest

from broker.core.limits import network as limits
from broker.host.network.addresses import GATEWAY, GUEST, GUEST6
from broker.host.network.frameguard.datagram_peers import DatagramPeers
from broker.host.network.frameguard.ethernet_frames import FrameFilter
from broker.host.network.frameguard.host_pace import HostPace
from broker.host.network.frameguard.packets import ICMP
from tests.broker.host.network.test_flow_filter import (
    frame,
    packed,
    tcp,
    udp,
)
from tests.broker.host.network.test_ipv6 import advertisement, icmp6, tcp6, udp6

SERVER, STRANGER = "198.51.100.7", "198.51.100.8"
SERVER6, STRANGER6 = "2606:2800:220:1::34", "2606:2800:220:1::35"
PORT = 40_001
IDLE = limits.IDLE_SECONDS["udp"]


def out(receiver=SERVER, port=PORT, target=53):
    return udp(b"asks", (port, target), receiver=receiver)


def back(sender=SERVER, port=PORT, source=53):
    return udp(b"answers", (source, port), sender=sender, receiver=GUEST)


def out6(receiver=SERVER6, port=PORT):
    return udp6(b"asks", (port, 53), receiver=receiver)


def back6(sender=SERVER6, port=PORT, source=53):
    return udp6(b"answers", (source, port), sender=sender, receiver=GUEST6)


def icmp(kind, number=7, **where):
    return frame(ICMP, struct.pack(">BBHHH", kind, 0, 0, number, 1), **where)


@pytest.fixture
def peers():
    return DatagramPeers()


@pytest.mark.parametrize(("asks", "answers"), [(out, back), (out6, back6)])
def test_peer_may_answer(peers, asks, answers):
    """Also from another of its ports, as servers of TFTP do."""
    assert not peers.may_enter(answers(), 1.0)
    assert peers.may_leave(asks(), 1.0)
    assert peers.may_enter(answers(), 1.0)
    assert peers.may_enter(answers(source=7001), 1.0)


@pytest.mark.parametrize(
    "answer",
    [
        back(STRANGER),
        back(port=PORT + 1),
        back("127.0.0.1"),
        back6(STRANGER6),
        back6(port=PORT + 1),
        icmp(0, number=PORT, sender=SERVER, receiver=GUEST),
    ],
)
def test_datagram_of_nobody_that_was_asked_is_dropped(peers, answer):
    assert peers.may_leave(out(), 1.0)
    assert peers.may_leave(out6(), 1.0)
    assert not peers.may_enter(answer, 1.0)


def test_echo_reply_needs_its_request(peers):
    four = icmp(0, number=7, sender=SERVER, receiver=GUEST)
    six = icmp6(129, sender=SERVER6, receiver=GUEST6)
    assert not peers.may_enter(four, 1.0)
    assert not peers.may_enter(six, 1.0)
    assert peers.may_leave(icmp(8, number=7, receiver=SERVER), 1.0)
    assert peers.may_leave(icmp6(128, sender=GUEST6, receiver=SERVER6), 1.0)
    assert peers.may_enter(four, 1.0)
    assert peers.may_enter(six, 1.0)
    assert not peers.may_enter(icmp(0, number=8, sender=SERVER, receiver=GUEST), 1.0), (
        "of another identifier"
    )


def test_peer_is_forgotten_after_its_last_datagram(peers):
    peers.may_leave(out(), 0.0)
    for now in (IDLE - 1, 2 * IDLE - 2):  # each answer keeps it
        assert peers.may_enter(back(), now)
    assert not peers.may_enter(back(), 3 * IDLE)
    peers.may_leave(out(), 3 * IDLE)
    assert peers.may_enter(back(), 3 * IDLE)


def test_peers_are_bounded_and_the_oldest_is_forgotten(peers):
    peers.may_leave(out(port=1), 0.0)
    peers.may_leave(out(port=2), 0.0)
    peers.may_enter(back(port=1), 1.0)
    for port in range(10, 9 + limits.DATAGRAM_PEERS):
        peers.may_leave(out(port=port), 2.0)
    assert peers.may_enter(back(port=1), 2.0)
    assert not peers.may_enter(back(port=2), 2.0)
    assert len(peers._used) == limits.DATAGRAM_PEERS


def test_own_address_is_forgotten(peers):
    """A laptop may get the address of a host that its guest has asked."""
    frames = FrameFilter()
    peers.may_leave(out(), 1.0)
    peers.may_leave(out(STRANGER), 1.0)
    frames.own = [(packed(SERVER), 32)]
    peers.forget(frames.is_own)
    assert not peers.may_enter(back(), 1.0)
    assert peers.may_enter(back(STRANGER), 1.0)


def test_lease_comes_from_passt_alone(peers):
    """The gateway's address is that of this machine's programs in passt's frames."""
    asks = udp(b"x", (68, 67), receiver=GATEWAY)
    assert FrameFilter().may_pass(asks)
    assert peers.may_leave(asks, 1.0)
    lease = {"receiver": GUEST, "sender": GATEWAY}
    assert peers.may_enter(udp(b"x", (67, 68), **lease), 1.0)
    assert not peers.may_enter(udp(b"x", (5000, 68), **lease), 1.0)
    assert not peers.may_enter(udp(b"x", (67, 68), receiver=GUEST), 1.0)
    assert peers.may_enter(udp6(b"x", (547, 546), sender="fe80::2"), 1.0)
    assert not peers.may_enter(udp6(b"x", (547, 546), sender=STRANGER6), 1.0)


def test_gateway_gets_no_datagrams():
    for source, target in ((40_000, 53), (40_000, 67), (68, 69)):
        assert not FrameFilter().may_pass(out(GATEWAY, source, target))
    assert FrameFilter().may_pass(tcp(receiver=GATEWAY))
    assert FrameFilter().may_pass(icmp(8, receiver=GATEWAY))


def test_fragment_of_datagram_is_dropped(peers):
    """passt reads it as one, with ports of the guest's choice in its data."""
    datagram = out()
    for flags in (0x2000, 1):
        piece = datagram[:20] + struct.pack(">H", flags) + datagram[22:]
        assert FrameFilter().may_pass(piece)
        assert not peers.may_leave(piece, 1.0)
    options = datagram[:14] + b"\x46" + datagram[15:]
    assert not peers.may_leave(options, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        tcp(sender=STRANGER, receiver=GUEST),
        tcp6(sender=STRANGER6, receiver=GUEST6),
        icmp(3, sender=STRANGER, receiver=GUEST),
        advertisement(GUEST6),
        b"\xff" * 12 + b"\x08\x06" + bytes(28),
        b"\xff" * 12 + b"\x08\x00",
    ],
)
def test_other_frames_of_passt_pass(peers, other):
    """TCP, ARP, neighbour discovery, and errors, which passt makes itself."""
    assert peers.may_enter(other, 1.0)
    assert peers.may_leave(other, 1.0)


# -- the pace of new hosts -----------------------------------------------------------


def host(number):
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def test_new_hosts_have_a_pace():
    pace = HostPace()
    flood = [pace.may_leave(out(host(number)), 1.0) for number in range(600)]
    assert sum(flood) == limits.FLOWS_BURST
    assert pace.may_leave(out(host(0)), 1.0), "one that is not new"
    assert not pace.may_leave(tcp(receiver=host(700)), 1.0)
    assert not pace.may_leave(out6(), 1.0)
    assert pace.may_leave(b"\xff" * 12 + b"\x08\x06" + bytes(28), 1.0)
    assert pace.may_leave(tcp(receiver=host(700)), 2.0)


def test_hosts_that_are_not_new_are_bounded():
    pace = HostPace()
    for number in range(limits.HOSTS + 1):
        assert pace.may_leave(out(host(number)), 1.0 + number)
    assert len(pace._hosts) == limits.HOSTS
