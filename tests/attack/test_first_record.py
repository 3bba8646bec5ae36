"""What comes before the hello of a TLS connection, so that nothing reads the hello.

Servers of Go's crypto/tls (Caddy, Traefik) and of BoringSSL pass over warnings before a
hello: seven bytes, and the connection is to whichever server the hello behind them names.
OpenSSL and GnuTLS refuse them.
"""

from __future__ import annotations

import pytest

from broker.host.network.flowguard.tls_hello import TLS_PORTS
from broker.host.network.frameguard import packets
from broker.host.network.frameguard.packets import ACK, SYN
from tests.broker.host.network.test_flow_filter import Talk, back, hello, is_reset, tcp

ALERT = b"\x15\3\1\0\2\1\x5a"
"""A warning: user_canceled."""
CIPHERS = b"\x14\3\3\0\1\1"
EARLY = b"\x17\3\3\0\4data"
STUN = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)


class Connection:
    """A connection to a permitted name, by a port."""

    def __init__(self, port=443):
        self.talk = Talk(("www.test", "*"))
        self.ports, self.at = (40000, port), 1001
        self.talk.connect("www.test", ports=self.ports)
        self.talk.come(back(SYN | ACK, seq=1, ports=self.ports))

    def send(self, data, step=2000):
        """Return the bytes that pass, in segments of ``step``."""
        passed = b""
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            sent = self.talk.send(tcp(ACK, piece, self.at, 2, self.ports))["passt"]
            self.at += len(piece)
            passed += b"".join(
                packets.read(one).data for one in sent if not is_reset(one)
            )
        return passed


@pytest.mark.parametrize("port", [443, 8443])
@pytest.mark.parametrize("step", [1, 7, 2000])
@pytest.mark.parametrize(
    "before", [ALERT, CIPHERS, EARLY, b"\x18\3\3\0\1x"], ids=["20", "21", "23", "24"]
)
def test_a_record_before_a_hello_ends_the_flow(port, step, before):
    made = Connection(port)
    passed = made.send(before + hello("evil.test"), step)
    assert len(passed) < 2
    assert made.talk.reasons == [
        "cannot parse its ClientHello: another record before it"
    ]


@pytest.mark.parametrize("step", [1, 2000])
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n" + hello("evil.test"),
        b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + bytes(12) + hello("evil.test"),
        b"\x80\x2e\1\3\3" + bytes(43),  # a hello of SSL 2
        b"\x15\2" + hello("evil.test"),
        b"SSL-" + hello("evil.test"),
        b"\0\1\0\0\x21\x12\xa4\x43" + bytes(12),
        b"\0\x0e\x38" + bytes(13),  # OpenVPN
    ],
    ids=lambda data: data[:3].hex(),
)
def test_a_port_of_tls_begins_with_a_hello(data, step):
    """Attack: what is in front of its server's TLS may take these first bytes."""
    made = Connection()
    passed = made.send(data, step)
    assert len(passed) < 8
    assert made.talk.reasons == [
        "cannot parse its ClientHello: not TLS, at a port of TLS"
    ]


@pytest.mark.parametrize("step", [1, 3, 2000])
@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2\r\n", STUN])
def test_other_protocols_are_usual_at_its_port(data, step):
    """The ssh of forges at port 443, where a network has no other, and TURN by TCP."""
    made = Connection()
    for more in (data, b"and more"):
        assert made.send(more, step) == more
    assert made.talk.reasons == []


@pytest.mark.parametrize(
    ("port", "server", "data"),
    [
        (22, b"SSH-2.0-x\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"),
        (80, b"", b"GET / HTTP/1.1\r\n"),
        (587, b"220 mx\r\n", b"EHLO me\r\nSTARTTLS\r\n"),
        (143, b"* OK\r\n", b"a STARTTLS\r\n"),
        (3306, b"\x4a\0\0\0\x0a", b"\x20\0\0\1"),
        (5432, b"", b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (5900, b"RFB 003.008\n", b"RFB 003.008\n"),
        (1883, b"", b"\x10\x0c\0\4MQTT"),
        (6881, b"", b"\x13BitTorrent protocol"),
        (9000, b"", b"\x15\1\3"),
        (9000, b"", b"\x17\0"),
    ],
)
@pytest.mark.parametrize("step", [1, 2000])
def test_protocols_without_tls_pass_at_their_ports(port, server, data, step):
    """Also those whose server speaks first, and those that begin TLS later."""
    assert port not in TLS_PORTS
    made = Connection(port)
    if server:
        told = back(data=server, seq=2, ports=made.ports)
        assert made.talk.come(told)["guest"] == [told]
    later = hello("evil.test") if data.endswith(b"TLS\r\n") else b"more"
    assert made.send(data + later, step) == data + later
    assert made.talk.reasons == []


@pytest.mark.parametrize("port", sorted(TLS_PORTS))
def test_a_hello_passes_at_each_port_of_tls(port):
    made, data = Connection(port), hello("www.test")
    assert made.send(data + b"\x17\3\3\0\1x", 100) == data + b"\x17\3\3\0\1x"
    assert Connection(port).send(hello("evil.test")) == b""


def test_by_its_address_a_flow_may_begin_as_it_likes():
    talk = Talk(("93.184.216.34", "*"))
    talk.send(tcp())
    talk.come(back(SYN | ACK, seq=1))
    segment = tcp(ACK, b"\0\x0e\x38", 1001, 2)
    assert talk.send(segment)["passt"] == [segment]
