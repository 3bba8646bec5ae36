"""Names in calls and rules that are no sandbox's, for who asks and who answers.

The authority, the viewer, session children and brokerctl compare names with these.
"""

from __future__ import annotations

ADMIN = "@adminvm"
ADMIN_NAMES = frozenset({ADMIN, "dom0", "uuid:00000000-0000-0000-0000-000000000000"})
ANY_KEY = "*"
"""The key of a call that lists keys: it is within every grant about one of them."""
PIN = "pin"
"""The way of a security key's PIN, which is for no relying party (``rules.wording``)."""
NO_NAME = "a-name-that-no-rule-has"


def without_port(host: str) -> str:
    """Return the name in ``[name]:port``; another one as it is."""
    return host[1:].partition("]")[0] if host.startswith("[") else host


def sample_host(pattern: str) -> str:
    """Return a host that a ``host=`` names, and no other one without a wildcard."""
    return f"{NO_NAME}.{pattern[2:]}" if pattern.startswith("*.") else pattern
