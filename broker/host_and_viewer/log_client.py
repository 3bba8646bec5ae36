"""The recording process's end of the authority's channel: log, records, checkpoints.

Implements ``audit.event_log.EventLog`` by messages, and has a copy of the records
in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import msgspec
import trio

from broker.authority.audit.names import Namer, Names
from broker.core.authority_report import AuthorityReport
from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.stderr_log import log_stderr
from broker.host_and_viewer.record_copy import RecordCopy
from broker.ipc.audit import log_rows as m
from broker.ipc.audit import schema
from broker.ipc.audit.event import Event
from broker.ipc.in_thread import NoThreadError, in_thread
from broker.wire.exchange import ServedCall
from broker.wire.frame_carrier import Frames
from broker.wire.habits import Habits
from broker.wire.peer import Peer
from broker.wire.row import AnyRow, Empty, ProcessKind, Row, serves
from policy.records.model import RecordSet

_LOST = "the authority has exited"
_DIED = "the authority crashed"
_SILENT = f"the authority did not answer for {authority_limits.AUTHORITY_SILENT_SECONDS} seconds"
_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)


class LogClient:
    """The end of the authority's channel in the host, and of the viewer's a part.

    It records events, and follows the authority's records.

    ``run`` receives; everything else waits for it.
    """

    KIND = ProcessKind.HOST
    ROWS: ClassVar[Mapping[str, AnyRow]] = m.LOG_ROWS

    def __init__(
        self,
        link: Frames,
        *,
        lost: Callable[[str], None],
    ) -> None:
        """Set up; ``lost`` is called when the authority ends unasked, or hangs."""
        self._link = link
        self._records = RecordCopy()
        self._lost = lost
        self._stopping = False
        self._stopped = trio.Event()
        self._started = trio.Event()
        self._changed = trio.Event()
        self._used_up: dict[str, tuple[float, RefusedError]] = {}
        self._namer = Namer(Names.KEEP, b"")
        self.pid = 0
        """The authority's process number; 0 before its first message."""
        self.checkpoint_made: Callable[[], None] = _nobody
        """Called with each new checkpoint of the log, where there is a link."""
        self.peer = Peer(
            link,
            self.KIND,
            ProcessKind.AUTHORITY,
            self.ROWS,
            (self,),
            habits=Habits(
                most_calls=authority_limits.AUTHORITY_REQUESTS,
                message_bytes=authority_limits.AUTHORITY_ANSWER_BYTES,
            ),
            lost_error=lambda: UpstreamError(_LOST),
        )

    # -- its life ------------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive the authority's messages until it ends.

        Started when the log is open and the rules are in force.  Raises the
        authority's error when it cannot start.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, task_status)
            await self.peer.run()
            nursery.cancel_scope.cancel()
        if not self._stopping:
            self._lost(_DIED)

    async def _watch(self, task_status: trio.TaskStatus[None]) -> None:
        """Ping the authority once it has started; call ``lost`` when it does not answer."""
        await self._started.wait()
        task_status.started()
        await self.peer.watch(
            authority_limits.AUTHORITY_BEAT_SECONDS,
            authority_limits.AUTHORITY_SILENT_SECONDS,
        )
        # guard: an authority that does not answer ends the broker
        if self.peer.live and not self._stopping:
            self._lost(_SILENT)

    async def stop(self, reason: str) -> None:
        """Have the authority close the log and end; returns when it has."""
        self._stopping = True
        self.peer.put_notice(m.STOP, m.Stop(reason))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_over, nursery.cancel_scope)
            await self._stopped.wait()
            nursery.cancel_scope.cancel()

    async def _wait_over(self, scope: trio.CancelScope) -> None:
        await self.peer.over.wait()
        scope.cancel()

    # -- what the authority sends ----------------------------------------------------

    @serves(m.WELCOME)
    async def _take_welcome(self, _: ServedCall[Empty], welcome: m.Welcome) -> None:
        self.pid = welcome.pid
        self._namer = Namer(
            Names.KEEP, welcome.names_key, clipboard_digest=welcome.clipboard_digest
        )

    @serves(m.RECORD_CHANGED)
    async def _take_record(self, _: ServedCall[Empty], change: m.RecordChanged) -> None:
        self._records.take(change)

    @serves(m.POLICY_CHANGED)
    async def _follow(self, _: ServedCall[Empty], policy: m.PolicyChanged) -> None:
        """Follow the authority's records by a copy, to show and to offer things."""
        self._forget_shown()
        try:
            await in_thread(self._records.follow, policy.records)
        # guard: records are followed without room for a thread
        except NoThreadError:
            self._records.follow(policy.records)
        self._started.set()
        self._changed.set()

    def _forget_shown(self) -> None:
        """Drop the answers that held until now: a host has none."""

    @serves(m.SHARE_USED_UP)
    async def _take_share(self, _: ServedCall[Empty], share: m.ShareUsedUp) -> None:
        until = trio.current_time() + share.seconds
        error = RefusedError(share.message, hint=share.hint)
        self._used_up[share.record] = until, error

    @serves(m.CHECKPOINT_MADE)
    async def _take_checkpoint(self, _: ServedCall[Empty], __: Empty) -> None:
        self.checkpoint_made()

    @serves(m.START_FAILED)
    async def _take_failure(self, _: ServedCall[Empty], failed: m.StartFailed) -> None:
        """End ``run`` with the authority's error."""
        raise failed.error.error()

    @serves(m.STOPPED)
    async def _take_stopped(self, _: ServedCall[Empty], __: Empty) -> None:
        self._stopped.set()

    # -- sending ---------------------------------------------------------------------------

    async def call(self, row: Row[_Q, _A], request: _Q) -> _A:
        """Call a row of the authority.  Raises its error, or UpstreamError."""
        return await self.peer.call(row, request)

    def put_or_lose(self, row: Row[_Q, _A], request: _Q) -> None:
        """Send a notice, or log that it could not be sent."""
        try:
            self.peer.put_notice(row, request)
        except UpstreamError as error:
            if self.peer.live:
                log_stderr(f"vitrail: the authority: {error}")

    def notify(self, title: str, text: str, *, sandbox: str = "") -> None:
        """Have the authority show a notification; drop it when too much waits."""
        if self._link.waiting < authority_limits.AUTHORITY_NOTES_BYTES:
            self.put_or_lose(m.NOTIFY_USER, m.NotifyUser(title, text, sandbox))

    # -- records -------------------------------------------------------------------

    @property
    def records(self) -> RecordSet:
        """Return the copied records, as the authority has them."""
        return self._records.now

    @property
    def now(self) -> RecordSet:
        """Return the copied records, for ``runtime.CurrentRecords``."""
        return self._records.now

    async def reload(self) -> None:
        """Have the authority read policy and records again."""
        await self.call(m.RELOAD, Empty())

    async def wait_changed(self) -> None:
        """Wait until the authority has other policy or records."""
        await self._changed.wait()
        self._changed = trio.Event()

    # -- status and control -----------------------------------------------------------------------

    async def report(self) -> AuthorityReport:
        """Ask for the authority's part of the status."""
        return (await self.call(m.REPORT, Empty())).report

    async def serve_control(self) -> None:
        """Have the control socket served; return when programs can connect.

        Raises SetupError.
        """
        await self.call(m.SERVE_CONTROL, Empty())

    # -- audit.event_log.EventLog -----------------------------------------------------------------

    def check_share(self, lease: Lease) -> None:
        """Raise RefusedError if the record's share of the log is used up."""
        until, error = self._used_up.get(lease.record, (0.0, None))
        if error is not None and trio.current_time() < until:
            raise RefusedError(error.message, hint=error.hint)

    def content_digest(self, content: bytes) -> str:
        """Return the digest of a content, as the authority computes it."""
        return self._namer.content_digest(content)

    def digest(self, content: bytes) -> str:
        """Return the digest of a text, as the authority computes it."""
        return self._namer.digest(content)

    async def require(self, *events: Event) -> None:
        """Record events in the audit log before going on.

        Raises if one is not recorded.
        """
        for event in events:
            await self._record(event, "require")

    async def note(self, event: Event) -> None:
        """Record a past event in the audit log; report a failure."""
        await self._past(event, "note")

    async def refused(self, event: schema.Refusal) -> None:
        """Record a refusal in the audit log, within its pace; report a failure."""
        await self._past(event, "refused")

    async def _past(self, event: Event, how: str) -> None:
        """Record a past event; report a failure on standard error."""
        try:
            await self._record(event, how)
        except (UpstreamError, RefusedError) as error:
            log_stderr(f"vitrail: cannot record {event.kind}: {error}")

    async def _record(self, event: Event, how: str) -> None:
        """Have the authority record an event.  Raises its error."""
        body = schema.encode(event)
        await self.call(m.RECORD, m.RecordEvent(body, how))


def _nobody() -> None:
    """Do nothing: there is no link, or it has no epoch yet."""
