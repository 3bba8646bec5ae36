"""Writing events: those that must be on disk before an effect, and later ones."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from broker.authority.audit.refusals import Refusals
from broker.authority.audit.settings import AuditMode
from broker.authority.audit.shares import LogShares, cost
from broker.authority.audit.store import Store
from broker.core.errors import UpstreamError
from broker.core.lease import Lease
from broker.core.stderr_log import log_stderr
from broker.ipc.audit import schema


@dataclass(eq=False)
class _Gap:
    """Events that were lost since a certain time."""

    since: float
    count: int = 0
    last: str = ""


class Journal:
    """Implements ``audit.event_log.EventLog``, with the store.

    With ``best-effort`` nothing is refused because it cannot be recorded.  What
    could not be is counted in either mode, and the log says so as soon as it
    takes events again.
    """

    def __init__(
        self, store: Store, refusals: Refusals, *, mode: AuditMode = AuditMode.REQUIRED
    ) -> None:
        self._store = store
        self._refusals = refusals
        self._mode = mode
        self._gap: _Gap | None = None
        self._lost = 0
        self._shares = LogShares()

    def check_share(self, lease: Lease) -> None:
        """See ``EventLog.check_share``."""
        self._refusals.owners.learn(lease)
        self._shares.check(lease.record, trio.current_time())

    def record_of(self, sandbox: str) -> str:
        """Return the record whose budgets a sandbox uses, as far as it is known."""
        return self._refusals.owners.of(sandbox)

    def content_digest(self, content: bytes) -> str:
        """See ``EventLog.content_digest``."""
        return self._store.namer.content_digest(content)

    def digest(self, content: bytes) -> str:
        """See ``EventLog.digest``."""
        return self._store.namer.digest(content)

    def warnings(self) -> list[str]:
        """Return a warning for ``brokerctl status`` if events could not be recorded."""
        if not self._lost:
            return []
        now = "; recording still fails" if self._gap is not None else ""
        where = "'brokerctl audit --kind audit.gap'"
        return [f"{self._lost} events could not be recorded{now}; see {where}"]

    async def require(self, event: schema.Event, *also: schema.Event) -> None:
        """Write events to disk, all in one commit.  See ``EventLog.require``."""
        if self._mode is AuditMode.BEST_EFFORT:
            for one in (event, *also):
                await self.note(one)
        else:
            await self._record(event, *also)

    async def note(self, event: schema.Event) -> None:
        """Write an event, or count it if it cannot be written.

        See ``EventLog.note``.
        """
        try:
            await self._record(event)
        except UpstreamError as error:
            if self._gap is None:
                self._gap = _Gap(trio.current_time())
                log_stderr(f"vitrail: cannot record the event {event.kind}: {error}")
            self._gap.count += event.count
            self._lost += event.count
            self._gap.last = event.kind

    async def _record(self, *events: schema.Event) -> None:
        """Record events, then the gap that lost ones before them left."""
        await self._store.record(*events)
        for event in events:
            owner = self._refusals.owners.of(event.sandbox)
            self._shares.charge(owner, cost(event), trio.current_time())
        gap, self._gap = self._gap, None
        if gap is None:
            return
        try:
            await self._store.record(
                schema.LogGap(
                    count=gap.count,
                    seconds=trio.current_time() - gap.since,
                    last=gap.last,
                    reason="the log could not be written",
                )
            )
        except UpstreamError:
            self._still(gap)

    def _still(self, gap: _Gap) -> None:
        """The gap could not be recorded; others may have lost more meanwhile."""
        if self._gap is not None:
            gap.count += self._gap.count
        self._gap = gap

    async def refused(self, event: schema.Refusal) -> None:
        """See ``EventLog.refused``."""
        await self._refusals.refused(event)
