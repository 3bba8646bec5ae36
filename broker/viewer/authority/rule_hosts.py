"""Hosts by which it is asked whether rules grant any."""

from __future__ import annotations

from collections.abc import Iterable

from broker.ipc.authority import ShownRule
from policy.names import NO_NAME, sample_host


def named_hosts(rules: Iterable[ShownRule]) -> tuple[str, ...]:
    """Return a host that no rule names, and one for each ``host=`` of the grants.

    Of these the answer about one says whether any host at all is granted.
    """
    named = (h for rule in rules if rule.action != "deny" for h in rule.host)
    return tuple(dict.fromkeys((f"{NO_NAME}.invalid", *map(sample_host, named))))
