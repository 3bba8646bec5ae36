"""IPv6 of a guest: which frames reach passt, and which begin a flow."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

import pytest

from broker.core.limits import network as limits
from broker.core.streams import network_flows as m
from broker.host.network.addresses import GATEWAY6, GUEST, GUEST6, template_interface
from broker.host.network.flowguard import dns_messages as dns
from broker.host.network.flowguard.flow_filter import FlowFilter
from broker.host.network.frameguard import packets
from broker.host.network.frameguard.ethernet_frames import FrameFilter
from broker.host.network.frameguard.packets import ACK, ICMP6, RST, SYN, TCP, UDP
from tests.broker.host.network.test_flow_filter import (
    MAC,
    RESOLVER,
    Talk,
    hello,
    packed,
    question,
    record,
    wire,
)

WWW6, EVIL6, OWN6 = "2606:2800:220:1::34", "2606:2800:220:1::99", "2606:2800::2"
LINK = "fe80::5054:ff:fe12:3456"
NOTHING = "::"


def six(text):
    return IPv6Address(text).packed


def frame6(protocol, body, sender=GUEST6, receiver=WWW6, *, hops=64, **head):
    fields = {"first": 6 << 28, "size": len(body), **head}
    ip = struct.pack(">IHBB", fields["first"], fields["size"], protocol, hops)
    return MAC + b"\x86\xdd" + ip + six(sender) + six(receiver) + body


def tcp6(flags=SYN, data=b"", seq=1000, ack=0, ports=(40000, 443), **where):
    body = struct.pack(">HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack, 80, flags, 9, 0, 0)
    return frame6(TCP, body + data, **where)


def back6(flags=ACK, data=b"", seq=1, ack=1001, ports=(443, 40000)):
    return tcp6(flags, data, seq, ack, ports, sender=WWW6, receiver=GUEST6)


def udp6(data=b"x", ports=(40000, 9), **where):
    body = struct.pack(">4H", *ports, 8 + len(data), 0) + data
    return frame6(UDP, body, **where)


def icmp6(kind, body=b"", **where):
    return frame6(ICMP6, bytes([kind, 0, 0, 0]) + (body or bytes(20)), **where)


def solicitation(**where):
    asked = {"receiver": "ff02::1:ff00:2", "sender": LINK, "hops": 255, **where}
    return icmp6(135, bytes(4) + six(GATEWAY6) + b"\1\1" + MAC[6:], **asked)


def advertisement(target, **where):
    told = {"receiver": GATEWAY6, "sender": LINK, "hops": 255, **where}
    return icmp6(136, bytes(4) + six(target) + b"\2\1" + MAC[6:], **told)


# -- the frame filter of ``network = "user"`` ------------------------------------------


def user():
    return FrameFilter([(six(OWN6), 128), (six("2606:2801::"), 32)])


@pytest.mark.parametrize(
    "target",
    [
        *(WWW6, "2001:4860:4860::8888", "fd12::1", "64:ff9b::808:808"),
        *("2002:808:808::1", "2606:2800::3"),
    ],
)
def test_other_machines_may_be_reached(target):
    for made in (tcp6(receiver=target), udp6(receiver=target)):
        assert user().may_pass(made)


@pytest.mark.parametrize(
    "target",
    [
        *("::1", "::", "::ffff:127.0.0.1", "::ffff:192.168.1.1", "::127.0.0.1"),
        *("fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1"),
        *(OWN6, "2606:2801::77", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::1", "2002:7f00:1::1", "2002:a9fe:a9fe::1"),
        *("fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"),
    ],
)
def test_this_machine_and_special_addresses_may_not(target):
    """Attack: IPv4 addresses within those of IPv6 lead to this machine, too."""
    echo = icmp6(128, receiver=target)
    for made in (tcp6(receiver=target), udp6(receiver=target), echo):
        assert not user().may_pass(made)


def test_own_ipv4_addresses_are_closed_through_a_translator():
    one = FrameFilter([(packed("192.0.2.2"), 32)])
    assert not one.may_pass(tcp6(receiver="64:ff9b::c000:202"))
    assert one.may_pass(tcp6(receiver="64:ff9b::c000:203"))


ODD = [
    tcp6(first=4 << 28),
    tcp6(size=19),
    tcp6(size=0),
    tcp6() + b"\0\0",
    tcp6()[:50],
    frame6(44, struct.pack(">BBHI", TCP, 0, 1, 7) + tcp6()[54:]),  # a fragment
    frame6(0, bytes([TCP, 0, 5, 2, 0, 0, 1, 0]) + tcp6()[54:]),  # hop by hop
    frame6(43, bytes([TCP, 2, 0, 1]) + bytes(20) + tcp6()[54:]),  # a route
    frame6(60, bytes([TCP, 0]) + bytes(6) + tcp6()[54:]),
    frame6(1, bytes(40)),  # ICMP of IPv4
    frame6(59, b""),
    MAC + b"\x81\x00\x00\x01\x86\xdd" + tcp6()[14:],
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_packets_are_dropped(odd):
    """Further headers among them: a later reader may see another packet."""
    assert not user().may_pass(odd)
    talk = Talk6((WWW6, "*"))
    assert talk.send(odd)["passt"] == []
    assert talk.asked == {}


def test_neighbours_are_asked_for_and_nothing_else_of_the_link():
    one = user()
    assert one.may_pass(solicitation())
    assert one.may_pass(solicitation(receiver=GATEWAY6))
    assert one.may_pass(icmp6(133, receiver="ff02::2", sender=LINK, hops=255))
    assert one.may_pass(advertisement(GUEST6))
    ask = udp6(ports=(546, 547), receiver="ff02::1:2", sender=LINK)
    assert one.may_pass(ask)
    for kind in (128, 134, 137, 143):  # among them a router's, and a redirect
        assert not one.may_pass(icmp6(kind, receiver="ff02::1", hops=255))
    assert not one.may_pass(solicitation(hops=64))
    assert not one.may_pass(solicitation(receiver="ff02::fb"))
    assert not one.may_pass(udp6(ports=(546, 547), receiver="ff02::fb"))
    assert not one.may_pass(udp6(ports=(546, 53), receiver="ff02::1:2"))


# -- the flow filter of ``network = "rules"`` -------------------------------------------


class Talk6(Talk):
    """A filter whose guest has IPv6."""

    def __init__(self, *rules, leases=False):
        super().__init__(*rules)
        self.filter = FlowFilter(
            GUEST,
            RESOLVER,
            lambda f: not FrameFilter().may_pass(f),
            leases=leases,
            guest6=GUEST6,
            gateway6=GATEWAY6,
        )

    def resolve6(self, name, *addresses, records=b"", ttl=60):
        (asked,) = self.send(question(name, dns.AAAA))["resolver"]
        made = records or b"".join(
            record(name, dns.AAAA, six(one), ttl) for one in addresses
        )
        count = len(addresses) or 5
        head = asked[:2] + struct.pack(">5H", 0x8180, 1, count, 0, 0)
        answer = head + wire(name) + struct.pack(">HH", dns.AAAA, 1) + made
        self.filter.answered(answer, self.now)
        (reply,) = self.pump()["guest"]
        return packets.read(reply).data


def test_an_allowed_name_opens_its_address_for_its_port():
    talk = Talk6(("www.test", "*"))
    assert talk.send(tcp6())["passt"] == []
    reply = talk.resolve6("www.test", WWW6)
    assert six(WWW6) in reply
    assert reply[6:8] == b"\0\1"
    assert talk.send(tcp6(seq=5))["passt"] == [tcp6(seq=5)]
    begun = [one for one in talk.log if isinstance(one, m.FlowBegun)]
    assert begun[0].address == WWW6
    assert talk.asked[begun[0].number] == ("www.test", "tcp", 443)
    answer = back6(SYN | ACK)
    assert talk.come(answer)["guest"] == [answer]
    assert talk.send(tcp6(receiver=EVIL6))["passt"] == []


def test_an_answer_binds_the_names_own_addresses_only():
    """Of the family that was asked for, and of their size."""
    talk = Talk6(("www.test", "*"))
    records = (
        record("www.test", dns.CNAME, wire("a.test"))
        + record("bank.test", dns.AAAA, six(EVIL6))
        + record("a.test", dns.A, six(EVIL6))
        + record("a.test", dns.AAAA, packed("93.184.216.34"))
        + record("a.test", dns.AAAA, six(WWW6))
    )
    reply = talk.resolve6("www.test", records=records)
    assert six(WWW6) in reply
    assert six(EVIL6) not in reply
    assert reply[6:8] == b"\0\2", "the alias, and its address"


@pytest.mark.parametrize(
    "inner", ["fd12::1", "fc00::1", "64:ff9b::a00:1", "2002:c0a8:101::1", "2001:db8::1"]
)
def test_rebinding_opens_no_inner_address(inner):
    """Also where a translator leads to one of IPv4."""
    talk = Talk6(("www.test", "*"))
    talk.resolve6("www.test", inner)
    assert talk.send(tcp6(receiver=inner))["passt"] == []
    talk = Talk6((str(ip_address(inner)), "*"))
    assert len(talk.send(tcp6(receiver=inner))["passt"]) == 1


@pytest.mark.parametrize(
    "closed", ["::1", "::ffff:10.0.0.1", "fe80::9", "fd00:ec2::254", "ff05::2"]
)
def test_closed_addresses_stay_closed(closed):
    talk = Talk6((str(ip_address(closed)), "*"), ("www.test", "*"))
    talk.resolve6("www.test", closed)
    assert talk.send(tcp6(receiver=closed))["passt"] == []


def test_a_hello_to_another_server_ends_the_flow():
    talk = Talk6(("www.test", "*"))
    talk.resolve6("www.test", WWW6)
    talk.send(tcp6())
    talk.come(back6(SYN | ACK))
    sent = talk.send(tcp6(ACK, hello("evil.test"), seq=1001, ack=2))
    inner, outer = packets.read(sent["guest"][-1]), packets.read(sent["passt"][-1])
    assert inner.flags & outer.flags & RST
    assert (inner.receiver, outer.receiver) == (six(GUEST6), six(WWW6))
    assert talk.reasons == ["its server name did not resolve to its address"]
    # A reset that the guest's kernel takes: its checksum covers the addresses.
    pseudo = inner.sender + inner.receiver + struct.pack(">HI", TCP, 20)
    assert packets.checksum(pseudo + sent["guest"][-1][54:]) == 0


def test_refusals_are_told():
    """TCP by a reset, others as RFC 4443, 3.1 has it."""
    talk = Talk6()
    (reset,) = talk.send(tcp6())["guest"]
    assert packets.read(reset).flags & RST
    (told,) = talk.send(udp6())["guest"]
    packet = packets.read(told)
    assert (packet.protocol, packet.kind, told[55]) == (ICMP6, 1, 1)
    assert told[62:110] == udp6()[14:62]
    size = len(told) - 54
    pseudo = packet.sender + packet.receiver + struct.pack(">HI", ICMP6, size)
    assert packets.checksum(pseudo + told[54:]) == 0


def test_pings_are_asked_about():
    echo = icmp6(128, b"\0\x09\0\x01data")
    talk = Talk6((WWW6, "icmp", None))
    assert talk.send(echo)["passt"] == [echo]
    reply = icmp6(129, b"\0\x09\0\x01data", sender=WWW6, receiver=GUEST6)
    assert talk.come(reply)["guest"] == [reply]
    assert Talk6().send(echo)["passt"] == []


def test_only_a_guests_own_addresses_send():
    talk = Talk6((WWW6, "*"))
    for sender in ("fd76:6974:7261:3::1", WWW6, LINK, NOTHING, GATEWAY6):
        assert talk.send(tcp6(sender=sender))["passt"] == []
    for sender in (GUEST6, "fd76:6974:7261:2:1234::9"):
        assert len(talk.send(tcp6(sender=sender, seq=7))["passt"]) >= 1


def test_without_ipv6_nothing_of_it_passes():
    talk = Talk((WWW6, "*"), ("www.test", "*"))
    for made in (tcp6(), udp6(), solicitation(), advertisement(GUEST6)):
        assert talk.send(made)["passt"] == []
    assert talk.send(question("www.test", dns.AAAA))["resolver"] == []


def test_a_datagram_by_the_ports_of_dhcp_is_none():
    """Attack: it would pass to any host, without a decision."""
    talk = Talk6(leases=True)
    assert talk.send(udp6(ports=(68, 67)))["passt"] == []
    assert talk.send(udp6(ports=(546, 547)))["passt"] == []
    assert talk.send(udp6(ports=(546, 547), receiver=GATEWAY6))["passt"] == []


@pytest.mark.parametrize("leases", [False, True])
def test_questions_for_an_address_are_few_and_only_of_a_machine(leases):
    talk = Talk6(leases=leases)
    ask = udp6(ports=(546, 547), receiver="ff02::1:2", sender=LINK)
    sent = [talk.send(ask)["passt"] for _ in range(3 * limits.LEASES_BURST)]
    assert sum(map(len, sent)) == (limits.LEASES_BURST if leases else 0)
    answer = udp6(ports=(547, 546), sender=GATEWAY6, receiver=LINK)
    assert talk.come(answer)["guest"] == ([answer] if leases else [])


# -- spoofed neighbours ---------------------------------------------------------------


def arp(sender=GUEST, *, kind=1, mac=MAC[6:], size=28):
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, kind) + mac + packed(sender)
    return MAC + b"\x08\x06" + (body + bytes(6) + packed("10.0.2.2"))[:size]


def test_a_guest_speaks_for_its_own_ipv4_address_only():
    """ARP spoofing: for the gateway, another guest, or by another card's address."""
    talk = Talk()
    for good in (arp(), arp(kind=2), arp("0.0.0.0")):
        assert talk.send(good)["passt"] == [good]
    bad = (
        arp("10.0.2.2"),
        arp("10.0.2.16"),
        arp(mac=bytes(6)),
        arp(kind=3),
        arp(size=20),
    )
    for one in (*bad, MAC + b"\x08\x06" + bytes(28), MAC + b"\x08\x06"):
        assert talk.send(one)["passt"] == []


def test_a_guest_tells_of_its_own_ipv6_addresses_only():
    """Spoofed discovery: for the gateway, another network, or as a router."""
    talk = Talk6()
    for good in (GUEST6, LINK, "fd76:6974:7261:2:1234::9"):
        assert talk.send(advertisement(good))["passt"] == [advertisement(good)]
    for bad in (GATEWAY6, WWW6, NOTHING, "fd76:6974:7261:3::1"):
        assert talk.send(advertisement(bad))["passt"] == []
        assert talk.send(advertisement(LINK, sender=bad))["passt"] == []
        assert talk.send(solicitation(sender=bad))["passt"] == []
    router = icmp6(134, receiver="ff02::1", sender=LINK, hops=255)
    redirect = icmp6(137, receiver=GATEWAY6, sender=LINK, hops=255)
    for one in (router, redirect):
        assert talk.send(one)["passt"] == []
    answer = icmp6(134, receiver="ff02::1", sender=GATEWAY6, hops=255)
    assert talk.come(answer)["guest"] == [answer]


@pytest.mark.parametrize("flood", [arp(), solicitation(), advertisement(GUEST6)])
def test_a_flood_of_questions_for_neighbours_is_bounded(flood):
    talk = Talk6()
    sent = [talk.send(flood)["passt"] for _ in range(3 * limits.NEIGHBOURS_BURST)]
    assert sum(map(len, sent)) == limits.NEIGHBOURS_BURST
    talk.now += 1
    assert talk.send(flood)["passt"] == [flood]


@pytest.mark.parametrize(
    ("routes6", "routes4", "link_local", "template"),
    [
        ([("eth0", 1)], [], ["eth0", "wlan0"], ("eth0", True)),
        ([("wlan0", 3)], ["eth0"], ["eth0", "wlan0"], ("wlan0", True)),
        ([("lo", 1), ("eth0", 0x200)], [], ["wlan0"], ("wlan0", True)),
        ([], ["tun0"], ["eth0"], ("eth0", True)),
        ([], ["eth0"], [], ("eth0", False)),
        ([], [], [], ("lo", False)),
    ],
)
def test_template_prefers_default_route_with_link_local_address(
    tmp_path, routes6, routes4, link_local, template
):
    zeros = "0" * 32
    rows = [
        f"{zeros} 00 {zeros} 00 {zeros} 1 1 0 {flags:08x} {name}"
        for name, flags in routes6
    ]
    (tmp_path / "ipv6_route").write_text("".join(f"{row}\n" for row in rows))
    rows = [f"{name} 00000000 010200C0 0003 0 0 0 00000000 0 0 0" for name in routes4]
    rows = [
        "Iface Destination Gateway",
        "eth9 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0",
        *rows,
    ]
    (tmp_path / "route").write_text("".join(f"{row}\n" for row in rows))
    rows = [f"fe80{zeros[4:]} 02 40 20 80 {name}" for name in link_local]
    rows += [f"{zeros[1:]}1 01 80 10 80 lo", f"fd77{zeros[4:]} 02 40 00 80 eth8"]
    (tmp_path / "if_inet6").write_text("".join(f"{row}\n" for row in rows))
    assert template_interface(tmp_path) == template


def test_template_is_loopback_without_files_of_the_kernel(tmp_path):
    assert template_interface(tmp_path / "missing") == ("lo", False)
