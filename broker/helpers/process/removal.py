"""Removal of a directory that a jailed process may have filled with entries.

The host calls it when a machine has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from broker.ipc.in_thread import in_thread

_REMOVERS = trio.CapacityLimiter(2)
"""Separate threads: rules are read by the others."""


async def remove_aside(remove: Callable[[Path], object], directory: Path) -> None:
    """Run a removal in a thread; not cancellable.

    A hundred thousand entries take seconds, and trio's thread serves all sandboxes.
    """
    with trio.CancelScope(shield=True):
        # guard: a directory that was filled holds up no other sandbox
        await in_thread(remove, directory, limiter=_REMOVERS)
