"""Flows of a guest: names, answers, hellos, ends; a conversation without sockets."""

from __future__ import annotations

import ssl
import struct
from functools import partial
from ipaddress import IPv4Address

import pytest

from broker.core.limits import network as limits
from broker.core.streams import network_flows as m
from broker.host.network.flowguard import dns_messages as dns
from broker.host.network.flowguard import guest_names
from broker.host.network.flowguard.flow_filter import FlowFilter
from broker.host.network.flowguard.tls_hello import Hello, HelloError, read_hellos
from broker.host.network.frameguard import packets
from broker.host.network.frameguard.ethernet_frames import FrameFilter
from broker.host.network.frameguard.packets import ACK, FIN, ICMP, RST, SYN, TCP, UDP

GUEST, RESOLVER = "10.0.2.15", "10.0.2.3"
WWW, EVIL = "93.184.216.34", "93.184.216.99"
MAC = bytes(range(12))


def packed(text):
    return IPv4Address(text).packed


def hello(name):
    """A real client's first bytes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def frame(protocol, body, sender=GUEST, receiver=WWW, to=MAC, **head):
    fields = {"first": 0x45, "fragment": 0x4000, "size": 20 + len(body), **head}
    ip = struct.pack(
        ">BBHHHBBH4s4s", fields["first"], 0, fields["size"], 0, fields["fragment"],
        64, protocol, 0, packed(sender), packed(receiver),
    )  # fmt: skip
    return to + b"\x08\x00" + ip + body


def tcp(flags=SYN, data=b"", seq=1000, ack=0, ports=(40000, 443), **where):
    body = struct.pack(">HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack, 80, flags, 9, 0, 0)
    return frame(TCP, body + data, **where)


def back(flags=ACK, data=b"", seq=1, ack=1001, ports=(40000, 443), host=WWW):
    return tcp(flags, data, seq, ack, (ports[1], ports[0]), sender=host, receiver=GUEST)


def udp(data, ports=(40000, 53), **where):
    body = struct.pack(">4H", *ports, 8 + len(data), 0) + data
    return frame(UDP, body, **where)


def wire(name):
    return b"".join(bytes([len(x)]) + x.encode() for x in name.split(".")) + b"\0"


def question(name, kind=dns.A, number=77, room=None):
    """``room``: by EDNS."""
    head = struct.pack(">6H", number, 0x0100, 1, 0, 0, room is not None)
    more = b"" if room is None else b"\0" + struct.pack(">HHIH", dns.OPT, room, 0, 0)
    asked = head + wire(name) + struct.pack(">HH", kind, 1) + more
    return udp(asked, receiver=RESOLVER)


def record(owner, kind, value, ttl=60):
    return wire(owner) + struct.pack(">HHIH", kind, 1, ttl, len(value)) + value


class Talk:
    """A filter, and a viewer that allows the flows of ``rules``."""

    def __init__(self, *rules, **more):
        self.rules = set(rules)
        self.filter = FlowFilter(
            GUEST, RESOLVER, lambda f: not FrameFilter().may_pass(f), **more
        )
        self.now = 100.0
        self.asked = {}
        self.log = []

    def pump(self):
        while self.filter.to_viewer:
            messages, self.filter.to_viewer[:] = list(self.filter.to_viewer), []
            for message in messages:
                self.log.append(message)
                if isinstance(message, m.AskFlow):
                    key = (message.host, message.protocol, message.port)
                    self.asked[message.number] = key
                    allowed = key in self.rules or (message.host, "*") in self.rules
                    self.filter.decided(m.FlowAnswer(message.number, allowed), self.now)
        out = {}
        for side in ("guest", "passt", "resolver"):
            queue = getattr(self.filter, f"to_{side}")
            out[side] = list(queue)
            queue.clear()
        return out

    def send(self, untrusted_frame):
        self.filter.outward(untrusted_frame, self.now)
        return self.pump()

    def come(self, received):
        self.filter.inward(received, self.now)
        return self.pump()

    def resolve(self, name, *addresses, records=b"", ttl=60, count=None):
        """Ask for a name and have the resolver answer; returns the guest's answer."""
        (asked,) = self.send(question(name))["resolver"]
        made = records or b"".join(
            record(name, dns.A, packed(one), ttl) for one in addresses
        )
        count = len(addresses) if count is None else count
        head = asked[:2] + struct.pack(">5H", 0x8180, 1, count, 0, 0)
        answer = head + wire(name) + struct.pack(">HH", dns.A, 1) + made
        self.filter.answered(answer, self.now)
        (reply,) = self.pump()["guest"]
        return packets.read(reply).data

    def connect(self, *names, **where):
        """Resolve and connect; returns the frames to passt."""
        for name in names:
            self.resolve(name, WWW)
        return self.send(tcp(**where))

    @property
    def reasons(self):
        return [one.reason for one in self.log if isinstance(one, m.FlowEnded)]


def is_reset(sent):
    packet = packets.read(sent)
    return packet.protocol == TCP and bool(packet.flags & RST)


def code(reply):
    return reply[3] & 15


def test_a_name_that_no_rule_allows_is_refused_and_asked_of_nobody():
    talk = Talk()
    sent = talk.send(question("evil.test"))
    assert sent["resolver"] == []
    assert code(packets.read(sent["guest"][0]).data) == dns.REFUSED


def test_an_allowed_name_opens_its_address_for_its_port():
    talk = Talk(("www.test", "*"))
    reply = talk.resolve("www.test", WWW)
    assert reply[:2] == struct.pack(">H", 77)
    assert packed(WWW) in reply
    sent = talk.send(tcp())
    assert sent["passt"] == [tcp()]
    assert sent["guest"] == []
    begun = [one for one in talk.log if isinstance(one, m.FlowBegun)]
    assert talk.asked[begun[0].number] == ("www.test", "tcp", 443)


def dhcp(ports=(68, 67), sender="0.0.0.0", receiver="255.255.255.255"):
    return udp(b"\1\1\6\0" + bytes(236), ports, sender=sender, receiver=receiver)


def test_questions_for_an_address_are_few_and_only_of_a_machine():
    """A box has its address from us; a machine asks passt, and floods nobody."""
    assert Talk().send(dhcp())["passt"] == []
    talk = Talk(leases=True)
    answer = dhcp((67, 68), "10.0.2.2", GUEST)
    assert talk.come(answer)["guest"] == [answer]
    sent = [talk.send(dhcp())["passt"] for _ in range(3 * limits.LEASES_BURST)]
    assert sum(map(len, sent)) == limits.LEASES_BURST
    assert Talk().come(answer)["guest"] == []
    # Of other ports nothing passes without a flow.
    assert Talk(leases=True).send(dhcp((69, 67)))["passt"] == []
    assert Talk(leases=True).come(dhcp((67, 69), "10.0.2.2", GUEST))["guest"] == []


def test_bytes_are_reported_once_they_have_moved():
    talk = Talk(("www.test", "*"))
    talk.connect("www.test")
    talk.filter.report_bytes()
    talk.pump()
    talk.filter.report_bytes()
    talk.pump()
    flow = next(one.flow for one in talk.log if isinstance(one, m.FlowBegun))
    reports = [one for one in talk.log if isinstance(one, m.FlowsMoved)]
    assert reports == [m.FlowsMoved([(flow, len(tcp()), 0)])]


def test_a_report_of_all_flows_is_of_messages_that_fit():
    talk = Talk(("www.test", "*"))
    talk.resolve("www.test", WWW)
    for port in range(100):
        talk.send(tcp(ports=(20000 + port, 443)))
    for flow in talk.filter._flows.values():
        flow.number, flow.sent, flow.received = 1 << 62, 1 << 62, 1 << 62
    talk.filter.report_bytes()
    sizes = [len(m.encode(one)) for one in talk.filter.to_viewer]
    assert len(sizes) == 4
    assert max(sizes) <= m.MESSAGE_BYTES


def test_an_address_alone_opens_nothing():
    """The right address, which no allowed name led to."""
    talk = Talk(("www.test", "*"))
    sent = talk.send(tcp())
    assert sent["passt"] == []
    assert is_reset(sent["guest"][0])


def test_an_address_is_a_names_for_its_time():
    talk = Talk(("www.test", "*"))
    talk.resolve("www.test", WWW, ttl=0)
    talk.now += limits.BINDING_SECONDS[0] + 1
    assert talk.send(tcp())["passt"] == []
    talk.resolve("www.test", WWW, ttl=0x7FFFFFFF)
    talk.now += limits.BINDING_SECONDS[1] + 1
    assert talk.send(tcp(seq=5))["passt"] == []


@pytest.mark.parametrize("inner", ["10.0.0.1", "192.168.1.1", "100.64.0.1"])
def test_rebinding_opens_no_inner_address(inner):
    """The name is allowed, and its answer leads home."""
    talk = Talk(("www.test", "*"))
    talk.resolve("www.test", inner)
    assert talk.send(tcp(receiver=inner))["passt"] == []
    talk = Talk(("www.test", "*"), (inner, "*"))
    assert len(talk.send(tcp(receiver=inner))["passt"]) == 1


@pytest.mark.parametrize("resolver", ["1.1.1.1", "8.8.4.4", "45.90.28.77"])
@pytest.mark.parametrize("make", [tcp, partial(udp, b"x")])
def test_public_name_servers_are_not_asked_by_https(resolver, make):
    """Neither by a name that leads to them nor by their address."""
    talk = Talk(("dns.test", "*"), (resolver, "*"))
    talk.resolve("dns.test", resolver)
    sent = talk.send(make(ports=(40000, 443), receiver=resolver))
    assert sent["passt"] == []
    assert len(sent["guest"]) == 1
    assert talk.send(tcp(ports=(40000, 80), receiver=resolver))["passt"]


def test_a_browser_is_told_to_ask_no_other_name_server():
    """Also where a rule allows every name."""
    talk = Talk(("use-application-dns.net", "*"))
    sent = talk.send(question("use-application-dns.net"))
    assert sent["resolver"] == []
    assert code(packets.read(sent["guest"][0]).data) == dns.NXDOMAIN


@pytest.mark.parametrize("closed", ["127.0.0.1", "169.254.169.254", "0.0.0.0"])
def test_closed_addresses_stay_closed(closed):
    """Whatever the viewer would say."""
    talk = Talk((closed, "*"), ("www.test", "*"))
    talk.resolve("www.test", closed)
    assert talk.send(tcp(receiver=closed))["passt"] == []


def test_an_answer_binds_the_names_own_addresses_only():
    """A CNAME chain is followed; records of other names are not looked at."""
    talk = Talk(("www.test", "*"))
    records = (
        record("www.test", dns.CNAME, wire("a.cdn.test"))
        + record("bank.test", dns.A, packed(EVIL))
        + record("A.CDN.test", dns.A, packed(WWW))
    )
    reply = talk.resolve("www.test", records=records, count=3)
    assert packed(WWW) in reply
    assert packed(EVIL) not in reply
    assert talk.send(tcp(receiver=EVIL))["passt"] == []
    assert len(talk.send(tcp())["passt"]) == 1


def test_a_circle_of_aliases_and_4000_answers_end():
    talk = Talk(("www.test", "*"))
    records = record("www.test", dns.CNAME, wire("b.test")) + record(
        "b.test", dns.CNAME, wire("www.test")
    )
    assert code(talk.resolve("www.test", records=records, count=2)) == 0
    many = [str(IPv4Address(packed("93.0.0.0")) + n) for n in range(4000)]
    reply = talk.resolve("www.test", *many)
    assert struct.unpack_from(">H", reply, 6) == (30,)  # in 512 bytes


def test_a_silent_name_server_is_left_for_the_next():
    """Which is asked the same, and the one that answers is kept."""
    talk = Talk(("www.test", "*"), name_servers=2)
    (asked,) = talk.send(question("www.test"))["resolver"]
    assert talk.filter.name_server == 0
    talk.now += limits.NAME_SERVER_SECONDS / 2
    talk.filter.tick(talk.now)
    assert talk.pump()["resolver"] == []
    talk.now += limits.NAME_SERVER_SECONDS
    talk.filter.tick(talk.now)
    assert talk.filter.name_server == 1
    assert talk.pump()["resolver"] == [asked]
    assert packed(WWW) in talk.resolve("www.test", WWW)
    talk.now += limits.NAME_SERVER_SECONDS
    talk.filter.tick(talk.now)
    assert talk.filter.name_server == 1
    assert talk.pump()["resolver"] == []


def test_a_name_without_an_answer_does_not_change_an_answering_name_server():
    talk = Talk(("www.test", "*"), ("dead.test", "*"), name_servers=2)
    talk.send(question("dead.test"))
    talk.now += 1
    talk.resolve("www.test", WWW)
    talk.now += limits.NAME_SERVER_SECONDS
    talk.filter.tick(talk.now)
    assert talk.filter.name_server == 0


def test_silent_name_servers_are_asked_in_turn_and_not_for_ever():
    talk = Talk(("www.test", "*"), name_servers=3)
    talk.send(question("www.test"))
    turns, sent = [], 0
    for _ in range(60):
        talk.now += 1
        talk.filter.tick(talk.now)
        turns.append(talk.filter.name_server)
        sent += len(talk.pump()["resolver"])
    assert turns[:6] == [0, 1, 1, 2, 2, 0]
    assert sent == limits.LOOKUP_SECONDS / limits.NAME_SERVER_SECONDS - 1


def test_a_question_that_waits_keeps_its_number(monkeypatch):
    numbers = iter([5, 5, 6])
    monkeypatch.setattr(guest_names.secrets, "randbelow", lambda _: next(numbers))
    talk = Talk(("www.test", "*"))
    (first,) = talk.send(question("www.test"))["resolver"]
    (second,) = talk.send(question("www.test", number=2))["resolver"]
    assert (first[:2], second[:2]) == (b"\0\x05", b"\0\x06")


def test_an_answer_to_another_question_is_not_taken():
    talk = Talk(("www.test", "*"))
    (asked,) = talk.send(question("www.test"))["resolver"]
    other = bytes([asked[0] ^ 1, asked[1]])
    for name, number in (("evil.test", asked[:2]), ("www.test", other)):
        head = number + struct.pack(">5H", 0x8180, 1, 1, 0, 0)
        body = head + wire(name) + struct.pack(">HH", 1, 1)
        talk.filter.answered(body + record("www.test", 1, packed(WWW)), talk.now)
    assert talk.pump()["guest"] == []


@pytest.mark.parametrize("port", [53, 853])
@pytest.mark.parametrize("made", [tcp, udp])
def test_no_other_name_server_is_reached(port, made):
    talk = Talk((WWW, "*"))
    ports = (40000, port)
    sent = talk.send(tcp(ports=ports) if made is tcp else udp(b"x", ports=ports))
    assert sent["passt"] == []
    assert len(sent["guest"]) == 1


def test_aaaa_and_https_records_are_empty():
    """IPv6 is not given, and no server's key for an encrypted hello."""
    talk = Talk(("www.test", "*"))
    for kind in (dns.AAAA, 65):
        sent = talk.send(question("www.test", kind))
        assert sent["resolver"] == []
        assert packets.read(sent["guest"][0]).data[6:8] == b"\0\0"


def test_the_right_hello_passes_in_ten_segments_and_again():
    talk = Talk(("www.test", "*"))
    talk.connect("www.test")
    data = hello("www.test")
    step = len(data) // 10
    for at in range(0, len(data), step):
        segment = tcp(ACK, data[at : at + step], seq=1001 + at, ack=5)
        assert talk.send(segment)["passt"] == [segment]
        assert talk.send(segment)["passt"] == [segment]
    assert talk.send(tcp(ACK, b"more", seq=1001 + len(data), ack=5))["passt"]


@pytest.mark.parametrize("pieces", [1, 2, 10])
def test_a_hello_to_another_server_ends_the_flow(pieces):
    talk = Talk(("www.test", "*"))
    talk.connect("www.test")
    data = hello("evil.test")
    step = -(-len(data) // pieces)
    passed = []
    for at in range(0, len(data), step):
        sent = talk.send(tcp(ACK, data[at : at + step], seq=1001 + at, ack=5))
        passed += sent["passt"]
    assert is_reset(passed[-1])
    assert is_reset(sent["guest"][-1])
    # The last part of the hello never reached the server.
    assert sum(len(packets.read(one).data) for one in passed) < len(data)
    assert talk.reasons == ["its server name did not resolve to its address"]


def test_a_segment_does_not_change_what_was_checked():
    """Overlapping segments: before the whole hello, and after it."""
    talk = Talk(("www.test", "*"))
    talk.connect("www.test")
    data, other = hello("www.test"), hello("evi1.test")
    assert talk.send(tcp(ACK, data[:50], seq=1001, ack=5))["passt"]
    assert not talk.send(tcp(ACK, other[:60], seq=1001, ack=5))["passt"]
    assert not talk.send(tcp(ACK, other[40:90], seq=1041, ack=5))["passt"]
    assert not talk.send(tcp(ACK, data[60:], seq=1061, ack=5))["passt"]  # a hole
    assert talk.send(tcp(ACK, data[50:], seq=1051, ack=5))["passt"]
    assert not talk.send(tcp(ACK, other, seq=1001, ack=5))["passt"]
    assert not talk.send(tcp(ACK, b"x" * 99, seq=990, ack=5))["passt"]
    talk.come(back(ack=1001 + len(data)))  # the far end has it
    assert talk.send(tcp(ACK, b"next", seq=1001 + len(data), ack=5))["passt"]


def test_a_shared_address_is_open_for_each_permitted_name():
    """Of a large provider's addresses."""
    talk = Talk(("a.test", "*"), ("b.test", "*"))
    talk.connect("a.test", "b.test")
    segment = tcp(ACK, hello("a.test"), seq=1001, ack=5)
    assert talk.send(segment)["passt"] == [segment]
    talk = Talk(("a.test", "*"), ("b.test", "dns", None))
    talk.connect("a.test", "b.test")
    sent = talk.send(tcp(ACK, hello("b.test"), seq=1001, ack=5))
    assert is_reset(sent["passt"][0])


def test_what_is_not_tls_passes():
    talk = Talk(("www.test", "*"))
    talk.connect("www.test", ports=(40000, 22))
    segment = tcp(ACK, b"SSH-2.0-x\r\n", seq=1001, ack=5, ports=(40000, 22))
    assert talk.send(segment)["passt"] == [segment]


def test_a_hello_of_nonsense_ends_the_flow():
    for data in (b"\x16\x03\x01\x00\x04\x02\0\0\0", b"\x16\x09\x01\x00\x04\x01\0\0\0"):
        talk = Talk(("www.test", "*"))
        talk.connect("www.test")
        assert is_reset(talk.send(tcp(ACK, data, seq=1001, ack=5))["passt"][0])


def test_udp_of_the_port_of_quic_by_name_is_quic_and_other_udp_is_not():
    talk = Talk(("www.test", "*"))
    talk.resolve("www.test", WWW)
    assert talk.send(udp(b"x", ports=(4000, 443)))["passt"] == []
    assert len(talk.send(udp(b"x", ports=(4000, 123)))["passt"]) == 1


def test_a_revoked_permission_resets_tcp_and_drops_udp():
    talk = Talk((WWW, "tcp", 443), (WWW, "udp", 9))
    talk.send(tcp())
    talk.come(back(SYN | ACK))
    talk.send(tcp(ACK, b"data", seq=1001, ack=2))
    talk.send(udp(b"x", ports=(7, 9)))
    for number in talk.asked:
        talk.filter.decided(m.FlowCut(number), talk.now)
    talk.rules.clear()
    sent = talk.pump()
    inner, outer = sent["guest"][0], sent["passt"][0]
    # RFC 5961: only the exact number resets.
    assert packets.read(inner).sequence == 2
    assert packets.read(outer).sequence == 1005
    assert is_reset(inner)
    assert is_reset(outer)
    assert talk.send(tcp(ACK, b"more", seq=1005, ack=2))["passt"] == []
    assert talk.send(udp(b"x", ports=(7, 9)))["passt"] == []
    assert talk.come(back(ACK, b"late"))["guest"] == []
    assert talk.reasons == ["its permission was revoked"] * 2


def test_flow_ends_when_its_address_becomes_this_machines():
    """Else passt's socket would reach a service of this machine."""
    other = "203.0.113.9"
    talk = Talk((WWW, "udp", 9), (other, "udp", 9))
    talk.send(udp(b"x", ports=(7, 9)))
    talk.send(udp(b"x", ports=(7, 9), receiver=other))
    frames = FrameFilter([(packed(WWW), 32)])
    talk.filter.cut_own(frames.is_own)
    talk.pump()
    assert talk.reasons == ["its address is this machine's now"]
    assert talk.come(udp(b"y", ports=(9, 7), sender=WWW, receiver=GUEST))["guest"] == []
    answer = udp(b"y", ports=(9, 7), sender=other, receiver=GUEST)
    assert talk.come(answer)["guest"] == [answer]


def test_a_connection_without_a_flow_is_reset_at_its_own_number():
    """A guest that delays its acknowledgement does not take the reset of a cut flow.

    It sends a challenge (RFC 5961) and expects a reset at the number that it names.
    """
    talk = Talk((WWW, "tcp", 443))
    talk.send(tcp())
    talk.come(back(SYN | ACK))
    talk.send(tcp(ACK, b"data", seq=1001, ack=2))
    talk.come(back(ACK, b"not acknowledged yet", seq=2, ack=1005))
    (number,) = talk.asked
    talk.filter.decided(m.FlowCut(number), talk.now)
    talk.rules.clear()
    (missed,) = talk.pump()["guest"]
    assert packets.read(missed).sequence == 2
    sent = talk.send(tcp(ACK, seq=1005, ack=22))
    (reset,) = sent["guest"]
    assert is_reset(reset)
    assert packets.read(reset).sequence == 22
    assert sent["passt"] == []
    sent = talk.send(tcp(FIN | ACK, seq=1005, ack=22))
    assert packets.read(sent["guest"][0]).sequence == 22
    assert talk.send(tcp(RST, seq=1005))["guest"] == [], "a reset has no answer"


def test_without_a_viewer_nothing_is_carried():
    talk = Talk((WWW, "*"))
    talk.send(tcp())
    talk.filter.lost()
    assert is_reset(talk.pump()["passt"][0])
    assert talk.send(tcp(ports=(1, 443)))["passt"] == []
    assert code(packets.read(talk.send(question("a.test"))["guest"][0]).data) == 5


def test_what_belongs_to_no_flow_does_not_come_in():
    talk = Talk()
    assert talk.come(back(SYN))["guest"] == []
    assert talk.come(udp(b"x", sender=WWW, receiver=GUEST))["guest"] == []


@pytest.mark.parametrize(
    "odd",
    [
        tcp(fragment=0x2000),
        tcp(fragment=1),
        tcp(first=0x46),
        tcp(first=0x65),
        tcp(size=2000),
        tcp(size=30),
        tcp(sender="10.0.2.16"),
        tcp(sender=WWW),
        tcp(ACK),
        tcp(SYN | ACK),
        tcp(SYN, b"data"),
        MAC + b"\x81\x00\x00\x01\x08\x00" + tcp()[14:],
        MAC + b"\x86\xdd" + bytes(60),
        MAC + b"\x08\x00" + b"\x45",
        MAC,
    ],
)
def test_odd_packets_begin_nothing(odd):
    talk = Talk((WWW, "*"))
    assert talk.send(odd)["passt"] == []
    assert talk.asked == {}


def test_pings_are_asked_about():
    echo = frame(ICMP, b"\x08\0\0\0\0\x09\0\x01data")
    talk = Talk((WWW, "icmp", None))
    assert talk.send(echo)["passt"] == [echo]
    reply = frame(ICMP, b"\0\0\0\0\0\x09\0\x01data", sender=WWW, receiver=GUEST)
    assert talk.come(reply)["guest"] == [reply]
    assert Talk().send(echo)["passt"] == []
    redirect = frame(ICMP, b"\x05\0\0\0\0\x09\0\x01data")
    assert Talk((WWW, "*")).send(redirect)["passt"] == []


def test_limits_hold():
    talk = Talk((WWW, "*"))
    begun = 0
    for number in range(limits.FLOWS + 50):
        talk.now += 1
        begun += len(talk.send(tcp(ports=(1000 + number, 443)))["passt"])
    assert begun == limits.FLOWS
    talk = Talk((WWW, "*"))
    begun = sum(len(talk.send(tcp(ports=(1000 + n, 443)))["passt"]) for n in range(400))
    assert begun == limits.FLOWS_BURST
    talk = Talk((WWW, "*"))
    for number in range(limits.DESTINATIONS + 9):
        talk.now += 1
        talk.send(tcp(ports=(40000, 1000 + number)))
    assert len(talk.asked) == limits.DESTINATIONS


def test_idle_flows_end_and_their_permissions_are_given_back():
    talk = Talk((WWW, "*"))
    talk.send(tcp())
    talk.send(tcp(FIN | ACK, seq=1001, ack=1))
    talk.come(back(FIN | ACK))
    talk.now += limits.ENDED_SECONDS + 1
    talk.filter.tick(talk.now)
    assert [is_reset(one) for one in talk.pump()["passt"]] == [True]
    assert talk.reasons == ["closed"]
    talk.now += limits.IDLE_DESTINATION_SECONDS
    talk.filter.tick(talk.now)
    talk.pump()
    assert isinstance(talk.log[-1], m.FlowRelease)


def test_a_refusal_is_asked_about_again_after_a_while():
    """A rule that came meanwhile opens it; a flood asks once."""
    talk = Talk()
    for _ in range(9):
        talk.send(tcp())
    assert len(talk.asked) == 1
    talk.rules.add((WWW, "*"))
    talk.now += limits.REFUSED_SECONDS + 0.1
    assert len(talk.send(tcp())["passt"]) == 1


def test_few_packets_wait_for_an_answer():
    talk = Talk()
    for number in range(100):
        talk.filter.outward(tcp(ports=(1000 + number, 443)), talk.now)
    (ask,) = talk.filter.to_viewer
    talk.filter.decided(m.FlowAnswer(ask.number, allowed=True), talk.now)
    assert len(talk.filter.to_passt) == limits.WAITING


def test_questions_have_a_pace():
    talk = Talk(("www.test", "*"))
    sent = [talk.send(question("www.test"))["resolver"] for _ in range(400)]
    assert sum(map(len, sent)) == limits.LOOKUPS_BURST


def test_bindings_are_bounded():
    names = [f"a{number}.test" for number in range(limits.NAMES_PER_ADDRESS + 9)]
    talk = Talk(*((name, "dns", None) for name in names))
    for name in names:
        talk.now += 1
        talk.resolve(name, WWW, ttl=3000)
    talk.send(tcp())
    asked = [host for host, protocol, _ in talk.asked.values() if protocol == "tcp"]
    assert len(asked) == limits.NAMES_PER_ADDRESS + 1
    assert asked[-1] == WWW


@pytest.mark.parametrize(
    "name", [b"\xc0\x0c", b"\xc0\x0e\0", b"\x01a\xc0\x0c", b"\xc0\xff"]
)
def test_names_lead_backwards(name):
    """A pointer to itself or forwards ends the reading, and no loop runs."""
    head = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0)
    with pytest.raises(dns.DnsError):
        dns.read_question(head + name + struct.pack(">HH", 1, 1) + bytes(300))


def test_a_name_whose_label_has_a_dot_is_another_name():
    head = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0)
    data = head + b"\x08www.test\0" + struct.pack(">HH", 1, 1)
    with pytest.raises(dns.DnsError, match="dot"):
        dns.read_question(data)


def test_a_hello_that_is_too_long_is_refused():
    data = b"\x16\x03\x01\x10\x00\x01\x00\x80\x00" + bytes(4092)
    with pytest.raises(HelloError, match="long"):
        read_hellos(data)


def test_a_hello_with_two_names_is_refused():
    """A later reader may take the other one."""
    name = b"\0\0\0\x0b\0\x09\0\0\x06a.test"
    extensions = name + name
    body = bytes(34) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    for made, wrong in ((name, False), (extensions, True)):
        hello_ = body + struct.pack(">H", len(made)) + made
        message = b"\x01" + len(hello_).to_bytes(3) + hello_
        data = b"\x16\x03\x01" + struct.pack(">H", len(message)) + message
        if wrong:
            with pytest.raises(HelloError, match="more than one server name"):
                read_hellos(data)
        else:
            assert read_hellos(data) == [Hello("a.test")]
    assert read_hellos(b"\x16") == []
    assert read_hellos(b"\x16\x03\x01\0\x05") == []


# -- what a record allows ------------------------------------------------------------------


def given(talk, **more):
    """Limits of a record arrive."""
    whole = {"flows": 1024, "new_flows": 100, "lookups": 50}
    whole |= {"send_rate": None, "receive_rate": None, "encrypted_hello": True, **more}
    talk.filter.decided(m.FlowLimits(**whole), talk.now)


def test_a_record_allows_fewer_flows_and_questions():
    talk = Talk((WWW, "*"), ("www.test", "*"))
    given(talk, flows=3, new_flows=5, lookups=2)
    sent = [talk.send(tcp(ports=(1000 + n, 443)))["passt"] for n in range(9)]
    assert sum(map(len, sent)) == 3
    sent = [talk.send(question("www.test"))["resolver"] for _ in range(20)]
    assert sum(map(len, sent)) == 8
    given(talk, new_flows=5)
    sent = [talk.send(tcp(ports=(2000 + n, 443)))["passt"] for n in range(50)]
    assert sum(map(len, sent)) == 10


def test_a_record_allows_no_more_than_everybody_has():
    talk = Talk((WWW, "*"))
    given(talk, flows=9999, new_flows=9999)
    sent = [talk.send(tcp(ports=(1000 + n, 443)))["passt"] for n in range(500)]
    assert sum(map(len, sent)) == limits.FLOWS_BURST
    for number in range(limits.FLOWS):
        talk.now += 1
        talk.send(tcp(ports=(2000 + number, 443)))
    assert len(talk.filter._flows) == limits.FLOWS


def encrypted(data):
    """A hello with the extension that an encrypted one, or a browser's noise, has."""
    end = len(data)
    noise = b"\xfe\x0d" + struct.pack(">H", 40) + bytes(40)
    # The lengths of the record, the message and the extensions grow with it.
    body = bytearray(data + noise)
    at = 9 + 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    for place, size in ((3, 2), (6, 3), (at, 2)):
        old = int.from_bytes(body[place : place + size])
        body[place : place + size] = (old + len(noise)).to_bytes(size)
    assert len(body) == end + len(noise)
    return bytes(body)


def test_an_encrypted_hello_is_the_records_matter():
    """Its outer name is compared; a record may close it."""
    data = encrypted(hello("www.test"))
    assert read_hellos(data) == [Hello("www.test", encrypted=True)]
    for allowed in (True, False):
        talk = Talk(("www.test", "*"))
        given(talk, encrypted_hello=allowed)
        talk.connect("www.test")
        sent = talk.send(tcp(ACK, data, seq=1001, ack=5))["passt"]
        assert is_reset(sent[0]) is not allowed
        plain = Talk(("www.test", "*"))
        given(plain, encrypted_hello=allowed)
        plain.connect("www.test")
        assert not is_reset(
            plain.send(tcp(ACK, hello("www.test"), 1001, 5))["passt"][0]
        )
    assert talk.reasons == ["its ClientHello is encrypted (ECH)"]


def test_a_rate_is_how_long_a_side_is_not_read():
    """Of each way by itself."""
    talk = Talk((WWW, "*"))
    rates = talk.filter.rates
    rates.count(1 << 30, 100.0, outward=True)
    assert rates.early(100.0, outward=True) == 0
    given(talk, send_rate=100_000, receive_rate=1_000_000)
    rates.count(10_000, 100.0, outward=True)
    assert rates.early(100.0, outward=True) == 0
    rates.count(50_000, 100.0, outward=True)
    rates.count(50_000, 100.0, outward=False)
    assert rates.early(100.0, outward=True) == pytest.approx(0.5)
    assert rates.early(100.0, outward=False) == 0
    assert rates.early(100.6, outward=True) == 0


def test_answers_of_the_name_server_are_received_bytes():
    """Attack: a record's rate is small, and long texts come as answers."""
    talk = Talk(("www.test", "*"), (WWW, "*"))
    given(talk, receive_rate=10_000)
    came = asked = 0
    for _ in range(200):
        talk.now += 0.05
        asked += 1
        for sent in talk.send(question("www.test", 16, room=4096))["resolver"]:
            head = sent[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0)
            text = record("www.test", 16, (bytes([250]) + bytes(250)) * 5)
            made = head + wire("www.test") + struct.pack(">HH", 16, 1) + text
            talk.filter.answered(made, talk.now)
            came += sum(map(len, talk.pump()["guest"]))
        talk.filter.count_answers(talk.now)
    assert came <= 10_000 * asked * 0.05 + limits.RATE_LEAST + 1500
    assert came >= 10_000 * asked * 0.05 / 2
    assert talk.filter.rates.early(talk.now, outward=False) > 0, "others wait for them"


def test_names_are_found_while_a_download_uses_all_of_the_rate():
    talk = Talk(("www.test", "*"))
    given(talk, receive_rate=10_000)
    talk.filter.rates.count(100_000, talk.now, outward=False)
    assert packed(WWW) in talk.resolve("www.test", WWW)


# -- a connection by the ports of an earlier one -----------------------------------------


def closed_by_both(talk, names=("www.example.org",)):
    """A permitted connection, from its first packet to its last."""
    talk.connect(*names)
    talk.come(back(SYN | ACK, seq=1))
    first = hello("www.example.org")
    talk.send(tcp(ACK, first, seq=1001, ack=2))
    talk.come(back(ACK, seq=2, ack=1001 + len(first)))
    talk.send(tcp(FIN | ACK, seq=1001 + len(first), ack=2))
    talk.come(back(FIN | ACK, seq=2, ack=1002 + len(first)))


@pytest.mark.parametrize("seq", [1000, 900000])
def test_second_connection_by_the_same_ports_is_looked_at(seq):
    """Attack: passt has forgotten the first one, the filter would take it for that."""
    talk = Talk(("www.example.org", "*"))
    closed_by_both(talk)
    again = talk.send(tcp(seq=seq))
    begun = [one for one in talk.log if isinstance(one, m.FlowBegun)]
    assert len(begun) == 2, "it is a flow of its own, in the log too"
    assert len(again["passt"]) <= 2
    talk.come(back(SYN | ACK, seq=1, ack=seq + 1))
    bad = hello("other.example.org")
    sent = talk.send(tcp(ACK, bad, seq=seq + 1, ack=2))
    assert all(is_reset(one) for one in sent["passt"])
    assert "resolve to its address" in talk.reasons[-1]


def test_first_packet_that_is_sent_again_begins_nothing():
    talk = Talk(("www.example.org", "*"))
    talk.connect("www.example.org")
    assert len(talk.send(tcp())["passt"]) == 1
    assert talk.reasons == []
    assert len([one for one in talk.log if isinstance(one, m.FlowBegun)]) == 1


def test_first_packet_in_an_open_connection_ends_it():
    """passt takes it for what its version takes it for: it gets a reset before it."""
    talk = Talk(("www.example.org", "*"))
    talk.connect("www.example.org")
    talk.come(back(SYN | ACK, seq=1))
    first = hello("www.example.org")
    talk.send(tcp(ACK, first, seq=1001, ack=2))
    talk.come(back(ACK, seq=2, ack=1001 + len(first)))
    for flags in (SYN | FIN, SYN | ACK):
        sent = talk.send(tcp(flags, seq=70000))["passt"]
        assert all(is_reset(one) for one in sent)
    reset = talk.send(tcp(SYN, seq=70000))["passt"]
    assert [is_reset(one) for one in reset] == [False]
    assert talk.reasons == ["its ports were reused"]
    sent = talk.send(tcp(ACK, hello("other.example.org"), seq=70001, ack=2))
    assert all(is_reset(one) for one in sent["passt"])


def decided_late(sent, seconds, **more):
    """A filter whose user takes long to say yes to what a guest sends."""
    talk = Talk(**more)
    talk.filter.outward(sent, talk.now)
    (asked,) = talk.filter.to_viewer
    talk.now += seconds
    talk.filter.decided(m.FlowAnswer(asked.number, allowed=True), talk.now)
    return talk


def test_a_question_is_answered_however_long_the_user_was_asked():
    talk = decided_late(question("www.test"), limits.LOOKUP_SECONDS + 1)
    (asked,) = talk.filter.to_resolver
    talk.filter.tick(talk.now)  # which forgets questions that are too old
    head = asked[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0)
    found = record("www.test", dns.A, packed(WWW))
    answer = head + wire("www.test") + struct.pack(">HH", dns.A, 1) + found
    talk.filter.answered(answer, talk.now)
    (reply,) = talk.filter.to_guest
    assert packets.read(reply).data.endswith(packed(WWW))


def test_a_name_server_is_not_left_for_the_time_that_the_user_was_asked():
    talk = decided_late(question("www.test"), 5, name_servers=2)
    talk.filter.tick(talk.now + 1)
    assert talk.filter.name_server == 0


def test_a_flow_is_not_idle_for_the_time_that_the_user_was_asked():
    ping = frame(ICMP, struct.pack(">BBHHH", 8, 0, 0, 7, 1))
    talk = decided_late(ping, limits.IDLE_SECONDS["icmp"] + 1)
    assert talk.filter.to_passt == [ping]
    talk.filter.tick(talk.now + 1)
    assert not any(isinstance(one, m.FlowEnded) for one in talk.filter.to_viewer)
