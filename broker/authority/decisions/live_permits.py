"""The permits that are in use, each record's a share of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from broker.authority.permit import Permit, Request
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.fair_share import counted, may_take


class LivePermits:
    """Permits while their operations run; at most ``limits.LIVE_PERMITS``."""

    def __init__(self) -> None:
        self._live: set[Permit] = set()
        self._of_records: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Permit]:
        return iter(self._live)

    def require_room(self, request: Request) -> None:
        """Raise RefusedError if the request's record has its share already."""
        record, most = request.lease.record, limits.LIVE_PERMITS
        # guard: live permits bounded
        if not may_take(self._of_records[record], len(self._live), most):
            raise RefusedError(
                f"too many operations: sandboxes of the record '{record}' already run "
                f"{self._of_records[record]}, and all together {len(self._live)} of {most}"
            )

    @contextmanager
    def using(self, permit: Permit) -> Iterator[None]:
        """Count a permit while the block runs."""
        self._live.add(permit)
        try:
            with counted(self._of_records, permit.request.lease.record):
                yield
        finally:
            self._live.discard(permit)
