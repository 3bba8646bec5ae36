"""IPv6 of sandboxes at one switch that speak for each other, or listen."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from dns.message import from_wire

from broker.host.network.flowguard import dns_messages as dns
from broker.host.network.frameguard.packets import ACK, ICMP6, checksum, read
from broker.host.network.switch.switch_ports import PortRole
from tests.attack.test_switch_ports import A, B, Wire, asks, lan, mac, provided
from tests.broker.host.network import test_ipv6 as made

WWW = "2606:2800:220:1::34"
NET = "fd76:6974:7261:3::"
ALL_NODES = "ff02::1"
MULTICAST = bytes.fromhex("333300000001")


def at(last: int) -> str:
    return f"{NET}{last}"


def six(text: str) -> bytes:
    return IPv6Address(text).packed


def carded(frame: bytes, source: int, target: int | bytes) -> bytes:
    """A frame from one card to another."""
    to = target if isinstance(target, bytes) else mac(target)
    return to + mac(source) + frame[12:]


def ip(source: int, target: int, to: int | bytes = 0, **changes) -> bytes:
    where = {"sender": at(source), "receiver": at(target), **changes}
    return carded(made.tcp6(**where), source, to or target)


def solicit(source: int, asked: str, **changes) -> bytes:
    where = {"receiver": "ff02::1:ff00:2", "sender": at(source), "hops": 255, **changes}
    body = bytes(4) + six(asked) + b"\1\1" + mac(source)
    return carded(made.icmp6(135, body, **where), source, MULTICAST)


def advertise(source: int, target: str, receiver: int, **changes) -> bytes:
    where = {"receiver": at(receiver), "sender": at(source), "hops": 255, **changes}
    body = bytes(4) + six(target) + b"\2\1" + mac(source)
    return carded(made.icmp6(136, body, **where), source, receiver)


def test_members_reach_each_other():
    wire = lan()
    for frame in (
        ip(2, 3),
        ip(2, 3, flags=ACK, data=b"data"),
        carded(made.icmp6(128, sender=at(2), receiver=at(3)), 2, 3),
        carded(made.icmp6(2, sender=at(2), receiver=at(3)), 2, 3),
    ):
        assert wire.send(A, frame) == [(B, frame)]


@pytest.mark.parametrize("sender", [at(2), "fe80::5456:aff:fe00:302"])
def test_the_switch_answers_for_neighbours(sender):
    ((number, answer),) = lan().send(A, solicit(2, at(3), sender=sender))
    assert number == A
    assert answer[:12] == mac(2) + mac(3)
    packet = read(answer)
    assert (packet.protocol, packet.kind, answer[21]) == (ICMP6, 136, 255)
    assert (packet.sender, packet.receiver) == (six(at(3)), six(sender))
    assert packet.data == six(at(3)) + b"\2\1" + mac(3)
    body = answer[54:]
    assert checksum(answer[22:54] + len(body).to_bytes(4) + b"\0\0\0:" + body) == 0


@pytest.mark.parametrize(
    "frame",
    [
        solicit(2, at(9)),
        solicit(2, at(2)),
        solicit(2, at(3), sender="::"),
        solicit(2, at(3), sender=at(4)),
        solicit(2, WWW),
    ],
)
def test_a_member_learns_of_those_it_reaches_only(frame):
    assert lan().send(A, frame) == []


@pytest.mark.parametrize(
    "frame",
    [
        advertise(2, at(3), 4),  # "I am .3"
        advertise(2, at(2), 3),
        *(
            carded(made.icmp6(kind, sender=at(2), receiver=at(3), hops=255), 2, 3)
            for kind in (130, 131, 133, 134, 137, 143, 200)
        ),
        carded(made.icmp6(134, sender="fe80::1", receiver=ALL_NODES), 2, MULTICAST),
    ],
)
def test_the_link_tells_nothing_about_others(frame):
    """Attack: false neighbours, routers and redirects."""
    assert lan().send(A, frame) == []


@pytest.mark.parametrize(
    "frame",
    [
        ip(2, 3, sender=at(4)),
        ip(2, 3, sender=WWW),
        ip(2, 3, sender="::"),
        ip(2, 3, sender=f"{NET}1:2"),
        ip(2, 3, sender="::ffff:10.0.3.2"),
        carded(ip(2, 3), 4, 3),
    ],
)
def test_a_member_does_not_speak_for_another(frame):
    assert lan().send(A, frame) == []


@pytest.mark.parametrize(
    "frame",
    [
        ip(2, 3, to=4),
        ip(2, 3, to=MULTICAST),
        ip(2, 3, receiver=ALL_NODES),
        ip(2, 3, receiver=WWW),
        ip(2, 3)[:-1],
        ip(2, 3) + b"x",
        ip(2, 3)[:40],
        carded(made.frame6(44, bytes(40), sender=at(2), receiver=at(3)), 2, 3),
        carded(made.frame6(0, bytes(40), sender=at(2), receiver=at(3)), 2, 3),
        carded(made.frame6(43, bytes(40), sender=at(2), receiver=at(3)), 2, 3),
    ],
)
def test_odd_frames_reach_no_port(frame):
    assert lan().send(A, frame) == []


@pytest.mark.parametrize("asked", [b"", bytes([10, 0, 3, 1]), six(at(1))[:15]])
def test_a_question_for_half_a_neighbour_is_not_answered(asked):
    """Attack: a client's question without an address ended the switch for all."""
    frame = made.icmp6(135, bytes(4) + asked, receiver=at(1), sender=at(2), hops=255)
    assert provided().send(B, carded(frame, 2, MULTICAST)) == []


def test_neighbours_have_a_pace():
    wire = lan()
    assert sum(bool(wire.send(A, solicit(2, at(3)))) for _ in range(1000)) == 64


def test_a_client_reaches_everything_by_its_provider():
    wire = provided()
    out = ip(2, 1, receiver=WWW)
    assert wire.send(B, out) == [(A, out)]
    back = ip(1, 2, sender=WWW)
    assert wire.send(A, back) == [(B, back)]
    assert [n for n, _ in wire.send(B, solicit(2, at(1)))] == [B]


@pytest.mark.parametrize(
    "frame",
    [
        ip(2, 3),
        ip(2, 3, to=1),
        ip(2, 1, receiver=ALL_NODES),
        ip(2, 1, receiver="::1"),
        ip(2, 1, receiver="fe80::1"),
        ip(2, 1, receiver=WWW, sender=at(3)),
        solicit(2, at(3)),
        solicit(2, WWW),
    ],
)
def test_clients_do_not_reach_each_other(frame):
    assert provided().send(B, frame) == []


@pytest.mark.parametrize("sender", [at(3), "::1", "fe80::9", ALL_NODES])
def test_a_provider_does_not_speak_for_its_clients(sender):
    assert provided().send(A, ip(1, 2, sender=sender)) == []


def test_a_port_that_has_gone_has_no_address():
    wire = Wire(PortRole.PROVIDER, PortRole.CLIENT)
    wire.switch.leave(A)
    assert wire.send(B, ip(2, 1, receiver=WWW)) == []


def test_members_have_names():
    ((_, answer),) = lan().send(A, asks("box2", dns.AAAA))
    told = from_wire(read(answer).data)
    assert [one.address for one in told.answer[0]] == [at(3)]
