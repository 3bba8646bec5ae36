"""An internet for a machine of a test's own, at the other end of a cable.

    up0 ═ far0: two networks, a name server in each and a further one in the first

The machine is in one of the two networks.  Every name leads to an address that tells
which name server was asked; at each of these addresses a host says it to who connects.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import trio

PORT = 7001


class Net(NamedTuple):
    """A network in which the machine may be."""

    address: str
    """The machine's."""
    router: str


HOME = Net("192.0.2.2", "192.0.2.1")
CAFE = Net("198.51.100.2", "198.51.100.1")
NETS = (HOME, CAFE)
OTHER_SERVER = "192.0.2.53"
LEADS_TO = {
    HOME.router: "93.184.216.34",
    CAFE.router: "93.184.216.35",
    OTHER_SERVER: "93.184.216.36",
}
"""Each name server, and where all names lead by it."""
_TTL = 1


def begin_network() -> None:
    """Start the internet and connect this network namespace to it, in ``HOME``.

    With the machine's capabilities.  It ends with the machine.
    """
    words = ["unshare", "--net", sys.executable, "-m", __name__]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline(), "the internet has not started"
    _ip("link", "set", "lo", "up")
    far = ("peer", "name", "far0", "netns", str(child.pid))
    _ip("link", "add", "up0", "type", "veth", *far)
    for words in joining(HOME):
        subprocess.run(words, check=True)
    assert child.stdout.readline(), "the internet has ended"


def joining(net: Net) -> tuple[tuple[str, ...], ...]:
    """Return the commands that bring the machine into a network."""
    return (
        ("ip", "address", "flush", "dev", "up0"),
        ("ip", "address", "add", f"{net.address}/24", "dev", "up0"),
        ("ip", "link", "set", "up0", "up"),
        ("ip", "route", "replace", "default", "via", net.router),
    )


def resolver_is(server: str = HOME.router) -> None:
    """Put another resolv.conf(5) in the place of the machine's."""
    path = Path("/etc/resolv.conf")
    new = path.with_name("resolv.conf.new")
    new.write_text(f"nameserver {server}\n")
    new.rename(path)


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


async def _answer_names(server: str, task_status=trio.TASK_STATUS_IGNORED) -> None:
    """Be a name server: one address of IPv4 for every name."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind((server, 53))
        task_status.started()
        while True:
            query, sender = await sock.recvfrom(2000)
            end = query.index(b"\0", 12) + 5
            found = b""
            if query[end - 4 : end - 2] == b"\0\1":
                found = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, _TTL, 4)
                found += socket.inet_aton(LEADS_TO[server])
            head = query[:2] + b"\x81\x80" + struct.pack(">4H", 1, bool(found), 0, 0)
            await sock.sendto(head + query[12:end] + found, sender)


async def _be_internet() -> None:
    print("begun", flush=True)
    while "far0" not in [name for _, name in socket.if_nameindex()]:
        await trio.sleep(0.02)
    for net in NETS:
        _ip("address", "add", f"{net.router}/24", "dev", "far0")
    _ip("address", "add", f"{OTHER_SERVER}/32", "dev", "far0")
    _ip("link", "set", "lo", "up")
    _ip("link", "set", "far0", "up")
    for address in LEADS_TO.values():
        _ip("address", "add", f"{address}/32", "dev", "lo")
    async with trio.open_nursery() as nursery:
        for server, address in LEADS_TO.items():
            await nursery.start(_answer_names, server)

            async def says(conn, address=address):
                async with conn:
                    await conn.send_all(address.encode())

            async def serve(task_status, says=says, address=address):
                await trio.serve_tcp(says, PORT, host=address, task_status=task_status)

            await nursery.start(serve)
        print("ready", flush=True)
        os.close(1)


if __name__ == "__main__":
    trio.run(_be_internet)
