"""Bubblewrap's report of a jail's start (bwrap(1), ``--json-status-fd``)."""

from __future__ import annotations

import json

from broker.core.errors import UpstreamError

STATUS_BYTES = 4096
START_SECONDS = 10.0
"""For bubblewrap to report, in seconds."""


def leader_of(status: bytes, what: str) -> int:
    """Return the pid of the jail's first process, from the first line of the report.

    Raises UpstreamError where the line has none.
    """
    try:
        leader = json.loads(status.split(b"\n")[0])["child-pid"]
    except (ValueError, KeyError, TypeError):
        leader = None
    if type(leader) is not int:
        raise not_started(what)
    return leader


def not_started(what: str) -> UpstreamError:
    """Return the error of a jail that does not come up."""
    return UpstreamError(
        f"bubblewrap did not start {what}",
        hint="user namespaces must be allowed ('brokerctl doctor')",
    )
