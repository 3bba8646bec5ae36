"""Which frames of a guest may reach passt, and how passt is told to behave."""

from __future__ import annotations

import itertools
import struct
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import SetupError
from broker.core.limits import FRAME_BYTES
from broker.host.network.frameguard.ethernet_frames import (
    FrameError,
    FrameFilter,
    FrameStream,
)
from broker.host.network.passt import (
    GATEWAY,
    GUEST,
    RESOLVER,
    RESOLVER6,
    forwarded_resolvers,
    kernel_args,
    passt_args,
    start_user_network,
)
from broker.host.network.resolvers import search_domains

MACS = bytes(12)
OWN = "192.0.2.2"


def packet(target, *, proto=6, port=80, version=4, words=5, fragment=0):
    head = bytes([version << 4 | words, 0]) + bytes(4)
    head += struct.pack(">HBBH", fragment, 64, proto, 0)
    head += IPv4Address(GUEST).packed + IPv4Address(target).packed
    head = head.ljust(words * 4, b"\0")
    return MACS + b"\x08\x00" + head + struct.pack(">HHHH", 68, port, 8, 0)


def own():
    return FrameFilter([(IPv4Address(OWN).packed, 32)])


def stream_of_frames():
    return FrameStream(own().may_pass)


def framed(*frames):
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


OPEN = ["192.0.2.3", "8.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", GATEWAY]
OPEN += [RESOLVER, "1.0.0.0", "126.255.255.255", "128.0.0.1", "223.255.255.255"]
OPEN += ["169.253.255.255", "169.255.0.0"]
CLOSED = ["127.0.0.1", "127.0.0.53", "127.255.255.255", "0.0.0.0", "0.1.2.3"]
CLOSED += ["169.254.169.254", "169.254.0.0", "224.0.0.251", "239.255.255.250"]
CLOSED += ["240.0.0.1", "255.255.255.255", OWN]


@pytest.mark.parametrize("target", OPEN)
def test_other_machines_may_be_reached(target):
    assert own().may_pass(packet(target))


@pytest.mark.parametrize("target", CLOSED)
def test_this_machine_and_special_addresses_may_not(target):
    for proto in (1, 6, 17):
        assert not own().may_pass(packet(target, proto=proto))


def test_dhcp_is_the_only_broadcast():
    everybody = "255.255.255.255"
    assert own().may_pass(packet(everybody, proto=17, port=67))
    assert own().may_pass(packet(everybody, proto=17, port=67, words=15))
    assert own().may_pass(packet(everybody, proto=17, port=67, fragment=0x4000))
    for wrong in (
        packet(everybody, proto=17, port=68),
        packet(everybody, proto=6, port=67),
        packet(everybody, proto=17, port=67, words=4),
        packet(everybody, proto=17, port=67, words=15)[:70],
        packet(everybody, proto=17, port=67, fragment=0x2000),  # more fragments
        packet(everybody, proto=17, port=67, fragment=1),
    ):
        assert not own().may_pass(wrong)


@pytest.mark.parametrize(
    "frame",
    [
        MACS + b"\x86\xdd" + bytes(40),  # IPv6
        MACS + b"\x81\x00" + b"\0\1" + packet("8.8.8.8")[12:],  # VLAN tag
        MACS + b"\x88\xa8" + bytes(60),
        MACS + b"\x00\x2e" + bytes(46),  # a length, not a type
        MACS + b"\x08\x00",  # no IP header
        packet("8.8.8.8")[:33],  # half of one
        packet("8.8.8.8", version=6),
    ],
)
def test_unknown_frames_are_dropped(frame):
    assert not own().may_pass(frame)


def test_arp_passes():
    assert own().may_pass(MACS + b"\x08\x06" + bytes(28))


@given(
    st.lists(st.sampled_from(OPEN + CLOSED), max_size=30),
    st.lists(st.integers(0, 3000), max_size=10),
)
def test_chunking_changes_nothing(targets, cuts):
    stream = framed(*map(packet, targets))
    good = framed(*(packet(target) for target in targets if target in OPEN))
    marks = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    frames = stream_of_frames()
    passed = b"".join(
        send for a, b in itertools.pairwise(marks) for send in frames.feed(stream[a:b])
    )
    assert passed == good
    assert frames.dropped == sum(target in CLOSED for target in targets)


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_an_error_of_ours(data):
    frames = stream_of_frames()
    try:
        passed = b"".join(frames.feed(data))
    except FrameError:
        return
    assert b"".join(stream_of_frames().feed(passed)) == passed, (
        "what passed once passes again"
    )


@pytest.mark.parametrize("size", [14, FRAME_BYTES])
def test_a_frame_at_the_limits_is_taken(size):
    frame = packet("8.8.8.8").ljust(size, b"x")[:size]
    frames = stream_of_frames()
    frames.feed(framed(frame))
    assert frames.dropped == (size == 14)


@pytest.mark.parametrize("size", [0, 13, FRAME_BYTES + 1, 0xFFFFFFFF])
def test_a_frame_beyond_the_limits_ends_the_stream(size):
    with pytest.raises(FrameError):
        stream_of_frames().feed(struct.pack(">I", size))


def test_an_address_that_becomes_ours_is_closed_at_once():
    frames = own()
    assert frames.may_pass(packet("198.51.100.7"))
    frames.own = frozenset({(IPv4Address("198.51.100.7").packed, 32)})
    assert not frames.may_pass(packet("198.51.100.7"))


# -- passt ---------------------------------------------------------------------------


def test_passt_maps_nothing_to_the_host_and_forwards_nothing_inwards():
    words = passt_args(Path("/usr/bin/passt"), 9, resolvers=())
    assert "--no-map-gw" in words
    assert words[words.index("--tcp-ports") + 1] == "none"
    assert words[words.index("--udp-ports") + 1] == "none"
    assert words[words.index("--fd") + 1] == "9"
    assert "--dns-forward" not in words


def test_passt_forwards_questions_in_both_families():
    argv = passt_args(Path("/usr/bin/passt"), 9, resolvers=(RESOLVER, RESOLVER6))
    options = [argv[n + 1] for n, word in enumerate(argv) if word == "--dns-forward"]
    assert options == [RESOLVER, RESOLVER6]


@pytest.mark.parametrize(
    ("text", "resolvers"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", (RESOLVER,)),
        ("", (RESOLVER,)),
        ("# nameserver 8.8.8.8\n", (RESOLVER,)),
        ("nameserver ::1\nnameserver\nnameserver nonsense\n", (RESOLVER6,)),
        ("nameserver 2001:db8::53\n", (RESOLVER6,)),
        ("nameserver 127.0.0.1\nnameserver 2001:db8::53\n", (RESOLVER, RESOLVER6)),
        ("nameserver fe80::1%eth0\n", (RESOLVER,)),
        ("nameserver fe80::1%eth0\nnameserver 192.0.2.53\n", ()),
        ("nameserver 2001:db8::53\nnameserver 192.0.2.53\n", ()),
        ("nameserver 127.0.0.1\nnameserver 192.0.2.53\n", ()),
        ("search a b\nnameserver\t192.0.2.53", ()),
    ],
)
def test_resolver_forwarded_if_guest_reaches_no_server(text, resolvers):
    assert forwarded_resolvers(text) == resolvers


def test_kernel_arguments_name_resolvers_and_search_list():
    text = "nameserver ::1\nnameserver 127.0.0.1\nsearch corp.example b=c lab.\n"
    search = "vitrail.search=corp.example,lab."
    dns, dns6 = f"vitrail.dns={RESOLVER}", f"vitrail.dns6={RESOLVER6}"
    assert kernel_args(text, decided=False) == ("vitrail.net=dhcp", dns, dns6, search)
    assert kernel_args(text, decided=True) == ("vitrail.net=dhcp", dns, search)
    assert kernel_args("nameserver 192.0.2.1", decided=False) == ("vitrail.net=dhcp",)


@pytest.mark.parametrize(
    ("text", "domains"),
    [
        ("search a.example b.example\n", ["a.example", "b.example"]),
        ("search a.example\ndomain b.example c.example\n", ["b.example"]),
        ("search . a;b a'b a\u0430 -x x- _tcp.example\n", ["_tcp.example"]),
        (f"search {'a' * 254} b\n", ["b"]),
        ("search 1 2 3 4 5 6 7\n", list("123456")),
        (f"search {'a' * 200} {'b' * 55} c\n", ["a" * 200, "b" * 55]),
        (f"search {'a' * 200} {'b' * 56} c\n", ["a" * 200]),
        ("", []),
    ],
)
def test_search_domains_without_what_is_no_name(text, domains):
    assert search_domains(text) == domains


def test_without_passt_the_package_is_named():
    with pytest.raises(SetupError) as caught:
        start_user_network(None)
    assert "sudo apt install passt" in caught.value.diagnostics()


@pytest.mark.parametrize("target", ["168.63.129.16", "100.100.100.200"])
def test_a_clouds_metadata_is_closed_but_for_its_name_server(target):
    for proto in (6, 17):
        assert not own().may_pass(packet(target, proto=proto, port=80))
        assert own().may_pass(packet(target, proto=proto, port=53))
    assert not own().may_pass(packet(target, proto=17, port=53, fragment=0x2000))
    assert not own().may_pass(packet("192.0.0.192", port=53))


def test_a_network_of_ones_own_is_closed_whole():
    """Local routes to networks without any address: AnyIP."""
    frames = FrameFilter([(IPv4Address("198.51.100.0").packed, 23)])
    for target, passes in (
        ("198.51.99.255", True),
        ("198.51.100.0", False),
        ("198.51.101.255", False),
        ("198.51.102.0", True),
    ):
        assert frames.may_pass(packet(target)) is passes
    frames.own = [(bytes(4), 0)]
    assert not frames.may_pass(packet("8.8.8.8"))
