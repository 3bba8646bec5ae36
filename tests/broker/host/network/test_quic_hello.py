"""Names in the first packets of QUIC, and what does not pass by them."""

from __future__ import annotations

import struct
from functools import partial

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.streams import network_flows as m
from broker.host.network.flowguard import quic_hello
from broker.host.network.flowguard.quic_hello import (
    INITIAL_BYTES,
    MAX_HELLO,
    QuicIdentifiers,
)
from broker.host.network.frameguard import packets
from tests.broker.host.network import test_flow_filter as kit
from tests.broker.host.network.test_flow_filter import WWW, Talk, hello, udp

ID = bytes.fromhex("8394c8f03e515708")
V1, V2 = 1, 0x6B3343CF
TYPES = {V1: 0, V2: 1}


def hellos() -> quic_hello.QuicHellos:
    """Those of a guest's only flow."""
    return quic_hello.QuicHellos(QuicIdentifiers())


def message(name: str) -> bytes:
    """A real client's hello, without TLS's record around it."""
    return hello(name)[5:]


def number(value: int) -> bytes:
    return struct.pack(">H", 0x4000 | value)


def crypto(data: bytes, at: int = 0) -> bytes:
    return b"\6" + number(at) + number(len(data)) + data


def initial(
    payload: bytes,
    connection=ID,
    *,
    keys=None,
    version=V1,
    count=0,
    token=b"",
    sender=b"",
    side="client in",
    size=INITIAL_BYTES,
) -> bytes:
    """A protected packet, as a client makes it: a datagram of ``size`` bytes."""
    made = quic_hello._keys(version, connection if keys is None else keys, side)
    payload = payload.ljust(size - 29 - len(connection + sender + token), b"\0")
    first = 0xC0 | TYPES[version] << 4 | 1
    head = bytes([first]) + struct.pack(">I", version)
    head += bytes([len(connection)]) + connection + bytes([len(sender)]) + sender
    head += number(len(token)) + token + number(2 + len(payload) + 16)
    plain = head + struct.pack(">H", count)
    nonce = (int.from_bytes(made.iv) ^ count).to_bytes(12)
    sealed = made.key.encrypt(nonce, payload, plain)
    mask = made.mask.encryptor().update(sealed[2:18])
    hidden = bytes(a ^ b for a, b in zip(plain[-2:], mask[1:3], strict=True))
    return bytes([first ^ mask[0] & 15]) + head[1:] + hidden + sealed


def answered(sender=None, keys=ID, version=V1) -> bytes:
    """A server's first packet, which has its identifier."""
    sender = THEIRS if sender is None else sender
    made = {"keys": keys, "version": version, "sender": sender, "side": "server in"}
    return initial(crypto(b"\2\0\0\4abcd"), b"", **made)


def short(receiver: bytes) -> bytes:
    """A packet after the handshake."""
    return b"\x40" + receiver + bytes(22)


def later(kind: int, version=V1, receiver=None) -> bytes:
    """A packet of 0-RTT (1) or Handshake (2)."""
    receiver = receiver or (ID if kind == 1 else THEIRS)
    kind = (kind + TYPES[version]) & 3
    head = bytes([0xC0 | kind << 4]) + struct.pack(">I", version)
    return head + bytes([8]) + receiver + b"\0" + number(20) + bytes(20)


THEIRS, OLD = b"theirs-1", b"theirs-0"
SHORT = short(THEIRS)


def names(quic: quic_hello.QuicHellos) -> list[str]:
    return [one.name for one in quic.unchecked]


def test_keys_are_those_of_the_standard():
    """RFC 9001, A.1 and RFC 9369, A.1."""
    key = bytes.fromhex("1f369613dd76d5467730efcbe3b1a22d")
    made = quic_hello._keys(V1, ID)
    assert made.iv.hex() == "fa044b2f42a3fd3b46fb255c"
    sealed = AESGCM(key).encrypt(bytes(12), b"text", b"head")
    assert made.key.decrypt(bytes(12), sealed, b"head") == b"text"


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("token", [b"", bytes(70)])
def test_a_name_is_read(version, token):
    quic = hellos()
    made = initial(crypto(message("www.test")), version=version, token=token)
    assert quic.take(made)
    assert names(quic) == ["www.test"]
    assert quic.take(later(1, version))
    quic.answer(answered(version=version))
    assert quic.take(later(2, version))
    assert quic.take(SHORT)


@settings(max_examples=20)
@given(st.randoms(use_true_random=False), st.integers(1, 90))
def test_a_hello_may_be_in_pieces_of_any_order(random, size):
    data = message("www.test")
    pieces = [(at, data[at : at + size]) for at in range(0, len(data), size)]
    random.shuffle(pieces)
    quic = hellos()
    for count, (at, piece) in enumerate(pieces):
        assert names(quic) == []
        payload = b"\1\2\0\0\0\0" + bytes(3) + crypto(piece, at)
        assert quic.take(initial(payload, count=count))
    assert names(quic) == ["www.test"]


def test_other_connections_of_a_flow_are_read():
    """Attack: a second connection, by the ports of one that was permitted."""
    quic = hellos()
    assert quic.take(initial(crypto(message("www.test"))))
    other = b"another"
    assert quic.take(initial(crypto(message("evil.test")), other, keys=other))
    assert names(quic) == ["www.test", "evil.test"]


def test_a_hello_does_not_change():
    """Attack: a name is read, and another one is sent in its place."""
    quic = hellos()
    data = message("www.test")
    assert quic.take(initial(crypto(data[:200])))
    assert not quic.take(initial(crypto(message("evil.test")[:200]), count=1))
    # The server gives itself another identifier: the keys stay.
    assert not quic.take(initial(crypto(data), b"theirs", keys=ID, count=2))
    quic.answer(answered(b"theirs"))
    assert quic.take(initial(crypto(data), b"theirs", keys=ID, count=2))
    assert names(quic) == ["www.test"]


def test_a_second_hello_is_read_too():
    """It follows a server's retry; its name could be another one."""
    quic = hellos()
    first, second = message("www.test"), message("evil.test")
    assert quic.take(initial(crypto(first)))
    assert quic.take(initial(crypto(second, len(first)), count=1))
    assert names(quic) == ["www.test", "evil.test"]


def test_a_part_of_a_hello_begins_nothing():
    """Attack: data of 0-RTT, whose hello names nothing yet."""
    quic = hellos()
    assert quic.take(initial(crypto(message("www.test")[:200])))
    assert not quic.take(later(1))
    assert quic.over == "", "packets may come in another order"


def test_no_connection_is_forgotten():
    """Attack: half of a hello, others until it is forgotten, and another half."""
    quic = hellos()
    for count in range(quic_hello.MAX_CONNECTIONS):
        other = bytes([count]) * 8
        assert quic.take(initial(crypto(b"\1\0\1"), other, keys=other))
    assert not quic.take(initial(crypto(message("www.test"))))
    assert not quic.unchecked


FULL = initial(crypto(message("www.test")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SHORT,
        later(1),
        later(2),
        later(1) + FULL,
        b"\xc0\0\0\0\2" + FULL[5:],  # another version
        b"\xc0\0\0\0\0" + FULL[5:],  # of a server's negotiation
        b"\xf0" + FULL[1:],  # a server's Retry
        b"\x80" + FULL[1:],
        FULL[:-1],
        FULL[:-1] + bytes([FULL[-1] ^ 1]),
        FULL[:20],
        initial(crypto(b"\2\0\0\4abcd")),  # not a client's hello
        initial(crypto(b"\1\0\0\4abcd")),
        initial(crypto(b"\1\x7f\xff\xff")),
        initial(crypto(b"x", MAX_HELLO)),
        initial(b"\x08\0" + crypto(message("www.test"))),  # a stream's frame
        initial(b"\6\0\x40\x70short"),
        *(FULL[:at] for at in range(1, 40, 3)),
    ],
    ids=lambda data: f"{len(data)} bytes",  # a hello has random ones
)
def test_what_is_not_a_hello_begins_nothing(data):
    quic = hellos()
    assert not quic.take(data)
    assert not quic.begun


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_nothing_confuses_it(payload, data):
    quic = hellos()
    quic.take(initial(payload))
    quic.take(data)
    quic.take(b"\xc0\0\0\0\1" + data)


# -- a flow ----------------------------------------------------------------------------

send = partial(udp, ports=(40000, 443), receiver=WWW)
come = partial(udp, ports=(443, 40000), sender=WWW, receiver=kit.GUEST)


def flow(*more):
    talk = Talk(("www.test", "*"), *more)
    talk.resolve("www.test", WWW)
    return talk


def test_a_connection_to_a_permitted_name_passes():
    talk = flow()
    for data in (FULL, later(1)):
        assert talk.send(send(data))["passt"] == [send(data)]
    assert talk.come(come(answered()))["guest"] == [come(answered())]
    for data in (later(2), SHORT, later(2) + SHORT):
        assert talk.send(send(data))["passt"] == [send(data)]
    assert [type(one) for one in talk.log].count(m.FlowBegun) == 1


@pytest.mark.parametrize("data", [b"dns or other", SHORT, later(1)])
def test_what_does_not_begin_as_quic_is_refused(data):
    sent = flow().send(send(data))
    assert sent["passt"] == []
    assert packets.read(sent["guest"][0]).kind == 3


def test_another_server_is_refused():
    talk = flow()
    sent = talk.send(send(initial(crypto(message("evil.test")))))
    assert sent["passt"] == []
    assert packets.read(sent["guest"][0]).kind == 3
    assert talk.log[-1].reason.startswith("its server name")


def test_another_connection_of_an_open_flow_is_refused():
    talk = flow()
    talk.send(send(FULL))
    other = b"another"
    made = initial(crypto(message("evil.test")), other, keys=other)
    assert talk.send(send(made))["passt"] == []
    assert talk.send(send(SHORT))["passt"] == [], "the flow has ended"


def test_the_servers_answer_of_the_standard_is_read():
    """RFC 9001, A.3."""
    quic = hellos()
    assert quic.take(FULL)
    quic.answer(
        bytes.fromhex(
            "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100"
            "f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df354"
            "8e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f5889"
            "1850abbdca3d20398c276456cbc42158407dd074ee"
        )
    )
    assert quic.take(short(bytes.fromhex("f067a5502a4262b5")))


@pytest.mark.parametrize("again", [40000, 40001], ids=["its port", "another port"])
@pytest.mark.parametrize(
    "data", [short(OLD), later(2, receiver=OLD)], ids=["short", "handshake"]
)
def test_a_connection_that_was_cut_does_not_go_on(again, data):
    """Attack: its packets name no server, and follow the hello of a permitted one."""
    talk = flow(("b.test", "*"))
    talk.resolve("b.test", WWW)
    talk.send(send(initial(crypto(message("b.test")), b"first", keys=b"first")))
    talk.come(come(answered(OLD, b"first")))
    assert talk.send(send(data))["passt"]
    (number,) = [n for n, it in talk.asked.items() if it == ("b.test", "udp", 443)]
    talk.filter.decided(m.FlowCut(number), talk.now)
    assert talk.send(send(data))["passt"] == []
    # At first by a hello whose server has not answered, then by a whole connection.
    new, back = {"ports": (again, 443)}, {"ports": (443, again)}
    for server, begun in ((False, b"second"), (True, b"third")):
        made = initial(crypto(message("www.test")), begun)
        assert talk.send(send(made, **new))["passt"]
        if server:
            talk.come(come(answered(OLD, b"first"), **back))  # the old one's, again
            talk.come(come(answered(keys=begun), **back))
            assert talk.send(send(SHORT, **new))["passt"]
        assert talk.send(send(data, **new))["passt"] == []
        assert talk.reasons[-1] == "it continues as another connection"


def test_a_hello_to_the_identifier_of_a_connection_that_was_cut_opens_nothing():
    """Attack: what the client begins with is its choice."""
    quic = hellos()
    assert quic.take(initial(crypto(message("www.test")), OLD, keys=OLD))
    for data in (short(OLD), later(2, receiver=OLD), short(b"")):
        assert not quic.take(data)
    quic.answer(answered(b"", OLD))  # a server that gives none has no others
    assert not quic.take(short(b""))


def test_a_connection_whose_hello_was_not_whole_does_not_go_on():
    """Attack: its other half goes by another flow to the same server."""
    quic = hellos()
    half = message("evil.test")[:200]
    assert quic.take(FULL)
    assert quic.take(initial(crypto(half), OLD, keys=OLD))
    assert not quic.take(later(1, receiver=OLD))
    quic.answer(answered(b"evil-one", OLD))
    for data in (short(b"evil-one"), later(2, receiver=b"evil-one")):
        assert not quic.take(data)


def test_a_hello_by_two_flows_reaches_no_server():
    """Attack: each flow carries a part, and the server puts them together."""
    talk, data = flow(), message("evil.test")
    for port, at, end in ((40000, 0, 200), (40001, 200, len(data))):
        made = initial(crypto(data[at:end], at), count=at)
        sent = udp(made, ports=(port, 443), receiver=WWW)
        for _ in range(20):
            assert talk.send(sent)["passt"] == []


def test_a_hello_in_two_packets_passes_when_it_is_whole():
    talk, data = flow(), message("www.test")
    parts = [
        send(initial(crypto(data[at:end], at), count=at))
        for at, end in ((0, 200), (200, len(data)))
    ]
    assert talk.send(parts[0])["passt"] == []
    assert talk.send(parts[1])["passt"] == parts
    assert talk.send(send(later(1)))["passt"] == [send(later(1))]


def test_zeros_behind_a_packet_are_padding():
    """Some clients fill a datagram so (RFC 9000, 14.1)."""
    quic = hellos()
    assert quic.take(FULL + bytes(300))
    assert names(quic) == ["www.test"]
    assert not quic.take(bytes(300)), "a packet, where they are all"
    assert quic.over


def of_another_kind() -> bytes:
    """A hello with two names in its list, the first of a kind that we do not read."""
    listed = b"\1\0\1x" + b"\0\0\x09evil.test"
    value = len(listed).to_bytes(2) + listed
    return extended(b"\0\0" + len(value).to_bytes(2) + value)


def extended(made: bytes) -> bytes:
    body = bytes(34) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(made).to_bytes(2) + made
    return b"\1" + len(body).to_bytes(3) + body


def test_a_hello_that_cannot_be_read_does_not_pass_when_it_is_sent_again():
    """Attack: an unread name, by the ports of a connection that was permitted."""
    quic = hellos()
    assert quic.take(FULL)
    made = initial(crypto(of_another_kind()), b"another", keys=b"another")
    for _ in range(3):
        assert not quic.take(made)


def test_a_hello_that_cannot_be_read_ends_its_flow():
    talk = flow()
    assert talk.send(send(FULL))["passt"]
    made = initial(crypto(of_another_kind()), b"another", keys=b"another")
    for data in (made, made, later(2), SHORT):
        assert talk.send(send(data))["passt"] == []
    assert "unsupported type of server name" in talk.reasons[0]


@pytest.mark.parametrize("second", [message("b.test"), extended(b"")], ids=["b", ""])
def test_a_flow_is_to_one_server(second):
    """Attack: a name is denied, and its connection continues by the permission of another."""
    talk = flow(("b.test", "*"))
    talk.resolve("b.test", WWW)
    assert talk.send(send(FULL))["passt"]
    again = initial(crypto(message("www.test")), b"again", keys=b"again")
    assert talk.send(send(again))["passt"], "it is the same server"
    talk.send(send(initial(crypto(second), b"other", keys=b"other")))
    assert talk.reasons == ["it changed to another server name"]
    assert talk.send(send(SHORT))["passt"] == []


def test_the_servers_name_is_permitted_itself():
    """The address is one of both names, and a rule is for one."""
    talk = Talk(("www.test", "*"), ("b.test", "dns", None))
    talk.resolve("b.test", WWW)
    talk.resolve("www.test", WWW)
    made = initial(crypto(message("b.test")))
    assert talk.send(send(made))["passt"] == []
    assert "not permitted" in talk.log[-1].reason


def test_an_encrypted_hello_ends_where_the_record_says_so(monkeypatch):
    talk = flow()
    kit.given(talk, encrypted_hello=False)
    whole = quic_hello.read_message
    monkeypatch.setattr(
        quic_hello, "read_message", lambda data: whole(data)._replace(encrypted=True)
    )
    assert talk.send(send(FULL))["passt"] == []


def test_by_its_address_a_flow_is_not_read():
    talk = Talk((WWW, "udp", 443))
    assert talk.send(send(b"anything"))["passt"]
