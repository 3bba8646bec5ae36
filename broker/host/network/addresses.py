"""The small network that every sandbox with ``network = "user"`` sees.

It is the same everywhere, so that a sandbox learns nothing of the network we are in.

The host, the packet guard, a switch's process and brokerctl use the same values.
"""

from __future__ import annotations

from pathlib import Path

GUEST = "10.0.2.15"
GATEWAY = "10.0.2.2"
RESOLVER = "10.0.2.3"
"""Passt forwards it to the host's resolver, where that listens on loopback only."""

GUEST6 = "fd76:6974:7261:2::15"
"""Of a box.  A machine chooses its own below the same 64 bits, as passt announces them
(RFC 4862).  It is a local address (RFC 4193), so programs take IPv4 where both lead to a
host."""
GATEWAY6 = "fe80::2"
MAC = "52:56:0a:00:02:02"
"""Of passt; without it, passt has that of this machine's card."""

LAN = "10.0.3"
"""The first octets of sandboxes that share a network (``lan:``)."""
PROVIDED = "10.0.4"
"""Those of a provider and its clients (``through:``)."""


def ipv6_beside(address: str) -> str:
    """Return the address of IPv6 of who has this one: 10.0.3.20 and …:3::20."""
    *_, network, host = address.split(".")
    return f"fd76:6974:7261:{network}::{host}"


def neighbours6(address: str) -> tuple[str, ...]:
    """Return the networks of all addresses that ``ipv6_beside`` gives beside this one.

    They have 640 addresses: the last number is written in decimal, ::254 at most.
    """
    network, _ = address.split("::")
    return (f"{network}::/120", f"{network}::100/120", f"{network}::200/121")


MTU = 1500
"""Of the interfaces that we make: a VMM's device may know no larger frames."""

TAP = "vitrail"
"""Begins the name of each device of a VMM in the network namespace of its jail; its
number follows."""

_ROUTES = Path("/proc/net/ipv6_route")
_UP, _REJECT = 0x1, 0x200


def has_ipv6(routes: Path = _ROUTES) -> bool:
    """Return whether this network namespace has an IPv6 default route (proc_net(5))."""
    try:
        lines = routes.read_text().splitlines()
    except OSError:  # a kernel without IPv6
        return False
    for line in lines:
        target, bits, *_, flags, device = line.split()
        is_default = target == "0" * 32 and bits == "00" and device != "lo"
        if is_default and int(flags, 16) & (_UP | _REJECT) == _UP:
            return True
    return False
