"""Destinations outside: the arguments of ``vitrail.Network`` and their patterns.

A rule names a host (``+www.example.org``), all hosts below a name
(``+*.example.org``), an address or a prefix (``+192.0.2.0/24``).  A call names one
host or one address.  Each call has few patterns that match it, so that an index of
patterns answers without a walk through the rules.

The authority matches rules by this; the packet guard and the viewer name a destination
in a request.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address, ip_network

NETWORK = "vitrail.Network"
"""The service whose calls are flows to hosts outside."""
NET = "@net"
"""The target of these calls."""
OPEN_URL = "vitrail.OpenURL"
"""The service whose calls open an address elsewhere."""
LOOKUP = "dns"
"""The protocol of a call that asks for a host's addresses, or whether an answer may
have one: a grant for any port is one for it, a deny of some ports is not about it."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*(?=[a-z0-9_-]*[a-z_]){_LABEL}")
_MAX_NAME = 253
_TRANSLATED = bytes.fromhex("0064ff9b" + "00" * 8)
_TUNNELED = bytes.fromhex("2002")
EXPECTED = "+HOST, +*.HOST, +ADDRESS, +ADDRESS/BITS, or * alone"


def pattern_of(text: str) -> str:
    """Return the canonical form of a rule's destination, without the ``+``.

    Raises ValueError with a sentence for a user.
    """
    name = text.lower().removesuffix(".")
    bare = name.removeprefix("*.")
    # guard: a wildcard is a whole label
    if len(bare) <= _MAX_NAME and _HOST.fullmatch(bare):
        return name
    if "*" in text:
        raise ValueError("'*' is allowed only as the first label, as in *.example.org")
    if "%" in text:
        raise ValueError("an address in a rule cannot have a zone")
    network = ip_network(text)  # a prefix with bits after it is refused
    return str(network)


def destination_of(text: str) -> str | None:
    """Return the canonical form of one host or address; None if it is neither."""
    name = text.lower().removesuffix(".")
    if len(name) <= _MAX_NAME and _HOST.fullmatch(name):
        return name
    try:
        # guard: an address has no zone
        return None if "%" in text else str(ip_address(text))
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def is_inner(argument: str) -> bool:
    """Return whether only a rule that names its network opens an address.

    Those are all that the public internet does not route: private, shared and
    link-local networks, and loopback.
    """
    try:
        address = ip_network(argument[1:]).network_address
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    inside = embedded_ipv4(address.packed)
    # guard: an address in an address is judged
    if inside and not ip_address(inside).is_global:
        return True
    # 2002::/16 is not global by itself, and what it leads to may be.
    return not (bool(inside) or (mapped or address).is_global)


_INNER_DOMAINS = frozenset(
    {
        *("localhost", "localdomain", "local", "internal", "home.arpa"),
        *("lan", "home", "corp", "intranet", "fritz.box"),
    }
)
"""Domains of one machine or network (RFC 6761, 6762 and 8375; ICANN reserves "internal",
and the others are usual names of routers and companies, RFC 6762 appendix G)."""


def is_inner_host(host: str) -> bool:
    """Return whether the host of a URL is this machine, or in the user's own network.

    Beside the addresses of ``is_inner`` these are names of one label, which the search
    list completes, and names below the domains of one machine or network.  The address
    of another name is unknown here: only the program that opens the URL looks it up.
    """
    name = host.lower().removesuffix(".")
    if ":" in name or is_inner(f"+{name}"):
        return is_inner(f"+{name}")
    last, last_two = name.split(".")[-1:], name.split(".")[-2:]
    domains = {".".join(last), ".".join(last_two)}
    return bool(name) and ("." not in name or not domains.isdisjoint(_INNER_DOMAINS))


def embedded_ipv4(address: bytes) -> bytes:
    """Return the IPv4 address embedded in an IPv6 address; b"" if none exists.

    Of NAT64 (64:ff9b::/96, RFC 6052) and 6to4 (2002::/16, RFC 3056).
    """
    if address.startswith(_TRANSLATED):
        return address[12:]
    return address[2:6] if len(address) == 16 and address.startswith(_TUNNELED) else b""


def port_ranges(values: tuple[str, ...]) -> tuple[range, ...]:
    """Return the ranges that a ``port=`` names."""
    return tuple(_range(value) for value in values)


@lru_cache(maxsize=1024)
def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def take_ports(text: str) -> tuple[str, ...] | None:
    """Parse the values of a ``port=``; None if the text is not one."""
    values = tuple(dict.fromkeys(text.split(",")))
    for value in values:
        found = re.fullmatch(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", value)
        if found is None or not int(found[1]) <= int(found[2] or found[1]) <= 65535:
            return None
    return values
