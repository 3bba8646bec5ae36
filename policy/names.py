"""Names in calls and rules that are no sandbox's, for who asks and who answers."""

from __future__ import annotations

from collections.abc import Iterable

ADMIN = "@adminvm"
ADMIN_NAMES = frozenset({ADMIN, "dom0", "uuid:00000000-0000-0000-0000-000000000000"})
ANY_KEY = "*"
"""The key of a call that lists keys: it is within every grant about one of them."""
NO_NAME = "a-name-that-no-rule-has"


def sample_host(pattern: str) -> str:
    """Return a host that a ``host=`` names, and no other one without a wildcard."""
    return f"{NO_NAME}.{pattern[2:]}" if pattern.startswith("*.") else pattern


def sample_hosts(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return a host that no rule names, and one for each ``host=`` of the grants.

    Of these the answer about one says whether any host at all is granted.
    """
    return tuple(dict.fromkeys((f"{NO_NAME}.invalid", *map(sample_host, patterns))))
