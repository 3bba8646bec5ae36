"""Questions for addresses by TCP: a guest's kernel on one side, as a conversation."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.limits import network as limits
from broker.host.network.flowguard import dns_messages as dns
from broker.host.network.frameguard import packets
from broker.host.network.frameguard.packets import ACK, FIN, RST, SYN
from tests.broker.host.network.test_flow_filter import (
    GUEST,
    RESOLVER,
    WWW,
    Talk,
    packed,
    question,
    record,
    tcp,
    wire,
)

TXT = 16
LONG = b"".join(
    record("www.test", TXT, bytes([250]) + bytes([65 + n]) * 250) for n in range(12)
)


def message(name="www.test", kind=dns.A):
    data = packets.read(question(name, kind)).data
    return len(data).to_bytes(2) + data


class Client:
    """A connection of the guest to its name server."""

    def __init__(self, talk, port=40000):
        self.talk, self.port = talk, port
        self.sequence, self.taken = 5000, 0
        self.got = b""

    def send(self, flags=ACK, data=b"", at=None):
        """Send a segment, and take the answer; returns it and what else went."""
        ports = (self.port, 53)
        sequence = self.sequence if at is None else at
        sent = self.talk.send(
            tcp(flags, data, sequence, self.taken, ports, receiver=RESOLVER)
        )
        if at is None:
            self.sequence += len(data) + bool(flags & (SYN | FIN))
        return self.take(sent["guest"]), sent["resolver"]

    def take(self, frames):
        found = [packets.read(frame) for frame in frames]
        for segment in found:
            assert len(segment.frame) <= 14 + 1500
            assert packets.checksum(pseudo(segment)) == 0
            if segment.flags & SYN:
                self.taken = segment.sequence + 1
            elif segment.sequence == self.taken & 0xFFFFFFFF:
                self.got += segment.data
                self.taken += len(segment.data) + bool(segment.flags & FIN)
        return found

    def open(self):
        ((answer,), _) = self.send(SYN)
        assert answer.flags == SYN | ACK
        assert answer.acknowledged == self.sequence
        self.send()
        return self

    def answered(self, answer):
        self.talk.filter.answered(answer, self.talk.now)
        return self.take(self.talk.pump()["guest"])

    @property
    def message(self):
        size = int.from_bytes(self.got[:2])
        assert len(self.got) == size + 2
        return self.got[2:]


def pseudo(segment):
    body = segment.frame[34 : segment.end]
    return segment.sender + segment.receiver + struct.pack(">HI", 6, len(body)) + body


def told(asked, records, count, kind=dns.A):
    head = asked[:2] + struct.pack(">5H", 0x8180, 1, count, 0, 0)
    return head + wire("www.test") + struct.pack(">HH", kind, 1) + records


def www():
    return Talk(("www.test", "dns", None), ("www.test", "tcp", 443))


def test_an_address_that_was_asked_for_by_tcp_is_the_names():
    client = Client(www()).open()
    _, (asked,) = client.send(ACK, message())
    client.answered(told(asked, record("www.test", dns.A, packed(WWW)), 1))
    assert client.message[:2] == b"\0M"  # 77
    assert client.message.endswith(packed(WWW))
    client.send(FIN | ACK)
    assert client.send()[0] == []  # it has our FIN
    assert client.send()[0][0].flags & RST, "it is over"
    assert client.talk.send(tcp())["passt"]


def test_an_answer_that_is_cut_is_whole_by_tcp():
    talk = www()
    (asked,) = talk.send(question("www.test", TXT))["resolver"]
    talk.filter.answered(told(asked, LONG, 12, TXT), talk.now)
    (cut,) = talk.pump()["guest"]
    assert packets.read(cut).data[2] & 0x02  # TC
    client = Client(talk).open()
    _, (asked,) = client.send(ACK, message(kind=TXT))
    client.answered(told(asked, LONG, 12, TXT))
    assert client.message[12:] == told(asked, LONG, 12, TXT)[12:]


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_question_may_be_in_pieces(step):
    client = Client(www()).open()
    data = message() * 2
    asked = []
    for at in range(0, len(data), step):
        asked += client.send(ACK, data[at : at + step])[1]
    assert len(asked) == 2
    for one in asked:
        client.answered(told(one, b"", 0))
    assert client.got[:2] == client.got[len(client.got) // 2 :][:2]


def test_what_is_out_of_order_is_sent_again():
    client = Client(www()).open()
    data = message()
    assert client.send(ACK, data[9:], at=client.sequence + 9)[1] == []
    assert client.send(ACK, data)[1] != []
    assert client.send(ACK, data, at=client.sequence - len(data))[1] == []


def test_a_lost_answer_is_sent_again_and_not_for_ever():
    client = Client(www()).open()
    _, (asked,) = client.send(ACK, message())
    talk = client.talk
    talk.filter.answered(told(asked, record("www.test", dns.A, packed(WWW)), 1), 0)
    first = talk.pump()["guest"]
    for _ in range(limits.TRIES):
        talk.filter.tick(talk.now)
        assert talk.pump()["guest"] == first
    talk.filter.tick(talk.now)
    (last,) = map(packets.read, talk.pump()["guest"])
    assert last.flags & RST
    assert client.send()[0][0].flags & RST


def unacknowledged(client):
    """As many long answers as there may be questions; the guest has them and is silent."""
    taken, found = client.taken, []
    _, asked = client.send(ACK, message(kind=TXT) * limits.DNS_STREAMS)
    for one in asked:
        found += client.answered(told(one, LONG, 12, TXT))
    client.taken = taken
    return found


def test_answers_without_an_acknowledgement_are_bounded():
    """Attack: questions without an end, each with a long answer that is kept."""
    client = Client(www()).open()
    kept = 0
    for _ in range(9):
        found = unacknowledged(client)
        kept += sum(len(one.data) for one in found)
        if any(one.flags & RST for one in found):
            break
    else:
        pytest.fail("it keeps all answers")
    assert kept <= 2 * limits.STREAM_ANSWER_BYTES + 4
    assert client.send()[0][0].flags & RST


def test_an_acknowledged_byte_keeps_no_answer():
    """Attack: one byte is acknowledged each second, and all is sent again."""
    client = Client(www()).open()
    unacknowledged(client)
    talk = client.talk
    for _ in range(2 * limits.TRIES):
        talk.now += 1
        talk.filter.tick(talk.now)
        sent = [packets.read(one) for one in talk.pump()["guest"]]
        assert sum(len(one.data) for one in sent) <= 20000
        if sent and sent[-1].flags & RST:
            break
        client.taken += 1
        client.send()
    else:
        pytest.fail("did not finish a message in time")


def test_a_guest_that_lost_all_but_the_first_gets_the_rest():
    client = Client(www()).open()
    before, got = client.taken, len(client.got)
    unacknowledged(client)
    whole, client.got = client.got[got:], b""
    assert client.taken == before
    for _ in range(3 * limits.TRIES):
        client.talk.now += 1
        client.talk.filter.tick(client.talk.now)
        client.take(client.talk.pump()["guest"])
        client.send()
        if len(client.got) == len(whole):
            break
    assert client.got == whole


def test_names_without_a_rule_are_refused():
    client = Client(Talk()).open()
    assert client.send(ACK, message())[1] == []
    assert client.message[3] & 15 == dns.REFUSED


@pytest.mark.parametrize(
    "first", [b"\2\1" + b"x" * 600, message() * (limits.DNS_STREAMS + 1)]
)
def test_long_and_many_questions_end_the_connection(first):
    client = Client(Talk(("www.test", "dns", None))).open()
    found, asked = client.send(ACK, first)
    assert found[-1].flags & RST
    assert len(asked) <= limits.DNS_STREAMS


def test_connections_are_few_and_end():
    talk = www()
    clients = [Client(talk, 40000 + n).open() for n in range(limits.DNS_STREAMS)]
    ((ended, answer), _) = Client(talk, 50000).send(SYN)
    assert (ended.target, ended.flags & RST) == (40000, RST)
    assert answer.flags == SYN | ACK
    assert clients[0].send()[0][0].flags & RST
    talk.filter.tick(talk.now + limits.LOOKUP_SECONDS + 1)
    assert all(packets.read(f).flags & RST for f in talk.pump()["guest"])
    assert clients[5].send()[0][0].flags & RST


def test_data_before_the_handshake_is_not_read():
    client = Client(www())
    client.send(SYN)
    client.taken += 9  # a guess
    assert client.send(ACK, message())[1] == []


def test_questions_without_an_answer_do_not_end_the_connection():
    """A name server loses a datagram now and then, and a guest keeps its connection."""
    client = Client(www()).open()
    for _ in range(limits.DNS_STREAMS):
        assert client.send(ACK, message())[1]
        for _ in range(int(limits.LOOKUP_SECONDS)):
            client.talk.now += 1
            client.talk.filter.tick(client.talk.now)
            client.take(client.talk.pump()["guest"])
            client.send()
    assert client.got[5] & 15 == dns.SERVFAIL
    client.got = b""
    _, (asked,) = client.send(ACK, message())
    client.answered(told(asked, record("www.test", dns.A, packed(WWW)), 1))
    assert client.message.endswith(packed(WWW))


SEGMENTS = st.tuples(
    st.integers(0, 63),
    st.integers(-3, 3),
    st.integers(-3, 3),
    st.sampled_from([b"", b"\0", message()[:9], message()[9:], message(), b"\xff" * 9]),
    st.integers(40000, 40002),
)


@given(st.lists(SEGMENTS, max_size=30))
def test_no_segments_confuse_it(segments):
    talk = www()
    clients = {port: Client(talk, port) for port in range(40000, 40003)}
    for flags, at, taken, data, port in segments:
        client = clients[port]
        client.taken = client.taken + taken & 0xFFFFFFFF
        for asked in client.send(flags, data, client.sequence + at)[1]:
            talk.filter.answered(told(asked, LONG, 12), talk.now)
        talk.filter.tick(talk.now)
        talk.pump()
        client.sequence += len(data)


def test_the_guests_own_address_is_the_only_one():
    frame = tcp(SYN, ports=(40000, 53), receiver=RESOLVER, sender=WWW)
    assert Talk().send(frame)["guest"] == []
    assert packets.read(frame).receiver != packed(GUEST)
