"""A guest with many addresses of IPv6: each connection is looked at.

All 64 bits of its network are the guest's.  passt tells connections apart by the guest's
address, too, since 2024, and did not before.  If the flow filter took packets of two
addresses for one flow, a second connection would have the permission and the hello of
the first; if it took them for two, an older passt would put the parts together that
each alone is no hello to another server.
"""

from __future__ import annotations

import pytest

from broker.host.network.addresses import GUEST6
from broker.host.network.frameguard import packets
from broker.host.network.frameguard.packets import ACK, SYN
from tests.broker.host.network.test_flow_filter import hello, is_reset
from tests.broker.host.network.test_ipv6 import WWW6, Talk6, tcp6, udp6

OTHER6 = GUEST6.rpartition(":")[0] + ":77"
THERE = {"ports": (443, 40000), "sender": WWW6}


@pytest.fixture
def talk():
    made = Talk6(("www.test", "*"))
    made.resolve6("www.test", WWW6)
    return made


def senders(frames):
    return [(is_reset(one), packets.read(one).sender) for one in frames]


def test_the_first_packet_of_another_address_is_not_the_first_ones_again(talk):
    (first,) = talk.send(tcp6(SYN))["passt"]
    old, new = talk.send(tcp6(SYN, sender=OTHER6))["passt"]
    assert senders([old, new]) == [
        (True, packets.read(first).sender),
        (False, packets.read(new).sender),
    ]
    assert talk.reasons == ["its ports were reused"]
    talk.come(tcp6(SYN | ACK, seq=1, ack=1001, receiver=OTHER6, **THERE))
    other = talk.send(tcp6(ACK, hello("evil.test"), 1001, 2, sender=OTHER6))["passt"]
    assert [is_reset(one) for one in other] == [True]
    assert "resolve to its address" in talk.reasons[-1]


def open_flow(talk):
    talk.send(tcp6(SYN))
    talk.come(tcp6(SYN | ACK, seq=1, ack=1001, receiver=GUEST6, **THERE))
    data = hello("www.test")
    talk.send(tcp6(ACK, data, 1001, 2))
    alert = b"\x15\3\3\0\2\1\0"
    talk.come(tcp6(ACK, alert, 2, 1001 + len(data), receiver=GUEST6, **THERE))
    return 1001 + len(data)


def test_a_later_segment_of_another_address_is_of_no_flow(talk):
    at = open_flow(talk)
    own = tcp6(ACK, b"own", at, 9)
    assert talk.send(own)["passt"] == [own]
    sent = talk.send(tcp6(ACK, b"other", at + 3, 9, sender=OTHER6))
    assert [is_reset(one) for one in sent["passt"]] == [True]
    assert [is_reset(one) for one in sent["guest"]] == [True]


def test_two_addresses_put_no_hello_together(talk):
    """An older passt would: it has one connection."""
    data = hello("evil.test")
    talk.send(tcp6(SYN))
    half = tcp6(ACK, data[:50], 1001, 2)
    assert talk.send(half)["passt"] == [half]
    sent = talk.send(tcp6(SYN, seq=1050, sender=OTHER6))["passt"]
    assert is_reset(sent[0]), "of the connection with the half"


def test_datagrams_of_another_address_are_a_flow_of_their_own(talk):
    ports = (40000, 9)
    for sender in (GUEST6, OTHER6):
        assert talk.send(udp6(ports=ports, sender=sender))["passt"]
    assert talk.reasons == ["its ports were reused"]
