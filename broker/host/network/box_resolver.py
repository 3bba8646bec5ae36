"""The name servers that a box or container has.

Only brokerctl runs this; it reads ``/etc/resolv.conf``.
"""

from __future__ import annotations

from pathlib import Path

from broker.host.network.addresses import RESOLVER
from broker.host.network.passt import forwarded_resolvers
from broker.host.network.resolvers import (
    RESOLV_CONF,
    read_resolv_conf,
    search_domains,
)
from broker.host.network.switch.switch_ports import is_shared, name_server


def resolver_lines(resolv_conf: Path = RESOLV_CONF, *, network: str = "user") -> str:
    """Return the resolv.conf(5) of a box: the host's servers, or passt's for them.

    With ``network = "rules"`` it is the frame filter; see ``name_server`` for a switch.
    """
    if is_shared(network):
        return f"nameserver {name_server(network)}\n"
    text = read_resolv_conf(resolv_conf)
    servers = (RESOLVER,) if network == "rules" else forwarded_resolvers(text)
    if not servers:
        options = ("nameserver", "search", "domain", "options")
        lines = [
            line
            for line in text.splitlines()
            if line.split()[:1] and line.split()[0] in options
        ]
        return "".join(f"{line}\n" for line in lines)
    search = search_domains(text)
    lines = [f"nameserver {server}" for server in servers]
    return "".join(
        f"{line}\n"
        for line in [*lines, *([f"search {' '.join(search)}"] if search else [])]
    )
