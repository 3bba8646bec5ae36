"""One datagram of QUIC, which is two packets: each key opens another one.

AES-GCM does not commit to its key.  What a packet decrypts to by a second key is noise,
up to what its maker chooses: 16 bytes of the ciphertext are solved for, so that both keys
give the same tag.  A filter that reads a packet by another key than the server does reads
another hello.
"""

from __future__ import annotations

import struct
from random import Random
from typing import NamedTuple

import pytest
from aioquic import tls
from aioquic.quic.connection import QuicConnection
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from broker.host.network.flowguard import quic_hello
from tests.broker.host.network.test_flow_filter import WWW
from tests.broker.host.network.test_quic_hello import (
    V1,
    V2,
    answered,
    come,
    crypto,
    flow,
    hellos,
    initial,
    later,
    message,
    names,
    number,
    send,
    short,
)
from tests.kit.quic import configured

FIRST, SECOND, GIVEN = b"first-id", b"secondid", b"given-id"
CLOSED = b"\x1c"
_TAG = 16
_HEAD = 1 + 4 + 1 + 8 + 1 + 1 + 2
"""Bytes before the packet's number."""
_PLAIN = 1200 - _HEAD - 1 - _TAG
_SOLVED = 44
"""Which block of the ciphertext is solved for; in the hello it is padding."""


class _Key(NamedTuple):
    aes: bytes
    iv: bytes
    mask: bytes


def key_of(connection: bytes) -> _Key:
    """The client's keys of RFC 9001, 5.2, as plain bytes."""
    known = quic_hello._VERSIONS[V1]
    secret = quic_hello.hmac.digest(known.salt, connection, "sha256")
    own = quic_hello._expand(secret, "client in", 32)
    sizes = {"key": 16, "iv": 12, "hp": 16}
    return _Key(*(quic_hello._expand(own, f"quic {n}", s) for n, s in sizes.items()))


def block(key: bytes, data: bytes) -> bytes:
    return Cipher(AES(key), ECB()).encryptor().update(data)


def times(one: int, other: int) -> int:
    """Multiply in the field of GCM (SP 800-38D, 6.3)."""
    found = 0
    for bit in range(127, -1, -1):
        if one >> bit & 1:
            found ^= other
        other = other >> 1 ^ (0xE1 << 120 if other & 1 else 0)
    return found


def power(base: int, exponent: int) -> int:
    found = 1 << 127
    while exponent:
        if exponent & 1:
            found = times(found, base)
        base = times(base, base)
        exponent >>= 1
    return found


def blocks(data: bytes) -> list[int]:
    return [
        int.from_bytes(data[at : at + 16].ljust(16, b"\0"))
        for at in range(0, len(data), 16)
    ]


def stream(key: _Key, count: int, size: int) -> bytes:
    nonce = (int.from_bytes(key.iv) ^ count).to_bytes(12)
    counters = range(2, 2 + -(-size // 16))
    return block(key.aes, b"".join(nonce + n.to_bytes(4) for n in counters))[:size]


def tag_of(key: _Key, count: int, head: bytes, sealed: bytes) -> int:
    """The tag of GCM."""
    h, found = int.from_bytes(block(key.aes, bytes(16))), 0
    lengths = len(head) * 8 << 64 | len(sealed) * 8
    for one in (*blocks(head), *blocks(sealed), lengths):
        found = times(found ^ one, h)
    nonce = (int.from_bytes(key.iv) ^ count).to_bytes(12)
    return found ^ int.from_bytes(block(key.aes, nonce + b"\0\0\0\1"))


def mixed(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def long_hello(name: str) -> bytes:
    """A hello that fills its packet; the end is padding, which may be anything."""
    made = message(name)
    at = 4 + 34
    at += 1 + made[at]
    at += 2 + int.from_bytes(made[at : at + 2])
    at += 1 + made[at]
    room = _PLAIN - 5 - len(made) - 4
    body = made[4:at] + (len(made) - at - 2 + 4 + room).to_bytes(2) + made[at + 2 :]
    body += b"\x7f\x7f" + room.to_bytes(2) + bytes(room)
    return b"\1" + len(body).to_bytes(3) + body


def two_keys(
    receiver: bytes, shown: bytes, hidden: bytes, starts: bytes, name: str
) -> bytes:
    """A datagram with a hello to ``name`` by the keys of ``hidden``.

    By those of ``shown`` it is a packet whose first byte is ``starts``, and noise.
    """
    payload = crypto(long_hello(name))
    assert len(payload) == _PLAIN
    one, other = key_of(shown), key_of(hidden)
    head = (
        struct.pack(">I", V1)
        + bytes([8])
        + receiver
        + b"\0\0"
        + number(1 + _PLAIN + _TAG)
    )
    random = Random(name)
    while True:
        count = random.randrange(256)
        changed = bytearray(payload)
        changed[11:43] = random.randbytes(32)  # the hello's random, for another sample
        sealed = mixed(bytes(changed), stream(other, count, _PLAIN))
        masks = [block(key.mask, sealed[3:19]) for key in (one, other)]
        first = 0xC0 ^ masks[1][0] & 15
        wire = count ^ masks[1][1]
        if (first ^ masks[0][0]) & 15:
            continue  # by the other key the number has another size, or odd bits
        seen = wire ^ masks[0][1]
        if stream(one, seen, 1)[0] ^ sealed[0] != starts[0]:
            continue
        plain = bytes([0xC0]) + head
        different = tag_of(one, seen, plain + bytes([seen]), sealed) ^ tag_of(
            other, count, plain + bytes([count]), sealed
        )
        exponent = len(blocks(sealed)) - _SOLVED + 1
        slope = 0
        for key in (one, other):
            slope ^= power(int.from_bytes(block(key.aes, bytes(16))), exponent)
        solved = times(different, power(slope, (1 << 128) - 2))
        at = _SOLVED * 16
        sealed = (
            sealed[:at]
            + mixed(sealed[at : at + 16], solved.to_bytes(16))
            + sealed[at + 16 :]
        )
        tag = tag_of(other, count, plain + bytes([count]), sealed)
        assert tag == tag_of(one, seen, plain + bytes([seen]), sealed)
        return bytes([first]) + head + bytes([wire]) + sealed + tag.to_bytes(16)


def opened(datagram: bytes, connection: bytes) -> bytes | None:
    (packet,) = quic_hello._packets(datagram)
    return quic_hello._opened(quic_hello._keys(V1, connection), packet)


@pytest.fixture(scope="module")
def of_second():
    return two_keys(SECOND, FIRST, SECOND, CLOSED, "evil.test")


@pytest.fixture(scope="module")
def of_given():
    return two_keys(GIVEN, FIRST, GIVEN, CLOSED, "evil.test")


def test_a_packet_opens_under_two_keys(of_second, monkeypatch):
    """Why it matters; aioquic goes by the identifier, and reads the hello."""
    assert opened(of_second, FIRST)[:1] == CLOSED
    assert b"evil.test" in opened(of_second, SECOND)
    server = QuicConnection(
        configuration=configured(is_client=False),
        original_destination_connection_id=SECOND,
    )
    seen, pull = [], tls.pull_client_hello
    monkeypatch.setattr(
        tls, "pull_client_hello", lambda buf: seen.append(pull(buf)) or seen[0]
    )
    server.receive_datagram(of_second, ("192.0.2.1", 1), now=1.0)
    assert [one.server_name for one in seen] == ["evil.test"]


def test_the_connection_of_a_packet_is_that_of_its_identifier(of_second):
    """Attack: FIRST was a permitted hello, and its key opens the packet, too."""
    quic = hellos()
    assert quic.take(initial(crypto(message("www.test")), FIRST))
    quic.unchecked.clear()
    assert quic.take(of_second)
    assert names(quic) == ["evil.test"]


def test_a_packet_that_opens_under_two_keys_does_not_pass(of_given):
    """Attack: a server that has forgotten GIVEN takes it for a new connection."""
    quic = hellos()
    assert quic.take(initial(crypto(message("www.test")), FIRST))
    quic.answer(answered(GIVEN, FIRST))
    honest = initial(b"\2\0\0\0\0", GIVEN, keys=FIRST, count=1)
    assert quic.take(honest)
    assert not quic.take(of_given)
    assert not quic.take(initial(crypto(message("www.test")), GIVEN, keys=GIVEN))
    assert names(quic) == ["www.test"]


def test_nor_does_one_that_says_by_one_key_what_is_known():
    """Attack: by the other key it is whatever its maker likes."""
    made = two_keys(GIVEN, GIVEN, FIRST, CLOSED, "www.test")
    quic = hellos()
    assert quic.take(initial(opened(made, FIRST), FIRST))
    quic.answer(answered(GIVEN, FIRST))
    assert quic.take(initial(opened(made, FIRST), GIVEN, keys=FIRST, count=1))
    assert not quic.take(made)


@pytest.mark.parametrize("cut", [False, True])
def test_an_identifier_of_one_flow_begins_nothing_in_another(cut):
    """Attack: the server takes the packet for one of the first flow's connection."""
    talk = flow()
    assert talk.send(send(initial(crypto(message("www.test")), FIRST)))["passt"]
    talk.come(come(answered(GIVEN, FIRST)))
    if cut:
        talk.send(send(short(b"another1")))
        assert talk.reasons == ["it continues as another connection"]
    for wanted in (FIRST, GIVEN):
        for _ in range(2):
            made = initial(crypto(message("www.test")), wanted)
            assert talk.send(send(made, ports=(40001, 443)))["passt"] == []
    for _ in range(2):
        talk.now += quic_hello.REMEMBERED + 1
        talk.filter.tick(talk.now)
    talk.resolve("www.test", WWW)
    made = initial(crypto(message("www.test")), FIRST)
    assert talk.send(send(made, ports=(40002, 443)))["passt"]


def test_two_flows_do_not_compose_a_hello():
    """Attack: each flow's hello is whole, and of each the server gets a part."""
    talk, first, second = flow(), message("www.test"), message("www.test")
    made = [
        initial(crypto(first[:200]), FIRST),
        initial(crypto(first[200:], 200), FIRST),
    ]
    other = initial(crypto(second), FIRST)
    for datagram in made:
        sent = talk.send(send(datagram))["passt"]
    assert len(sent) == 2
    assert talk.send(send(other, ports=(40001, 443)))["passt"] == []


def test_a_server_takes_what_was_read():
    """Attack: it discards what follows in a datagram, and short ones (12.2, 14.1)."""
    half = message("www.test")[:200]
    quic = hellos()
    other = initial(crypto(half), SECOND)
    assert not quic.take(initial(crypto(half), FIRST) + other)
    assert not quic.take(initial(crypto(half), FIRST, size=1199))
    assert not quic.partial
    assert quic.take(initial(crypto(half), FIRST, size=1199) + b"\0")
    assert quic.take(initial(crypto(half), FIRST, size=600, count=1) + bytes(600))


def test_nothing_follows_the_end_of_a_connection():
    quic = hellos()
    assert quic.take(initial(crypto(message("www.test")), FIRST))
    closed = b"\x1c\0\6\4late"
    assert quic.take(initial(closed, FIRST, count=1))
    for more in (b"x", b"\1", crypto(b"\1\0\0\4abcd", 900)):
        assert not quic.take(initial(closed + more, FIRST, count=2))
    assert not quic.take(initial(b"\x1c\0\6\x7f\xff", FIRST, count=3))


def test_identifiers_are_bounded():
    known = quic_hello.QuicIdentifiers()
    most = quic_hello.MAX_IDENTIFIERS
    added = [known.add(n.to_bytes(8)) for n in range(most + 9)]
    assert sum(added) == most
    known.tick(quic_hello.REMEMBERED + 1)
    assert not known.add(bytes(8))
    assert known.add(b"another1")


def test_a_connection_changes_its_version_where_its_server_says_so():
    """RFC 9000, 6: before it, another version of an identifier begins nothing."""
    quic = hellos()
    other = initial(crypto(message("www.test")), FIRST, version=V2)
    assert quic.take(initial(crypto(message("www.test")), FIRST))
    assert not quic.take(other)
    told = b"\x80" + bytes(4) + b"\0" + bytes([8])
    quic.answer(told + SECOND + struct.pack(">I", V2))
    assert not quic.take(other)
    quic.answer(told + FIRST + struct.pack(">I", V2))
    assert quic.take(other)
    quic.answer(answered(GIVEN, FIRST, V2))
    assert quic.take(later(2, V2, GIVEN))
    assert names(quic) == ["www.test"] * 2


def test_a_connection_may_continue_in_the_version_of_its_server():
    """RFC 9368, 2.3: the server has answered in it, to the identifier of the first."""
    quic = hellos()
    first = message("www.test")
    assert quic.take(initial(crypto(first), FIRST))
    quic.answer(answered(GIVEN, FIRST, V2))
    again = crypto(message("www.test"), len(first))
    assert not quic.take(initial(again, FIRST, version=V2))
    assert quic.take(initial(again, GIVEN, keys=FIRST, version=V2))
    assert names(quic) == ["www.test"] * 2
    assert quic.take(later(1, V2, GIVEN)), "0-RTT after the answer"


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("before", [[], [b"junk"], [b"\x40" + bytes(30)]])
def test_the_name_is_read_at_each_port(version, before):
    """Attack: a rule without a port, and a server of QUIC beside the usual one."""
    talk = flow()
    at = {"ports": (40000, 8443)}
    for data in before:
        assert talk.send(send(data, **at))["passt"] == [send(data, **at)]
    evil = initial(crypto(message("evil.test")), FIRST, version=version)
    assert talk.send(send(evil, **at))["passt"] == []
    assert talk.reasons == ["its server name did not resolve to its address"]
    good = send(initial(crypto(message("www.test")), SECOND, version=version), **at)
    assert talk.send(good)["passt"] == [good]
    assert talk.send(send(short(b"another1"), **at))["passt"] == []
    assert talk.reasons[1:] == ["it continues as another connection"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x16\xfe\xff" + bytes(40),  # DTLS
        b"\xe3" + bytes(47),  # NTP
        b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12),  # STUN
        b"\x80\x60" + bytes(30),  # RTP
        b"\1\0\0\0" + bytes(144),  # WireGuard
        b"\xff\xff\xff\xffgetinfo",
        b"\x80\0\0\0\1" + bytes(30),
    ],
    ids=lambda data: data[:4].hex(),
)
def test_other_protocols_of_udp_pass_at_other_ports(data):
    talk = flow()
    sent = send(data, ports=(40000, 3478))
    for _ in range(3):
        assert talk.send(sent)["passt"] == [sent]


def test_a_draft_of_quic_does_not_pass():
    """Its keys are others, so its hello is not read."""
    talk = flow()
    made = initial(crypto(message("evil.test")), FIRST)
    draft = send(made[:1] + b"\xff\0\0\x1d" + made[5:], ports=(40000, 8443))
    assert talk.send(draft)["passt"] == []
