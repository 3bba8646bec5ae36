"""Copies of descriptors for a message that waits.

The host and the viewer make them, before they send a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from broker.core.errors import UpstreamError
from broker.wire.fdpass import close_all


def duplicates(fds: Iterable[int]) -> list[int]:
    """Duplicate descriptors; the caller closes the new ones.

    A number means another file as soon as its owner has closed it: a task that waits
    before it sends descriptors of others needs its own.  Raises UpstreamError when
    there is no room for them, and then leaves none open.
    """
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))  # noqa: PERF401 -- closed if a later one fails
    except OSError as error:
        close_all(made)
        raise UpstreamError(
            f"cannot copy the descriptor of a message: {error.strerror}",
            hint="raise the limit on open files ('ulimit -n')",
        ) from error
    return made
