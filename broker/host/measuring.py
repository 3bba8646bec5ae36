"""Measuring the processes of a status, in a thread of the host."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from broker.helpers.process.memory import figures_of
from broker.host_and_viewer.measured_rows import Found
from broker.ipc.in_thread import in_thread

_lookers = trio.CapacityLimiter(2)
"""Threads that measure, so that none of those that other work needs is held up."""


async def measure(pids: Sequence[int], found: Found) -> None:
    """Measure processes: ``measured_rows.Measure``.

    In a thread: the kernel walks every page of each process for it, and waits for one
    that is changing its memory; streams must not wait as well.
    """

    def look() -> None:
        for pid in pids:
            found[pid] = figures_of(pid)

    # guard: measuring leaves other work its threads
    await in_thread(look, abandon_on_cancel=True, limiter=_lookers)
