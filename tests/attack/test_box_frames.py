"""Frames that a box writes into its interface, with ``network = "rules"``.

The interface, its filter, passt and the kernel between them are the real ones; a process
in the place of the box, as root of its namespaces, writes what one with
``user_namespaces`` could.  An honest question after the hostile frames is answered last,
so what came before it is all that they achieved.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool, spawn
from broker.host.network.addresses import GATEWAY, GUEST
from broker.host.network.frameguard import packets
from broker.host.network.namespace import start_network
from tests.broker.host.network.test_flow_filter import MAC, question, tcp, udp
from tests.e2e import test_network_rules as world
from tests.kit.cables import need_cables, played
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, rulebook
from tests.kit.wayland.compositor import short_directory

_INTERFACE = "eth0"
_ETH_P_ALL, _SOL_PACKET, _PACKET_VNET_HDR = 3, 263, 15  # packet(7)
_PLAIN = bytes(10)
"""A virtio_net_hdr without offloads."""
_GSO = struct.pack("=BBHHHH", 1, 1, 54, 1400, 34, 16)
"""NEEDS_CSUM, TCPV4: the device is to cut it into segments of 1,400 bytes."""
RULES = "vitrail.Network +www.good.test work @net allow port=8443 protocol=tcp\n"
RECORD = 'class = "persistent"\n[launch]\nkind = "bwrap"\nnetwork = "rules"\n'


def tagged(frame, *tags):
    return frame[:12] + b"".join(struct.pack(">HH", *tag) for tag in tags) + frame[12:]


def arp(sender, mac=MAC[6:], asked=GATEWAY):
    packed = [socket.inet_aton(one) for one in (sender, asked)]
    body = struct.pack(
        ">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, mac, packed[0], b"", packed[1]
    )
    return b"\xff" * 6 + MAC[6:] + b"\x08\x06" + body


def advertisement():
    """A router that gives the kernel of the namespace an address and a route (RFC 4861)."""
    prefix = bytes.fromhex("20010db8000000000000000000000000")
    option = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 0xFFFFFFFF, 0xFFFFFFFF, 0) + prefix
    body = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + option
    ends = [socket.inet_pton(socket.AF_INET6, one) for one in ("fe80::9", "ff02::1")]
    summed = b"".join(ends) + struct.pack(">II", len(body), 58) + body
    total = sum(struct.unpack(f">{len(summed) // 2}H", summed))
    total = (total >> 16) + (total & 0xFFFF)
    check = ~((total >> 16) + total) & 0xFFFF
    head = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + b"".join(ends)
    frame = b"\x33\x33\0\0\0\1" + MAC[6:] + b"\x86\xdd" + head
    return frame + body[:2] + struct.pack(">H", check) + body[4:]


HOSTILE = {
    "router advertisement": [(_PLAIN, advertisement())],
    "tagged": [(_PLAIN, tagged(question("www.good.test", number=1), (0x8100, 5)))],
    "tagged twice": [
        (_PLAIN, tagged(question("www.good.test", number=1), (0x88A8, 5), (0x8100, 6)))
    ],
    "priority": [(_PLAIN, tagged(question("www.good.test", number=1), (0x8100, 0)))],
    "arp of the gateway": [(_PLAIN, arp(GATEWAY))],
    "arp of a stranger": [(_PLAIN, arp("10.0.2.77"))],
    "arp for another card": [(_PLAIN, arp(GUEST, mac=b"\x02\0\0\0\0\x09"))],
    "another sender": [(_PLAIN, udp(b"x", (40000, 53), sender="10.0.2.77"))],
    "long segment to nobody": [(_GSO, tcp(packets.ACK, b"x" * 60_000))],
    "long first segment": [(_GSO, tcp(packets.SYN, b"x" * 60_000))],
    "cut short": [(_PLAIN, question("www.good.test")[:n]) for n in range(14, 60)],
}


@pytest.fixture(scope="module")
def results():
    """Write everything once; every test looks at the answers."""
    need_cables()
    return played("tests.attack.test_box_frames", deadline=100)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_frames_achieve_nothing(results, what):
    """Nothing is answered, and the honest question after them is."""
    answers = results["answers"][what]
    assert answers[:-1] == [] or _resets(answers[:-1], what)
    assert bytes.fromhex(answers[-1])[42:44] == b"\x12\x34"


def _resets(answers, what):
    """A flow that is not permitted is told so, and nothing else."""
    read = [packets.read(bytes.fromhex(one)) for one in answers]
    return "long" in what and all(one.flags & packets.RST for one in read)


def test_the_guests_own_question_for_the_gateway_is_answered(results):
    (reply,) = results["arp"]
    assert bytes.fromhex(reply)[28:32] == socket.inet_aton(GATEWAY)


def test_the_guards_end_has_no_address_of_ours(results):
    """The kernel there neither answers the box nor speaks to it."""
    assert results["own"] == []


def test_only_honest_questions_were_passed_on(results):
    assert set(results["asked"]) == {"www.good.test"}
    assert len(results["asked"]) == len(HOSTILE)


def test_nothing_was_permitted(results):
    opened = [e for e in results["events"] if e["kind"] == "stream.opened"]
    assert opened == []


# -- inside the namespaces: this machine, and the box --------------------------------


async def be_this_machine():
    asked = []
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        await run_tool(["mount", "--bind", str(conf), "/etc/resolv.conf"])
        async with world.internet(), trio.open_nursery() as nursery:
            await nursery.start(world.name_server, asked)
            async with rulebook(RULES, work=RECORD) as book:
                results = await play(place / "said", book, nursery)
                results["events"] = book.events("stream.opened", "decision")
            nursery.cancel_scope.cancel()
    return {**results, "asked": asked}


async def play(said, book, nursery):
    words = our_program("tests.attack.test_box_frames", "box", str(said))
    box = spawn(["unshare", "--user", "--map-root-user", "--net", *words], stderr=None)
    mine = Path("/proc/self/ns/net").readlink()
    there = Path(f"/proc/{box.pid}/ns/net")
    await eventually(lambda: there.readlink() != mine, deadline=60)
    namespace = os.open(there, os.O_RDONLY)
    flows = book.flows()
    opening = Opening(WORK, NETWORK, 1, "the test")
    try:
        network = await start_network(namespace, decided=True)
        await nursery.start(partial(flows.carry, opening, network.flows))
        await eventually(said.exists, deadline=60)
        own = kernel_of(network.processes[0].pid)
    finally:
        os.close(namespace)
        await box.stop()
    await eventually(lambda: all(p.ended for p in network.processes), deadline=60)
    await network.end()
    return {**json.loads(said.read_text()), "own": own}


def kernel_of(guard):
    """Return the addresses of IPv6 at the guard's end of the cable."""
    addresses = Path(f"/proc/{guard}/net/if_inet6").read_text().splitlines()
    return [line for line in addresses if not line.endswith(" lo")]


async def be_box(said):
    known = lambda: _INTERFACE in [one for _, one in socket.if_nameindex()]  # noqa: E731
    await eventually(known, deadline=60)
    # Its own kernel is silent: what it would send is not of the frames below.
    await run_tool(["ip", "address", "flush", "dev", _INTERFACE])
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    frames.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    frames.bind((_INTERFACE, _ETH_P_ALL))
    frames.setblocking(False)

    async def read():
        while True:
            await trio.lowlevel.wait_readable(frames)
            data, address = frames.recvfrom(1 << 17)
            if address[2] != socket.PACKET_OUTGOING:
                return data[10:]

    answers = {}
    for what, hostile in HOSTILE.items():
        for head, frame in hostile:
            frames.send(head + frame)
        honest = question("www.good.test", number=0x1234)
        answers[what] = await last(frames, read, honest)
    frames.send(_PLAIN + arp(GUEST))
    reply = await read()
    while reply[12:14] != b"\x08\x06":
        reply = await read()
    partial_file = said.with_suffix(".part")
    found = {"answers": answers, "arp": [reply.hex()]}
    partial_file.write_text(json.dumps(found))
    partial_file.rename(said)
    await trio.sleep_forever()


async def last(frames, read, honest):
    """Send a frame; return the frames until its answer."""
    frames.send(_PLAIN + honest)
    found = []
    with trio.fail_after(20):
        while not found or found[-1][42:44] != b"\x12\x34":
            found.append(await read())
    return [one.hex() for one in found]


if __name__ == "__main__":
    if "other" in sys.argv:
        trio.run(world.be_internet)
    elif "box" in sys.argv:
        trio.run(be_box, Path(sys.argv[2]))
    else:
        print(json.dumps(trio.run(be_this_machine)))
