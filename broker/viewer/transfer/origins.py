"""Machines that were started for a sandbox, by the record of the sandbox that began.

A disposable that opens a link in another disposable, and that one in a third, has not
begun any of it: the record of the first sandbox has.  So a chain has one budget.
A caller that hangs up has its machine ended; the machine counts for a minute more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import trio

from broker.core import limits
from broker.core.lease import Lease
from broker.core.names import LeaseId
from broker.core.sliding_window import SlidingWindow
from broker.viewer.exchange.failures import ShareableError


class Origins:
    """``leases``: those of all sandboxes that live."""

    def __init__(self, leases: Callable[[], Iterable[LeaseId]]) -> None:
        self._leases = leases
        self._began: dict[LeaseId, str] = {}
        self._starting: Counter[str] = Counter()
        self._for_nothing: dict[str, SlidingWindow] = {}

    @contextmanager
    def starting(self, source: Lease) -> Iterator[Callable[[Lease], None]]:
        """Run a start for ``source`` in the block; what it yields takes the new lease.

        Raises ShareableError where the record that began has as many machines as it may.
        """
        living = set(self._leases())
        record = self._began.get(source.id, source.record)
        self._began = {one: by for one, by in self._began.items() if one in living}
        have = Counter(self._began.values())[record] + self._starting[record]
        if record in self._for_nothing:
            have += self._for_nothing[record].counted(trio.current_time())
        # guard: machines started for sandboxes have a number
        if have >= limits.MACHINES_PER_ORIGIN:
            raise ShareableError(
                f"cannot start another sandbox for '{record}': {have}, the limit, were already started",
                hint="stop some of these sandboxes with 'brokerctl stop SANDBOX'",
            )
        self._starting[record] += 1

        def started(lease: Lease) -> None:
            # guard: a chain of starts has one budget
            self._began[lease.id] = record

        try:
            yield started
        except BaseException as error:
            # guard: a start that its caller gives up counts for a minute
            if not isinstance(error, Exception):
                self._count_for_nothing(record)
            raise
        finally:
            self._starting[record] -= 1
            self._starting += Counter()  # drops the zeros

    def ends_unused(self, lease: LeaseId) -> None:
        """Count a machine that is ended before a program ran in it."""
        if lease in self._began:
            self._count_for_nothing(self._began[lease])

    def _count_for_nothing(self, record: str) -> None:
        new = SlidingWindow(limits.MACHINES_PER_ORIGIN, 60.0)
        self._for_nothing.setdefault(record, new).take(trio.current_time())
