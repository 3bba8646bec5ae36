"""Whole connections of aioquic through the filter: RFC 9000, 9001, 9368 and 9369."""

from __future__ import annotations

import pytest

from tests.broker.host.network.test_quic_hello import come, flow, send
from tests.kit.quic import V1, V2, QuicClient, QuicServer


def carried(client, server, talk):
    """Have both sides talk by way of the filter until they are silent.

    Returns the datagrams of the client, all of which have passed.
    """
    now, waiting, passed = 1.0, [], []
    waiting = client.begin(now)
    for _ in range(30):
        if not waiting:
            break
        answers = []
        for datagram in waiting:
            sent = talk.send(send(datagram))["passt"]
            assert talk.reasons == []
            for frame in sent:
                data = frame[14 + 20 + 8 :]
                passed.append(data)
                answers += server.take(data, now)
        waiting = []
        for answer in answers:
            (frame,) = talk.come(come(answer))["guest"]
            waiting += client.take(frame[14 + 20 + 8 :], now)
        now += 0.01
    assert not waiting
    return passed


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"server": {"retries": True}},
        {"both": {"supported_versions": [V2]}, "client": {"original_version": V2}},
        {
            "both": {"supported_versions": [V2, V1]},
            "client": {"original_version": V1},
        },
        {
            "server": {"supported_versions": [V2]},
            "client": {"original_version": V1, "supported_versions": [V2, V1]},
        },
    ],
    ids=["plain", "retry", "version 2", "continued in 2", "begun again in 2"],
)
def test_a_connection_is_carried(more):
    both = more.get("both", {})
    server = QuicServer(**both, **more.get("server", {}))
    client = QuicClient(**both, **more.get("client", {}))
    client.ask(b"hello")
    passed = carried(client, server, flow())
    assert (server.got, client.got) == (b"hello", b"HELLO")
    assert len(passed) >= 2


def test_early_data_is_carried():
    """Its packets are coalesced with the hello, and go to the server's identifier later."""
    talk, tickets = flow(), {}
    first = QuicClient()
    first.ask(b"hello")
    carried(first, QuicServer(tickets=tickets), talk)
    assert first.tickets
    again = QuicClient(session_ticket=first.tickets[0])
    server = QuicServer(tickets=tickets)
    again.ask(b"early")
    passed = carried(again, server, flow())
    assert again.connection.tls.early_data_accepted
    assert (server.got, again.got) == (b"early", b"EARLY")
    assert passed


def test_a_connection_to_another_name_is_not():
    talk, client = flow(), QuicClient(name="evil.test")
    (datagram, *_) = client.begin(1.0)
    assert talk.send(send(datagram))["passt"] == []
    assert talk.reasons == ["its server name did not resolve to its address"]
