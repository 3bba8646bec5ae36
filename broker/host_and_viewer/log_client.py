"""The recording process's end of the authority's channel: log, records, checkpoints.

Implements ``audit.event_log.EventLog`` by messages, and has a copy of the records
in force.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import trio

from broker.authority.audit.names import Namer, Names
from broker.core.authority_report import AuthorityReport
from broker.core.errors import InternalError, RefusedError, UpstreamError
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.stderr_log import log_stderr
from broker.host_and_viewer.record_copy import RecordCopy
from broker.ipc.audit import log_messages as m
from broker.ipc.audit import schema
from broker.ipc.audit.event import Event
from broker.ipc.in_thread import NoThreadError, in_thread
from broker.wire.frame_carrier import Frames
from policy.records.model import RecordSet

_LOST = "the authority has exited"
_DIED = "the authority crashed"
_SILENT = f"the authority did not answer for {authority_limits.AUTHORITY_SILENT_SECONDS} seconds"
_M = TypeVar("_M", bound=m.AuthorityAnswer)


@dataclass(eq=False)
class AuthorityCall:
    """A request that waits for its answer."""

    answered: trio.Event = field(default_factory=trio.Event)
    answer: m.AuthorityAnswer | None = None

    def set_answer(self, answer: m.AuthorityAnswer) -> None:
        """Store the answer and wake the task that waits for it."""
        self.answer = answer
        self.answered.set()


class LogClient:
    """The end of the authority's channel in the host, and of the viewer's a part.

    It records events, and follows the authority's records.

    ``run`` receives; everything else waits for it.
    """

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
        self._calls: dict[int, AuthorityCall] = {}
        self._last = 0
        self._stopping = False
        self._over = False
        self._changed = trio.Event()
        self._used_up: dict[str, tuple[float, RefusedError]] = {}
        self._namer = Namer(Names.KEEP, b"")
        self._welcome: m.Welcome | None = None
        self._started = False
        self.checkpoint_made: Callable[[], None] = _nobody
        """Called with each new checkpoint of the log, where there is a link."""

    # -- its life ------------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive the authority's messages until it ends.

        Started when the log is open and the rules are in force.  Raises the
        authority's error when it cannot start.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._link.run)
                watched = False
                while True:
                    received = await self._link.receive()
                    if not received.data:
                        break
                    await self._take(self._decode(received.data))
                    if self._started and not watched:
                        watched = True
                        nursery.start_soon(self._watch)
                        task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            self._over = True
            # Cancelled, too: an event that is recorded in a shield would wait for ever.
            # guard: shielded requests end when the authority is lost
            for number, call in list(self._calls.items()):
                call.set_answer(m.Failed(number, "upstream", _LOST))
        if not self._stopping:
            self._lost(_DIED)

    async def _watch(self) -> None:
        """Ping the authority; call ``lost`` when it does not answer.

        Seconds are counted one by one: after a time in which this process was stopped
        as well, the authority has almost as many of them again.
        """
        while not self._stopping:
            await trio.sleep(authority_limits.AUTHORITY_BEAT_SECONDS)
            call = AuthorityCall()
            with contextlib.suppress(UpstreamError):  # it counts as no answer
                self._begin(call, m.AskReport, kept=0)
            for _ in range(authority_limits.AUTHORITY_SILENT_SECONDS):
                with trio.move_on_after(1.0):
                    await call.answered.wait()
                    break
            # guard: an authority that does not answer ends the broker
            if call.answer is None and not self._stopping:
                self._lost(_SILENT)
                return

    async def stop(self, reason: str) -> None:
        """Have the authority close the log and end; returns when it has."""
        self._stopping = True
        await self.ask(m.AuthorityDone, partial(m.Stop, reason=reason))

    @property
    def pid(self) -> int:
        """Return the authority's process number; 0 before its first message."""
        return 0 if self._welcome is None else self._welcome.pid

    async def _take(self, message: m.AuthorityMessage) -> None:
        """Handle one message of the authority: welcome, records, policy, log shares."""
        match message:
            case m.Welcome():
                self._welcome = message
                self._namer = Namer(
                    Names.KEEP,
                    message.names_key,
                    clipboard_digest=message.clipboard_digest,
                )
            case m.RecordChanged() | m.RecordGone():
                self._records.take(message)
            case m.Policy():
                await self._follow(message)
            case m.ShareUsedUp(record, seconds):
                until = trio.current_time() + seconds
                error = RefusedError(message.message, hint=message.hint)
                self._used_up[record] = until, error
            case m.CheckpointMade():
                self.checkpoint_made()
            case m.Failed(0):
                raise m.error_of(message)
            case m.AuthorityAnswer():
                self._take_answer(message)
            case _:
                raise InternalError(f"no handler for {type(message).__name__}")

    def _take_answer(self, message: m.AuthorityAnswer) -> None:
        """Give the answer to the call that waits for it."""
        call = self._calls.pop(message.request, None)
        if call is not None:
            call.set_answer(message)

    def _decode(self, frame: bytes) -> m.AuthorityMessage:
        """Decode a frame of the authority to its message."""
        return m.decode_to_recorder(frame)

    # -- sending ---------------------------------------------------------------------------

    def _begin(
        self,
        call: AuthorityCall,
        message: Callable[[int], m.ClientMessage],
        *,
        kept: int = 1,
    ) -> int:
        """Register and send a request; return its number.  Raises RefusedError.

        Its place is free again when the authority has done with it, which counts in
        the same way.  ``kept``: places that it may not take, for ``_watch``.
        """
        if len(self._calls) >= authority_limits.AUTHORITY_REQUESTS - kept:
            raise RefusedError("too many requests are waiting for the authority")
        if self._over:
            raise UpstreamError(_LOST)
        self._last += 1
        self._put(message(self._last))  # raises when the message is not sent
        self._calls[self._last] = call
        return self._last

    def _put(self, message: m.ClientMessage) -> None:
        """Queue a message to the authority.  Raises UpstreamError."""
        self._link.put(m.encode_from_client(message))

    def _put_or_lose(self, message: m.ClientMessage) -> None:
        """Queue a message without an answer; log its loss."""
        try:
            self._put(message)
        except UpstreamError as error:
            if not self._over:
                log_stderr(f"vitrail: the authority: {error}")

    async def ask(
        self,
        kind: type[_M],
        message: Callable[[int], m.ClientMessage],
        *,
        kept: int = 1,
    ) -> _M:
        """Send a request and return its answer.  Raises the error that it carries."""
        call = AuthorityCall()
        self._begin(call, message, kept=kept)
        await call.answered.wait()
        return expect(kind, call.answer)

    def notify(self, title: str, text: str, *, sandbox: str = "") -> None:
        """Have the authority show a notification; drop it when too much waits."""
        if self._link.waiting < authority_limits.AUTHORITY_NOTES_BYTES:
            self._put_or_lose(m.NotifyUser(title, text, sandbox))

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
        await self.ask(m.AuthorityDone, m.Reload)

    async def wait_changed(self) -> None:
        """Wait until the authority has other policy or records."""
        await self._changed.wait()
        self._changed = trio.Event()

    async def _follow(self, message: m.Policy) -> None:
        """Follow the authority's records by a copy, to show and to offer things."""
        try:
            await in_thread(self._records.follow, message.records)
        # guard: records are followed without room for a thread
        except NoThreadError:
            self._records.follow(message.records)
        self._started = True
        self._changed.set()

    # -- status and control -----------------------------------------------------------------------

    async def report(self) -> AuthorityReport:
        """Ask for the authority's part of the status."""
        return (await self.ask(m.Report, m.AskReport)).report

    async def serve_control(self) -> None:
        """Have the control socket served; return when programs can connect.

        Raises SetupError.
        """
        await self.ask(m.AuthorityDone, m.ServeControl)

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
        await self.ask(m.AuthorityDone, partial(m.RecordEvent, body=body, how=how))


def expect(kind: type[_M], answer: m.AuthorityAnswer | None) -> _M:
    """Return an answer of that kind.  Raises the error it carries, InternalError."""
    if isinstance(answer, m.Failed):
        raise m.error_of(answer)
    if not isinstance(answer, kind):
        raise InternalError(f"the authority sent a reply that is not {kind.__name__}")
    return answer


def _nobody() -> None:
    """Do nothing: there is no link, or it has no epoch yet."""
