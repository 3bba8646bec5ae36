"""The running sandbox that a request names."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.escape import printable
from broker.ipc.control.types.faults import NotFoundError
from policy.suggestions import did_you_mean


def not_running(untrusted_name: str, pairs: Iterable[tuple[str, str]]) -> NotFoundError:
    """Return the error for a name that no running (sandbox, record) has."""
    near = did_you_mean(untrusted_name, [name for pair in pairs for name in pair])
    return NotFoundError(
        f"no sandbox '{printable(untrusted_name, 64)}' is running",
        hint=near or "to list the running sandboxes, run 'brokerctl status'",
    )
