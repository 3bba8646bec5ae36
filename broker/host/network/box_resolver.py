"""The name servers that a box or container has.

Only brokerctl runs this; it reads ``/etc/resolv.conf``.
"""

from __future__ import annotations

from pathlib import Path

from broker.host.network.addresses import RESOLVER
from broker.host.network.passt import has_only_loopback
from broker.host.network.resolvers import RESOLV_CONF
from broker.host.network.switch.switch_ports import is_shared, name_server


def resolver_lines(resolv_conf: Path = RESOLV_CONF, *, network: str = "user") -> str:
    """Return the resolv.conf(5) of a box: the host's servers, or passt's for them.

    With ``network = "rules"`` it is the frame filter; see ``name_server`` for a switch.
    """
    if is_shared(network):
        return f"nameserver {name_server(network)}\n"
    if network == "rules":
        return f"nameserver {RESOLVER}\n"
    try:
        text = resolv_conf.read_text(errors="replace")
    except OSError:
        text = ""
    if has_only_loopback(text):
        return f"nameserver {RESOLVER}\n"
    kept = ("nameserver", "search", "options")
    lines = [
        line
        for line in text.splitlines()
        if line.split()[:1] and line.split()[0] in kept
    ]
    return "".join(f"{line}\n" for line in lines)
