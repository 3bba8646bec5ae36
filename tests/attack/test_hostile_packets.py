"""What an evil name server and an odd guest send through the flow filter.

Beside ``tests/broker/host/network/test_flow_filter.py``, which has rebinding, circles of
aliases, 4,000 answers, times to live, overlapping segments and hellos in pieces;
``test_dns_streams.py`` (answers by TCP), ``test_ipv6.py`` (ARP and neighbours that speak
for others) and ``test_switch_ports.py`` (the same between sandboxes).
"""

from __future__ import annotations

import select
import struct
from itertools import pairwise

import pytest

from broker.core.limits import network as limits
from broker.core.streams import network_flows as m
from broker.host.network.flowguard import dns_messages as dns
from broker.host.network.flowguard.rules import QemuFlowGuard
from broker.host.network.frameguard import packets
from broker.host.network.frameguard.veth import LENGTH, take_frames
from tests.broker.host.network.test_flow_filter import (
    ACK,
    EVIL,
    MAC,
    RESOLVER,
    SYN,
    WWW,
    Talk,
    back,
    hello,
    is_reset,
    packed,
    question,
    record,
    tcp,
    udp,
    wire,
)
from tests.broker.host.network.test_flow_guard import guarding

GSO_DATA = 65535 - 40
"""Bytes that a segment has at most before a card cuts it (GSO)."""


# -- answers -----------------------------------------------------------------------


@pytest.mark.parametrize(("links", "reached"), [(15, True), (16, False), (400, False)])
def test_a_long_chain_of_aliases_leads_nowhere(links, reached):
    talk = Talk(("www.test", "*"))
    names = ["www.test", *(f"a{n}.test" for n in range(links))]
    records = b"".join(
        record(one, dns.CNAME, wire(other)) for one, other in pairwise(names)
    )
    records += record(names[-1], dns.A, packed(WWW))
    reply = talk.resolve("www.test", records=records, count=links + 1)
    assert (packed(WWW) in reply) == reached
    assert bool(talk.send(tcp())["passt"]) == reached


@pytest.mark.parametrize("ttl", [0, 1 << 31, 0xFFFFFFFF])
def test_a_time_to_live_is_neither_endless_nor_in_the_past(ttl):
    """RFC 2181: one with the highest bit is 0."""
    talk = Talk(("www.test", "*"))
    talk.resolve("www.test", WWW, ttl=ttl)
    assert talk.send(tcp())["passt"]
    talk.now += limits.BINDING_SECONDS[0] + 1
    assert talk.send(tcp(ports=(40001, 443)))["passt"] == []


def test_the_case_of_a_name_changes_nothing():
    """A guest may write it as it likes, and a name server in another way (0x20)."""
    talk = Talk(("www.test", "*"))
    asked = question("wWw.TeSt")
    (sent,) = talk.send(asked)["resolver"]
    assert wire("www.test") in sent
    head = sent[:2] + struct.pack(">5H", 0x8180, 1, 2, 0, 0)
    body = wire("WWW.test") + struct.pack(">HH", dns.A, 1)
    body += record("wwW.TEST", dns.CNAME, wire("CDN.Test"))
    talk.filter.answered(head + body + record("cdn.test", 1, packed(WWW)), talk.now)
    (reply,) = talk.pump()["guest"]
    assert wire("wWw.TeSt") in packets.read(reply).data
    assert talk.send(tcp())["passt"]
    talk.send(tcp(ACK, hello("www.test"), seq=1001, ack=5))
    assert talk.reasons == []


def test_a_truncated_answer_has_its_whole_records_only():
    """Cut at each byte, and without the bit that says so."""
    addresses = [WWW, EVIL]
    records = b"".join(record("www.test", dns.A, packed(one)) for one in addresses)
    found = set()
    for cut in range(len(records) + 1):
        talk = Talk(("www.test", "*"))
        (asked,) = talk.send(question("www.test"))["resolver"]
        head = asked[:2] + struct.pack(">5H", 0x8180, 1, 2, 0, 0)
        answer = head + wire("www.test") + struct.pack(">HH", dns.A, 1)
        talk.filter.answered((answer + records)[: len(answer) + cut], talk.now)
        talk.pump()
        opened = [bool(talk.send(tcp(receiver=one))["passt"]) for one in addresses]
        size = len(record("www.test", dns.A, packed(WWW)))
        whole = [cut >= size, cut >= 2 * size]
        assert opened == whole
        found.add(tuple(opened))
    assert found == {(False, False), (True, False), (True, True)}


# -- packets -----------------------------------------------------------------------

DATA = hello("www.test")
NEXT = {"seq": 1001, "ack": 5}


@pytest.mark.parametrize(
    "odd",
    [
        tcp(ACK, DATA, fragment=0x2000, **NEXT),
        tcp(ACK, DATA, fragment=0x0001, **NEXT),
        tcp(ACK, DATA, first=0x46, **NEXT),
        tcp(ACK, DATA, first=0x44, **NEXT),
        tcp(ACK, DATA, size=30, **NEXT),
        tcp(ACK, DATA, size=0, **NEXT),
        tcp(ACK, DATA, size=0xFFFF, **NEXT),
        tcp(ACK, DATA, sender="10.0.2.16", **NEXT),
        MAC + b"\x81\x00\x00\x01\x08\x00" + tcp(ACK, DATA, **NEXT)[14:],
        MAC + b"\x88\xa8\x00\x01\x81\x00\x00\x01\x08\x00" + tcp(ACK, DATA, **NEXT)[14:],
        MAC + b"\x86\xdd" + tcp(ACK, DATA, **NEXT)[14:],
    ],
)
def test_an_open_flow_carries_nothing_odd(odd):
    """Before its hello was looked at, and after that."""
    talk = Talk(("www.test", "*"))
    talk.connect("www.test")
    assert talk.send(odd)["passt"] == []
    good = tcp(ACK, DATA, **NEXT)
    assert talk.send(good)["passt"] == [good]
    talk.come(
        tcp(
            ACK,
            b"",
            5,
            1001 + len(DATA),
            (443, 40000),
            sender=WWW,
            receiver="10.0.2.15",
        )
    )
    assert talk.send(odd)["passt"] == []
    assert talk.reasons == []


@pytest.mark.parametrize("name", ["www.test", "evil.test"])
def test_a_hello_is_read_in_a_long_segment(name):
    """As a guest sends it whose card cuts segments (GSO), with its first data."""
    talk = Talk(("www.test", "*"))
    talk.connect("www.test")
    talk.come(back(SYN | ACK, seq=1))
    early = b"\x17\3\3" + (1 << 14).to_bytes(2) + bytes(1 << 14)
    data = hello(name) + early
    sent = talk.send(tcp(ACK, data, **NEXT))["passt"]
    if name == "www.test":
        assert sent == [tcp(ACK, data, **NEXT)]
        talk.come(back(data=b"\x15\3\3\0\2\1\0", seq=2, ack=1001 + len(data)))
        more = tcp(ACK, bytes(GSO_DATA), seq=1001 + len(data), ack=5)
        assert len(more) == 65535 + 14
        assert talk.send(more)["passt"] == [more]
    else:
        assert [is_reset(one) for one in sent] == [True]


def test_a_guests_frame_of_64_kib_crosses_whole():
    """In the process: from QEMU's stream to passt's, and back."""
    with guarding(QemuFlowGuard) as (guard, _, qemu):
        passt = guard.far_passt
        guard.flows.outward(tcp(), 1.0)
        guard.flows.decided(m.FlowAnswer(1, allowed=True), 1.0)
        guard._flush_flows()
        assert take_frames(bytearray(passt.recv(1000))) == [tcp()]
        frame = tcp(ACK, bytes(GSO_DATA), seq=1001, ack=1)
        came = tcp(
            ACK,
            bytes(GSO_DATA),
            1,
            1001,
            (443, 40000),
            sender=WWW,
            receiver="10.0.2.15",
        )
        for near, far, sent in ((qemu, passt, frame), (passt, qemu, came)):
            left, got = memoryview(LENGTH.pack(len(sent)) + sent), bytearray()
            near.settimeout(0)
            far.settimeout(0)
            whole: list[bytes] = []
            while not whole:
                if left:
                    left = left[near.send(left[:20_000]) :]
                for side in guard._sides:
                    happened = select.poll()
                    happened.register(side, guard._poll_events(side))
                    for _, events in happened.poll(0):
                        assert guard._serve(side, events)
                try:
                    got += far.recv(1 << 17)
                except BlockingIOError:
                    continue
                whole = take_frames(got)
            assert whole == [sent]


@pytest.mark.parametrize("leases", [False, True])
def test_a_guest_gets_and_gives_no_address_but_its_own(leases):
    """Requests by many cards take few leases of passt, and a guest leases none out."""
    talk = Talk(leases=leases)
    sent = []
    for number in range(500):
        card = b"\x02\0\0\0" + number.to_bytes(2)
        body = b"\1\1\6\0" + bytes(24) + card + bytes(206)
        sent += talk.send(
            udp(
                body,
                (68, 67),
                sender="0.0.0.0",
                receiver="255.255.255.255",
                to=MAC[:6] + card,
            )
        )["passt"]
        offer = udp(
            b"\2" + body[1:], (67, 68), sender=RESOLVER, receiver="255.255.255.255"
        )
        assert talk.send(offer)["passt"] == []
    assert len(sent) == (limits.LEASES_BURST if leases else 0)
