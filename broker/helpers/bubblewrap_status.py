"""Bubblewrap's report of a jail's start (bwrap(1), ``--json-status-fd``).

brokerctl reads it for a box, a session child for a service or a folder's server.
"""

from __future__ import annotations

import json
import os
import select
import time

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
    except (ValueError, KeyError, TypeError, RecursionError):
        leader = None
    if type(leader) is not int:
        raise not_started(what)
    return leader


def read_line(fd: int, most: int) -> bytes:
    """Wait for a line without an event loop; return it, or what there is in time."""
    line, deadline = b"", time.monotonic() + START_SECONDS
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    while b"\n" not in line and len(line) < most:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            break
        data = os.read(fd, most - len(line))
        if not data:
            break
        line += data
    return line


def not_started(what: str) -> UpstreamError:
    """Return the error of a jail that does not come up."""
    return UpstreamError(
        f"bubblewrap did not start {what}",
        hint="to check bubblewrap and user namespaces, run 'brokerctl doctor'",
    )
