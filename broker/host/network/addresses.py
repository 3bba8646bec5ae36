"""The small network that every sandbox with ``network = "user"`` sees.

It is the same everywhere: of the network we are in, a sandbox gets only the name servers
and the search list (``resolvers``).

The host, the packet guard, a switch's process and brokerctl use the same values.
"""

from __future__ import annotations

from pathlib import Path

GUEST = "10.0.2.15"
GATEWAY = "10.0.2.2"
RESOLVER = "10.0.2.3"
"""The address at which passt forwards questions to this machine's IPv4 resolver, if a
guest cannot reach that itself; with ``network = "rules"`` the frame filter's own."""
RESOLVER6 = "fd76:6974:7261:2::3"
"""The address at which passt forwards questions to this machine's IPv6 resolver."""

GUEST6 = "fd76:6974:7261:2::15"
"""Of a box.  A machine chooses its own below the same 64 bits, as passt announces them
(RFC 4862).  It is a local address (RFC 4193), so programs take IPv4 where both lead to a
host."""
GATEWAY6 = "fe80::2"
MAC = "52:56:0a:00:02:02"
"""Of passt; without it, passt has that of this machine's card."""

NOWHERE, NOWHERE6 = "192.0.0.8", "100::1"
"""Addresses that no machine has: a dummy (RFC 7600), and one that is discarded (RFC 6666)."""

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

_PROC_NET = Path("/proc/net")
_UP, _REJECT = 0x1, 0x200
_LINK_LOCAL = 0x20
"""Scope of an address in ``if_inet6`` (IPV6_ADDR_LINKLOCAL)."""


def template_interface(proc_net: Path = _PROC_NET) -> tuple[str, bool]:
    """Return the interface that passt copies, and whether it can give IPv6 by that.

    passt serves a family only if its template has what it copies: for IPv4 nothing
    beyond our own arguments, for IPv6 a link-local address.  Without a template it asks
    for the default route, and a guest that starts in a network of one family has no
    other one for as long as it runs.
    """
    addresses = map(str.split, _lines(proc_net / "if_inet6"))
    six = [name for *_, scope, _, name in addresses if int(scope, 16) == _LINK_LOCAL]
    routed = [*_default_routes6(proc_net), *_default_routes4(proc_net)]
    for name in (*routed, *sorted(six)):
        if name in six:
            return name, True
    return (routed or ["lo"])[0], False


def _default_routes6(proc_net: Path) -> list[str]:
    """Return the interfaces of IPv6 default routes (proc_net(5), ipv6_route)."""
    rows = map(str.split, _lines(proc_net / "ipv6_route"))
    return [
        device
        for target, bits, *_, flags, device in rows
        if (target, bits) == ("0" * 32, "00")
        and device != "lo"
        and int(flags, 16) & (_UP | _REJECT) == _UP
    ]


def _default_routes4(proc_net: Path) -> list[str]:
    """Return the interfaces of IPv4 default routes (proc_net(5), route)."""
    rows = map(str.split, _lines(proc_net / "route")[1:])
    return [
        device
        for device, target, _, flags, *_, mask, _, _, _ in rows
        if (target, mask) == ("0" * 8, "0" * 8) and int(flags, 16) & _UP
    ]


def _lines(path: Path) -> list[str]:
    """Return a file's lines; none if the kernel lacks the family."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
