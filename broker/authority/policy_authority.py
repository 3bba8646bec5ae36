"""The authority: rules, records, decider and questions of one broker, wired.

It runs in the authority's process: ``channel`` serves it to host and viewer.
"""

from __future__ import annotations

import trio
from typing_extensions import override

from broker.authority.audit.event_log import EventLog
from broker.authority.decider import Decider
from broker.authority.decisions.put_question import Asker
from broker.authority.lockdown import Lockdown, lockdown_file
from broker.authority.records.sandboxes import Records
from broker.authority.rules import Rules, follow_files
from broker.core.lease import Lease
from broker.core.notify import Notify
from broker.core.paths import Paths
from broker.core.stderr_log import run_isolated
from policy.records.model import RecordSet

_FORGET_SECONDS = 1.0
"""Between checks for grants whose time is over.  The allowed operations have ended
already then; this is for the list and the log, and for a machine that has slept."""


class PolicyAuthority:
    """Follows records and rules, and keeps the leases that host and viewer announce."""

    def __init__(
        self,
        *,
        paths: Paths,
        log: EventLog,
        source: Records,
        asker: Asker | None = None,
        notify: Notify | None = None,
        last_question: int = 0,
    ) -> None:
        self._paths = paths
        self._source = source
        self._followed = source.now
        """The records that the sandboxes follow: other callers read new ones, too."""
        self.rules = Rules(paths, log)
        if notify is not None:
            self.rules.notify = notify
        self._leases: dict[str, Lease] = {}
        self.lockdown = Lockdown(lockdown_file(paths), log, self._tighten)
        self.decider = Decider(
            rules=self.rules,
            records=lambda: source.now,
            running=self.leases,
            log=log,
            asker=asker,
            pending_records=lambda: source.pending,
            locked=self.lockdown.denies,
            last_question=last_question,
        )
        self.rules.tightened = self.decider.cut_denied
        self._changed = trio.Event()
        self._wake = trio.Event()

    # -- interface.Authority -------------------------------------------------------

    @property
    def records(self) -> RecordSet:
        """See ``Authority.records``."""
        return self._source.now

    async def lease_begun(self, lease: Lease) -> None:
        """Decide requests of this lease from now on."""
        self._leases[lease.id] = lease

    async def lease_ended(self, lease: str) -> None:
        """Decide none of its requests any more, and end its permits."""
        self._leases.pop(lease, None)
        await self.decider.lease_ended(lease)

    def leases(self) -> list[Lease]:
        """Those that have begun and not ended, oldest first."""
        return list(self._leases.values())

    async def reload(self) -> None:
        """Read rules and records again, and bring them into force.

        Raises UpstreamError as ``Authority`` says.
        """
        digest = self.rules.digest
        try:
            try:
                await self._source.reload()
            finally:
                # Also where the records could not be recorded: the rules may deny.
                await self.rules.reload()
        finally:
            # Also where only one of the two could be recorded, or none.
            pending = self.rules.pending is not None or self._source.pending
            # guard: records that another part has read
            fresh = self._source.now is not self._followed
            if fresh:
                before, self._followed = self._followed, self._source.now
                self._warn_of_records(before)
            if fresh or pending or self.rules.digest != digest:
                self._wake.set()
                self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """See ``Authority.wait_changed``.  Several tasks may wait, each for the next change."""
        await self._changed.wait()

    def _tighten(self) -> None:
        """Cut what a lockdown denies; then record it, and look at everything again."""
        self.decider.cut_denied()
        self._wake.set()

    # -- its life --------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow changes of rules and records until cancelled.

        The rules are in force when it has started.  Raises UpstreamError when
        that could not be recorded.
        """
        await self.rules.start()
        async with trio.open_nursery() as nursery:
            await nursery.start(follow_files, self._paths, self.rules, self.reload)
            nursery.start_soon(self._forget_grants)
            nursery.start_soon(self._decide_again, nursery)
            task_status.started()
            await trio.sleep_forever()

    async def _decide_again(self, nursery: trio.Nursery) -> None:
        """Decide again after each change; questions about one delay no other."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            nursery.start_soon(run_isolated, self.decider.decide_again)

    async def _forget_grants(self) -> None:
        """End the grants whose time is over, again and again, until cancelled."""
        while True:
            await trio.sleep(_FORGET_SECONDS)
            await self.decider.forget_over()

    def _warn_of_records(self, before: RecordSet) -> None:
        wrong = self._source.now.problems
        if wrong and wrong != before.problems:
            text = (
                f"{wrong[0].first_line()}\nRunning sandboxes keep their old settings."
            )
            self.rules.notify("Vitrail: a record has an error", text)


class HostAuthority(PolicyAuthority):
    """That of a host: it has the log and the records, and no rule permits anything."""

    @override
    async def reload(self) -> None:
        before = self._source.now
        await self._source.reload()
        if self._source.now is not before:
            self._tell_changed()

    @override
    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
