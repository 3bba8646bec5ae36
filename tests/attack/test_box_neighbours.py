"""A box fills the machine's tables of neighbours: to send a packet is enough.

The kernel counts neighbours of all network namespaces together, 1,024 of each family
(gc_thresh3, arp(7)): where a box's network had 2^64 addresses of neighbours, no other
program of the machine found a new one.  The flood is short, so that it harms nobody, and
what it leaves is counted from outside.
"""

from __future__ import annotations

import json
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import run_tool
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.addresses import GUEST, ipv6_beside
from broker.host.network.box_network import start_box_card, start_box_network
from broker.host.network.switch.switch_ports import PortRole, SwitchPlace
from broker.host.network.switch.switches import Switches
from tests.e2e.test_microvm_network import (
    OTHER,
    OTHER6,
    THIS,
    THIS6,
    ip,
)
from tests.kit.boxes import start_held
from tests.kit.cables import need_cables, played
from tests.kit.wayland.compositor import short_directory

SENT = 200
FLOOD = """
import socket, sys, time
mine, mine6, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
numbers = range(20, 20 + count)
beside, beside6 = mine.rpartition(".")[0], mine6.rpartition("::")[0]
for family, addresses in (
    (socket.AF_INET, [f"{beside}.{n}" for n in numbers]),
    (socket.AF_INET, [f"10.9.8.{n}" for n in numbers]),
    (socket.AF_INET6, [f"{beside6}::7:{n}" for n in numbers]),
    (socket.AF_INET6, [f"fe80::7:{n}" for n in numbers]),
):
    for bound in (False, True):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if bound:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            number = socket.if_nametoindex("eth0")
            more = (0, number) if family == socket.AF_INET6 else ()
            for address in addresses:
                try:
                    sock.sendto(b"x", (address, 9, *more))
                except OSError:
                    pass
print("done", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def left():
    """Flood by a box of each network, in namespaces; how many neighbours it left."""
    need_cables("bwrap", "passt", "ip", "nsenter")
    return played("tests.attack.test_box_neighbours", deadline=120)


@pytest.mark.parametrize("network", ["user", "client"])
def test_a_box_behind_a_router_has_no_other_neighbour(left, network):
    assert left[network]["4"] <= 2
    # With the group by which a neighbour is asked for (RFC 4291, 2.7.1).
    assert left[network]["6"] <= 4


def test_a_member_of_a_lan_has_its_network_for_neighbours_and_no_other(left):
    assert SENT <= left["member"]["4"] <= SENT + 2, "the flood came through"
    assert left["member"]["6"] <= 4


# -- inside the namespaces: this machine -------------------------------------------


async def be_this_machine() -> dict:
    with short_directory() as place:
        conf = place / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\n")
        await ip("link", "set", "lo", "up")
        await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for link in ("v0", "v1"):
            await ip("link", "set", link, "up")
        await ip("address", "add", f"{THIS}/24", "dev", "v0")
        await ip("address", "add", f"{THIS6}/64", "dev", "v0", "nodad")
        await ip("route", "add", "default", "via", OTHER)
        await ip("route", "add", "default", "via", OTHER6)
        results = {
            "user": await flood(place, GUEST, lambda fd: start_box_network(fd, conf))
        }
        switches = Switches()
        async with AsyncExitStack() as stack:
            seats = {}
            for network, role in (
                ("member", PortRole.MEMBER),
                ("provider", PortRole.PROVIDER),
                ("client", PortRole.CLIENT),
            ):
                name = "lan:lab" if role is PortRole.MEMBER else "through:box"
                seats[network] = switches.join(SwitchPlace(name, role), network)
                stack.push_async_callback(seats[network].leave)
            for network in ("member", "client"):
                seat = seats[network]
                results[network] = await flood(
                    place,
                    seat.address,
                    lambda fd, s=seat: start_box_card(fd, s, "eth0"),
                )
        return results


async def flood(place: Path, address: str, start) -> dict:
    """Start a box with a network and have it flood; return its neighbours."""
    sockets = place / address
    sockets.mkdir()
    words = (address, ipv6_beside(address), str(SENT))
    held = await start_held(Box(("/usr/bin/python3", "-Ic", FLOOD, *words), sockets))
    pidfd = os.pidfd_open(held.leader)
    network = None
    try:
        network = await start(pidfd)
        held.release()
        with trio.fail_after(60):
            read = held.child.popen.stdout.readline
            assert await trio.to_thread.run_sync(read) == b"done\n"
        enter = ["nsenter", f"--target={held.leader}", "--user", "--net"]
        look = [*enter, "--preserve-credentials", "ip"]
        return {
            family: len(
                (await run_tool([*look, f"-{family}", "neigh", "show", "nud", "all"]))
                .strip()
                .splitlines()
            )
            for family in "46"
        }
    finally:
        await held.end()
        os.close(pidfd)
        if network is not None:
            await network.end()


if __name__ == "__main__":
    print(json.dumps(trio.run(be_this_machine)))
