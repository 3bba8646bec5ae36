"""A guest of ``network = "rules"`` whose frames are as long as its device takes them.

A VMM's TAP device carries frames of 64 KiB (virtio's offloads).  The flow filter keeps
packets: that wait for an answer of the viewer, that hold a part of a hello, the last one
of each connection.  A guest must not have it keep that many long ones.
"""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from broker.core.limits import network as limits
from broker.host.network.flowguard.flows import WAITING_BYTES
from broker.host.network.flowguard.quic_hello import (
    MAX_HELD,
    MAX_HELD_BYTES,
    QuicHellos,
    QuicIdentifiers,
)
from broker.host.network.flowguard.tls_hello import MAX_HELLO_STREAM
from broker.host.network.frameguard.packets import ACK, SYN
from tests.broker.host.network.test_flow_filter import (
    RESOLVER,
    WWW,
    Talk,
    question,
    tcp,
    udp,
)
from tests.broker.host.network.test_quic_hello import crypto, initial, message

LONG = 60_000
FLOWS = 32


def silent(talk):
    """Have no viewer answer any more; returns a sender of frames."""

    def send(untrusted_frame):
        talk.now += 1 / limits.FLOWS_PER_SECOND
        talk.filter.outward(untrusted_frame, talk.now)
        return talk.filter.to_passt

    return send


def other(number):
    return f"93.184.217.{number}"


def test_long_first_datagrams_do_not_all_wait_for_an_answer():
    send = silent(Talk())
    data = bytes(LONG)
    with kept() as bytes_kept:
        for number in range(FLOWS):
            for port in range(limits.WAITING):
                send(udp(data, (1000 + port, 4000), receiver=other(number)))
    assert bytes_kept() < FLOWS * 2 * WAITING_BYTES


def test_what_follows_a_first_packet_in_its_frame_is_not_kept():
    send = silent(Talk())
    with kept() as bytes_kept:
        for number in range(FLOWS):
            for port in range(limits.WAITING):
                send(
                    tcp(ports=(1000 + port, 443), receiver=other(number)) + bytes(LONG)
                )
    assert bytes_kept() < FLOWS * WAITING_BYTES


def test_what_follows_a_packet_in_its_frame_does_not_reach_passt():
    talk = Talk((WWW, "*"))
    assert talk.send(udp(b"data", (4000, 4000)) + b"more")["passt"] == [
        udp(b"data", (4000, 4000))
    ]


def test_long_datagrams_with_a_part_of_a_hello_are_not_all_held():
    talk = Talk(("www.test", "*"))
    talk.resolve("www.test", WWW)
    whole = message("www.test")
    with kept() as bytes_kept:
        for port in range(FLOWS):
            for number in range(MAX_HELD):
                begun = port.to_bytes(8)
                part = initial(crypto(whole[:-1]), begun, count=number) + bytes(LONG)
                assert talk.send(udp(part, (1000 + port, 443)))["passt"] == []
    assert bytes_kept() < FLOWS * 2 * MAX_HELD_BYTES


def test_few_short_datagrams_are_held():
    quic = QuicHellos(QuicIdentifiers())
    for _ in range(100):
        quic.hold(bytes(64))
    assert len(quic.held) == MAX_HELD


def test_the_last_segment_of_a_connection_is_not_kept_whole():
    talk = Talk((WWW, "*"))
    with kept() as bytes_kept:
        for port in range(FLOWS):
            ports = (1000 + port, 443)
            talk.send(tcp(ports=ports))
            segment = tcp(ACK, bytes(LONG), 1001, 1, ports)
            assert talk.send(segment)["passt"] == [segment]
    assert bytes_kept() < FLOWS * WAITING_BYTES


def test_the_reset_of_a_long_segment_is_of_its_end():
    """passt takes a reset only at the number that it expects."""
    talk = Talk((WWW, "*"))
    talk.send(tcp())
    talk.send(tcp(ACK, bytes(LONG), 1001, 1))
    talk.filter.lost()
    (reset,) = talk.filter.to_passt
    assert int.from_bytes(reset[38:42]) == 1001 + LONG


def test_data_behind_the_first_bytes_is_not_all_kept():
    talk = Talk(("www.test", "*"))
    talk.resolve("www.test", WWW)
    data = b"SSH-2.0" + bytes(LONG)
    with kept() as bytes_kept:
        for port in range(FLOWS):
            ports = (1000 + port, 443)
            talk.send(tcp(SYN, ports=ports))
            segment = tcp(ACK, data, 1001, 1, ports)
            assert talk.send(segment)["passt"] == [segment]
    assert bytes_kept() < FLOWS * 1.5 * MAX_HELLO_STREAM


@pytest.mark.parametrize("answers", [True, False])
def test_long_questions_for_names_are_not_kept(answers):
    talk = Talk(*([("www.test", "dns", None)] if answers else []))
    send = talk.send if answers else silent(talk)
    asked = question("www.test")[42:]
    with kept() as bytes_kept:
        for port in range(limits.WAITING):
            send(udp(asked + bytes(LONG), (1000 + port, 53), receiver=RESOLVER))
    assert bytes_kept() < LONG


class kept:  # noqa: N801 -- as contextlib's
    """How many bytes are kept of allocations within."""

    def __enter__(self):
        gc.collect()
        tracemalloc.start()
        return lambda: self.bytes

    def __exit__(self, *_):
        gc.collect()
        self.bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
