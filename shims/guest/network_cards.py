"""Network cards whose addresses are on the kernel's command line.

Their network is a switch of sandboxes, which knows no DHCP.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from typing import Dict, List, NamedTuple

NETWORKS = "/sys/class/net"
IPV6 = "/proc/sys/net/ipv6"
RESOLV_CONF = "/etc/resolv.conf"
_SIOCETHTOOL, _SET_TX_CHECKSUMS = 0x8946, 0x17


class NetworkCard(NamedTuple):
    """A card by its MAC address.  Routers and ``name_server`` may be empty."""

    mac: str
    address: str
    router: str
    name_server: str
    address6: str
    router6: str


def interfaces(networks: str = NETWORKS) -> Dict[str, str]:
    """Return the interfaces but loopback, by name: the MAC address of each."""
    found = {}
    for name in sorted(os.listdir(networks)):
        if name != "lo":
            with open(
                os.path.join(networks, name, "address"), encoding="ascii"
            ) as file:
                found[name] = file.read().strip()
    return found


def card_commands(card: NetworkCard, name: str) -> List[List[str]]:
    """Return the arguments of ip(8) that give an interface its addresses."""
    lines = [
        ["link", "set", name, "up"],
        ["addr", "add", card.address + "/24", "dev", name],
    ]
    if card.router:
        lines.append(["route", "add", "default", "via", card.router])
    if os.path.exists(IPV6):
        lines.append(["-6", "addr", "add", card.address6 + "/64", "dev", name])
        if card.router6:
            way = ["via", card.router6, "dev", name]
            lines.append(["-6", "route", "add", "default", *way])
    return lines


def complete_frames(name: str) -> None:
    """Have this kernel compute an interface's checksums and cut its segments.

    The device of some VMMs leaves both to the host, and a switch carries frames as they
    are to a kernel that drops unfinished ones.
    """
    value = array.array("I", [_SET_TX_CHECKSUMS, 0])
    request = struct.pack("16sP", name.encode(), value.buffer_info()[0])
    kind = (socket.AF_INET, socket.SOCK_DGRAM)
    # A device that leaves nothing to the host may not know the request.
    with socket.socket(*kind) as sock, contextlib.suppress(OSError):
        fcntl.ioctl(sock, _SIOCETHTOOL, request.ljust(40, b"\0"))


def set_up_cards(cards: List[NetworkCard], busybox: str) -> str:
    """Give each card its addresses; returns what failed, or nothing."""
    names = {mac: name for name, mac in interfaces().items()}
    for card in cards:
        if card.mac not in names:
            return "no network card has the address " + card.mac
        complete_frames(names[card.mac])
        for words in card_commands(card, names[card.mac]):
            done = subprocess.run(
                [busybox, "ip", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode != 0:
                return done.stderr.decode(errors="replace").strip()
    # A machine with DHCP has name servers from there.
    servers = [card.name_server for card in cards[:1] if card.name_server]
    if servers:
        with open(RESOLV_CONF, "w", encoding="ascii") as file:
            file.write("nameserver " + servers[0] + "\n")
    return ""
