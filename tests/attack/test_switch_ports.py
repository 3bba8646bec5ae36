"""Sandboxes at one switch that speak for each other, or reach whom they should not."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from dns.message import from_wire, make_query

from broker.host.network.flowguard import dns_messages as dns
from broker.host.network.frameguard.packets import ICMP, read
from broker.host.network.switch.frames import LanSwitch, SwitchPort
from broker.host.network.switch.switch_ports import PortRole, mac_of
from tests.broker.host.network.test_flow_filter import frame, tcp, udp

A, B, C = 1, 2, 3
WWW = "93.184.216.34"
NET = "10.0.3"
BROADCAST = b"\xff" * 6


def at(last: int) -> str:
    return f"{NET}.{last}"


def packed(text: str) -> bytes:
    return IPv4Address(text).packed


def mac(last: int) -> bytes:
    return mac_of(packed(at(last)))


class Wire:
    """A switch whose ports have the addresses .1, .2 and so on, by their numbers."""

    def __init__(self, *roles: PortRole) -> None:
        self.out: list[tuple[int, bytes]] = []
        self.switch = LanSwitch(
            packed(at(0))[:3], lambda number, frame: self.out.append((number, frame))
        )
        for number, role in enumerate(roles, A):
            self.join(number, role)

    def join(
        self, number: int, role: PortRole, address: int | None = None
    ) -> int | None:
        last = number if address is None else address
        port = SwitchPort(number, packed(at(last)), role, f"box{number}")
        return self.switch.join(port)

    def send(
        self, number: int, data: bytes, now: float = 0.0
    ) -> list[tuple[int, bytes]]:
        self.out.clear()
        self.switch.take(number, data, now)
        return list(self.out)


def lan() -> Wire:
    """Members .2, .3 and .4, because .1 is the switch itself."""
    wire = Wire()
    for number in (A, B, C):
        wire.join(number, PortRole.MEMBER, number + 1)
    return wire


def ip(source: int, target: int, **changes) -> bytes:
    """A segment from .source to .target, from card to card."""
    where = {
        "sender": at(source),
        "receiver": at(target),
        "to": mac(target) + mac(source),
    }
    return tcp(**{**where, **changes})


def arp(source: int, asked: str, *, op=1, **told) -> bytes:
    hardware = told.get("mac", mac(source))
    speaks = packed(told.get("address", at(source)))
    body = struct.pack(">HHBBH", 1, 0x800, 6, 4, op) + hardware + speaks
    return BROADCAST + mac(source) + b"\x08\x06" + body + bytes(6) + packed(asked)


def test_members_reach_each_other():
    wire = lan()
    assert wire.send(A, ip(2, 3)) == [(B, ip(2, 3))]
    assert wire.send(B, ip(3, 2)) == [(A, ip(3, 2))]
    ((number, answer),) = wire.send(A, arp(2, at(3)))
    assert number == A
    assert answer[:12] == mac(2) + mac(3)
    assert answer[20:32] == b"\0\x02" + mac(3) + packed(at(3))


@pytest.mark.parametrize(
    "forged",
    [
        ip(2, 3, to=mac(3) + mac(4)),  # another member's card
        ip(2, 3, to=mac(3) + BROADCAST),
        ip(4, 3, to=mac(3) + mac(2)),  # another member's address
        ip(2, 3, sender=WWW),
        ip(2, 3, sender="0.0.0.0"),
        ip(2, 3, sender=at(1)),  # the name server's
    ],
)
def test_a_member_does_not_speak_for_another(forged):
    assert lan().send(A, forged) == []


@pytest.mark.parametrize(
    "told",
    [
        arp(2, at(3), op=2),  # an answer that nobody asked for
        arp(2, at(2), op=2),
        arp(2, at(3), address=at(4)),
        arp(2, at(3), mac=mac(4)),
        arp(2, at(3))[:41],
        arp(4, at(3)),
    ],
)
def test_arp_tells_nothing_about_others(told):
    assert lan().send(A, told) == []


def test_a_question_for_an_address_reaches_no_member():
    """Who is there is learnt by address, not by listening."""
    wire = lan()
    assert [number for number, _ in wire.send(A, arp(2, at(3)))] == [A]
    assert wire.send(A, arp(2, at(9))) == []
    assert wire.send(A, arp(2, at(2))) == []


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        bytes(13),
        ip(2, 3)[:30],
        ip(2, 3, first=0x46),
        ip(2, 3, first=0x65),
        ip(2, 3, size=19),
        ip(2, 3, size=2000),
        ip(2, 3, to=BROADCAST + mac(2)),
        ip(2, 3, to=mac(4) + mac(2)),  # another member's card
        ip(2, 3, receiver="255.255.255.255", to=BROADCAST + mac(2)),
        ip(2, 3, receiver="224.0.0.251"),
        ip(2, 3, receiver=at(255), to=BROADCAST + mac(2)),
        ip(2, 3, receiver=WWW),
        ip(2, 2),
        ip(2, 9),
        ip(2, 3)[:12] + b"\x81\x00\0\x05" + ip(2, 3)[12:],  # a VLAN tag
        ip(2, 3)[:12] + b"\x86\xdd" + bytes(60),
    ],
)
def test_odd_frames_reach_no_port(odd):
    assert lan().send(A, odd) == []


def test_bytes_after_a_packet_are_not_carried():
    wire = lan()
    assert wire.send(A, ip(2, 3) + b"secret") == [(B, ip(2, 3))]


def dhcp() -> bytes:
    where = {
        "sender": "0.0.0.0",
        "receiver": "255.255.255.255",
        "to": BROADCAST + mac(2),
    }
    return udp(bytes(300), (68, 67), **where)


def test_dhcp_takes_no_addresses_of_others():
    assert lan().send(A, dhcp()) == []


def provided() -> Wire:
    return Wire(PortRole.PROVIDER, PortRole.CLIENT, PortRole.CLIENT)


def test_a_client_reaches_everything_by_its_provider():
    wire = provided()
    out = ip(2, 1, receiver=WWW)
    assert wire.send(B, out) == [(A, out)]
    back = ip(1, 2, sender=WWW)
    assert wire.send(A, back) == [(B, back)]
    assert wire.send(B, ip(2, 1)) == [(A, ip(2, 1))]
    assert wire.send(A, ip(1, 2)) == [(B, ip(1, 2))]


@pytest.mark.parametrize(
    "attempt",
    [
        ip(2, 3),
        ip(2, 3, to=mac(1) + mac(2)),  # by the provider's card
        ip(2, 1, receiver=at(255)),
        ip(2, 1, receiver="127.0.0.1"),
        ip(2, 1, receiver="224.0.0.1"),
        ip(2, 1, receiver=WWW, sender=at(3)),
        ip(2, 1, receiver=WWW, sender=WWW),
        arp(2, at(3)),
        arp(2, WWW),
    ],
)
def test_clients_do_not_reach_each_other(attempt):
    assert provided().send(B, attempt) == []


@pytest.mark.parametrize(
    "attempt",
    [
        ip(1, 2, sender=at(3)),
        ip(1, 2, sender="127.0.0.1"),
        ip(1, 2, sender="224.0.0.1"),
        ip(1, 2, receiver=WWW),
        ip(1, 3, to=mac(2) + mac(1)),
    ],
)
def test_a_provider_does_not_speak_for_its_clients(attempt):
    assert provided().send(A, attempt) == []


def test_without_its_provider_a_client_reaches_nothing():
    wire = provided()
    wire.switch.leave(A)
    assert wire.send(B, ip(2, 1, receiver=WWW)) == []
    assert wire.send(B, arp(2, at(1))) == []
    wire.join(A, PortRole.PROVIDER)
    assert wire.send(B, ip(2, 1, receiver=WWW)) != []


def test_a_port_whose_address_was_given_again_is_gone():
    wire = lan()
    assert wire.join(9, PortRole.MEMBER, 2) == A
    assert wire.send(A, ip(2, 3)) == []
    assert wire.send(B, ip(3, 2)) == [(9, ip(3, 2))]
    wire.switch.leave(A)  # its end is noticed late
    assert wire.send(B, ip(3, 2)) == [(9, ip(3, 2))]


def test_answers_have_a_pace():
    wire = lan()
    answered = sum(bool(wire.send(A, arp(2, at(3)))) for _ in range(1000))
    assert answered == 64
    assert wire.send(B, arp(3, at(2))) != [], "another member is answered"
    assert wire.send(A, arp(2, at(3)), now=1.0) != []


def asks(name: str, kind: int = dns.A) -> bytes:
    data = make_query(name, kind).to_wire()
    return udp(data, sender=at(2), receiver=at(1), to=mac(1) + mac(2))


@pytest.mark.parametrize("name", ["box2", "box2.internal", "BOX2"])
def test_members_have_names(name):
    wire = lan()
    ((number, answer),) = wire.send(A, asks(name))
    assert number == A
    told = from_wire(read(answer).data)
    assert told.rcode() == dns.NOERROR
    assert str(told.question[0].name) == f"{name}.", "as it was written"
    assert [one.address for one in told.answer[0]] == [at(3)]


@pytest.mark.parametrize("name", ["www.example.org", "box2.example.org", "internal"])
def test_other_names_do_not_exist(name):
    ((_, answer),) = lan().send(A, asks(name))
    assert read(answer).data[3] & 15 == dns.NXDOMAIN


def test_members_have_no_other_records():
    wire = lan()
    ((_, answer),) = wire.send(A, asks("box2", 16))
    assert read(answer).data[3:8] == b"\x80\0\1\0\0"


def test_other_questions_at_a_switch_have_an_error():
    for code, change in (
        (dns.REFUSED, lambda q: setattr(q.question[0], "rdclass", 3)),
        (dns.NOTIMP, lambda q: q.set_opcode(2)),
        (dns.FORMERR, lambda q: q.question.clear()),
    ):
        query = make_query("box2", dns.A)
        change(query)
        data = query.to_wire()
        ((_, answer),) = lan().send(
            A, udp(data, sender=at(2), receiver=at(1), to=mac(1) + mac(2))
        )
        assert read(answer).data[3] & 15 == code


@pytest.mark.parametrize(
    "odd",
    [
        udp(b"x", sender=at(2), receiver=at(1), to=mac(1) + mac(2)),
        udp(
            make_query("box2", dns.A).to_wire(),
            (9, 54),
            sender=at(2),
            receiver=at(1),
            to=mac(1) + mac(2),
        ),
        frame(ICMP, bytes(16), sender=at(2), receiver=at(1), to=mac(1) + mac(2)),
        ip(2, 1),
    ],
    # A question has a number by chance, and a test's name is the same in each worker.
    ids=["text", "another port", "ICMP", "TCP"],
)
def test_the_name_server_answers_questions_only(odd):
    assert lan().send(A, odd) == []


def test_names_have_a_pace():
    wire = lan()
    answered = sum(bool(wire.send(A, asks("box2"))) for _ in range(1000))
    assert answered == 64
