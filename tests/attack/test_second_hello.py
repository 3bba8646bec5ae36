"""A second TLS hello in one connection, which names another server than the first.

A server that asks for another hello (RFC 8446, 4.1.4) goes by the second one's name:
OpenSSL chooses the certificate and the virtual host by it.  So a program could reach
every server of an address by the permission of one.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess

import pytest

from broker.host.network.flowguard import flow_filter, tls_hello
from broker.host.network.frameguard import packets
from broker.host.network.frameguard.packets import ACK, SYN
from tests.broker.host.network.test_flow_filter import Talk, back, is_reset, tcp

PERMITTED, OTHER = "public.test", "secret.test"
EARLY = b"\x17\3\3\0\4data"
CIPHERS = b"\x14\3\3\0\1\1"


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A server of both names, which asks for another hello."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    place = tmp_path_factory.mktemp("server")
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"]
    files = [str(place / "key"), str(place / "cert")]
    subprocess.run(
        ["openssl", "req", *words, "-keyout", files[0], "-out", files[1]],
        check=True,
        capture_output=True,
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(files[1], files[0])
    made.set_ecdh_curve("prime256v1")
    return made


class Conversation:
    """A client and a server that are asked for another hello."""

    def __init__(self, context):
        self.named = []
        context.sni_callback = lambda _, name, __: self.named.append(name)
        self._to_server, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        to_client, from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        own = ssl.create_default_context()
        client = own.wrap_bio(to_client, from_client, server_hostname=PERMITTED)
        self._server = context.wrap_bio(self._to_server, from_server, server_side=True)
        self._step(client)
        self.first = from_client.read()
        self.take(self.first)
        self.retry = from_server.read()
        to_client.write(self.retry)
        self._step(client)
        self.second = from_client.read()
        self._from_server = from_server

    def _step(self, end):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()

    def take(self, data):
        """Have the server read; returns its answer."""
        self._to_server.write(data)
        self._step(self._server)


def connected(*names):
    talk = Talk(*((name, "*") for name in names))
    talk.connect(*names)
    talk.come(back(SYN | ACK, seq=1))
    return talk


def test_the_server_goes_by_the_second_name(context):
    """Why it matters."""
    made = Conversation(context)
    made.take(made.second.replace(PERMITTED.encode(), OTHER.encode()))
    assert made.named == [PERMITTED, OTHER]


def test_the_second_hello_of_an_honest_program_passes(context):
    made, talk = Conversation(context), connected(PERMITTED)
    first = tcp(ACK, made.first, seq=1001, ack=2)
    assert talk.send(first)["passt"] == [first]
    talk.come(back(data=made.retry, seq=2))
    at, more = 1001 + len(made.first), 2 + len(made.retry)
    second = tcp(ACK, made.second, seq=at, ack=more)
    assert talk.send(second)["passt"] == [second]
    rest = tcp(ACK, EARLY, seq=at + len(made.second), ack=more)
    assert talk.send(rest)["passt"] == [rest]
    assert talk.reasons == []


@pytest.mark.parametrize("permitted", [True, False])
@pytest.mark.parametrize("before", [b"", EARLY, CIPHERS + 3 * EARLY])
@pytest.mark.parametrize("step", [7, 2000])
def test_a_second_hello_to_another_server_ends_the_flow(
    context, permitted, before, step
):
    """Also one that is a name of the address, and where the guest reads in pieces."""
    made = Conversation(context)
    talk = connected(PERMITTED, *([OTHER] if permitted else []))
    data, answer = before, made.retry
    first = tcp(ACK, made.first + data, seq=1001, ack=2)
    assert talk.send(first)["passt"] == [first]
    for at in range(0, len(answer), step):
        piece = back(data=answer[at : at + step], seq=2 + at)
        assert talk.come(piece)["guest"] == [piece]
        assert talk.come(piece)["guest"] == [piece], "passt sends it again"
    seq = 1001 + len(made.first) + len(data)
    other = made.second.replace(PERMITTED.encode(), OTHER.encode())
    passed = []
    for at in range(0, len(other), step):
        segment = tcp(ACK, other[at : at + step], seq=seq + at, ack=2)
        passed += talk.send(segment)["passt"]
    assert is_reset(passed[-1])
    assert sum(len(packets.read(one).data) for one in passed) < len(other)
    assert talk.reasons == ["it changed to another server name"]


def test_two_hellos_in_one_segment_are_both_read(context):
    made, talk = Conversation(context), connected(PERMITTED)
    other = made.second.replace(PERMITTED.encode(), OTHER.encode())
    sent = talk.send(tcp(ACK, made.first + other, seq=1001, ack=2))
    assert [is_reset(one) for one in sent["passt"]] == [True]
    assert talk.reasons == ["it changed to another server name"]


@pytest.mark.parametrize(
    "answer", [b"\x16\3\3\0\x7a\2\0\0\x76\3\3" + bytes(116), b"\x15\3\3\0\2\2\x28"]
)
def test_after_another_answer_nothing_more_is_looked_at(context, answer):
    """Records of TLS 1.2 follow, and nothing of them is kept."""
    made, talk = Conversation(context), connected(PERMITTED)
    talk.send(tcp(ACK, made.first, seq=1001, ack=2))
    talk.come(back(data=answer, seq=2, ack=1001 + len(made.first)))
    rest = b"\x16\3\3\0\1\x10" + bytes(100)
    segment = tcp(ACK, rest, seq=1001 + len(made.first), ack=2 + len(answer))
    assert talk.send(segment)["passt"] == [segment]
    assert talk.reasons == []


def test_early_data_without_an_answer_has_an_end(context):
    made, talk = Conversation(context), connected(PERMITTED)
    talk.send(tcp(ACK, made.first, seq=1001, ack=2))
    data = b"\x17\3\3\x40\0" + bytes(1 << 14)
    at = 1001 + len(made.first)
    for number in range(3):
        talk.send(tcp(ACK, data, seq=at + number * len(data), ack=2))
    assert talk.reasons == ["cannot parse its ClientHello: ClientHello too long"]


def test_a_hello_is_read_once(context, monkeypatch):
    """Until the server answers, a guest sends segments as fast as it likes."""
    made, talk = Conversation(context), connected(PERMITTED)
    looked, read = [], []
    look, message = flow_filter.read_hellos, tls_hello.read_message
    monkeypatch.setattr(
        flow_filter,
        "read_hellos",
        lambda *words, **more: looked.append(1) or look(*words, **more),
    )
    monkeypatch.setattr(
        tls_hello, "read_message", lambda hello: read.append(1) or message(hello)
    )
    talk.send(tcp(ACK, made.first, seq=1001, ack=2))
    at = 1001 + len(made.first)
    for _ in range(5):
        empty = tcp(ACK, seq=at, ack=2)
        assert talk.send(empty)["passt"] == [empty]
    for byte in EARLY:
        more = tcp(ACK, bytes([byte]), seq=at, ack=2)
        assert talk.send(more)["passt"] == [more]
        at += 1
    assert len(looked) == 1 + len(EARLY)
    assert len(read) == 1
