"""The authority as a process that asks it sees it: requests out, permits in.

Implements ``interface.Authority`` and ``audit.event_log.EventLog`` by messages.  What is
only shown or offered (``preview``, ``world``, the records) comes from copies of the
rules and records in force, which the authority announces when they change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import trio
from typing_extensions import override

from broker.authority.audit.names import Namer
from broker.authority.audit.refusals import Refusal
from broker.authority.audit.settings import Names
from broker.authority.channel.frame_link import FrameLink
from broker.authority.channel.interface import OnAsk, nothing_asked
from broker.authority.channel.record_files import RecordFiles
from broker.authority.channel.request_messages import asked_of, error_of
from broker.authority.decisions.choice import ChoiceText, ChosenRequest
from broker.authority.decisions.decision_events import Asked
from broker.authority.decisions.evaluator import Judge
from broker.authority.permit import Permit, Request
from broker.core.authority_report import AuthorityReport
from broker.core.errors import InternalError, RefusedError, UpstreamError
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.question import PersonAnswer
from broker.core.stderr_log import log_stderr
from broker.ipc import authority as m
from broker.ipc.audit import schema
from broker.ipc.audit.event import Event
from policy.errors import Problem
from policy.records.loader import RecordSet
from policy.rules.engine import Engine
from policy.rules.engine import PolicyAnswer as Verdict
from policy.rules.last_good import decode_rules
from policy.rules.ruleset import RuleSet
from policy.rules.world import World

_LOST = "the authority has ended"
_DIED = "the authority has died"
_SILENT = (
    "the authority has not answered for "
    f"{authority_limits.AUTHORITY_SILENT_SECONDS} seconds"
)
_NO_RULES = RuleSet((), (), "", ())
_Answer: TypeAlias = (
    m.PermitNow
    | m.PermitCut
    | m.Asking
    | m.Permitted
    | m.Chosen
    | m.AuthorityDone
    | m.Failed
    | m.Report
)
_M = TypeVar("_M", bound=m.FromAuthority)


@dataclass(eq=False)
class _Call:
    """A request that waits for its answer."""

    answered: trio.Event = field(default_factory=trio.Event)
    answer: m.FromAuthority | None = None

    def give(self, answer: m.FromAuthority) -> None:
        self.answer = answer
        self.answered.set()


@dataclass(eq=False)
class _Asking(_Call):
    """A request for a permit, until its end."""

    request: Request | None = None
    news: trio.Event = field(default_factory=trio.Event)
    """Set when the user is being asked, and with the answer."""
    permit: Permit | None = None

    @override
    def give(self, answer: m.FromAuthority) -> None:
        # At once: what cuts it may be the next message, and is read in this turn.
        if isinstance(answer, m.Permitted) and self.request is not None:
            self.permit = _permit(self.request, answer)
        super().give(answer)
        self.news.set()


@dataclass(eq=False)
class _RulesCopy:
    """Rules to show and to offer things by."""

    engine: Engine = field(default_factory=lambda: Engine(_NO_RULES))
    digest: str = ""
    pending: Engine | None = None


class AuthorityClient:
    """See the head of this module.  ``run`` receives; everything else waits for it."""

    def __init__(
        self,
        link: FrameLink,
        files: RecordFiles,
        *,
        lost: Callable[[str], None],
    ) -> None:
        """``lost``: called with the reason when the authority ends unasked, or hangs."""
        self._link = link
        self._files = files
        self._lost = lost
        self._rules = _RulesCopy()
        self._leases: dict[str, Lease] = {}
        self._judge = Judge(
            self._rules, lambda: files.now, self._leases.values, lambda: None
        )
        self._calls: dict[int, _Call] = {}
        self._last = 0
        self._stopping = False
        self._over = False
        self._changed = trio.Event()
        self._used_up: dict[str, tuple[float, RefusedError]] = {}
        self._namer = Namer(Names.KEEP, b"")
        self._welcome: m.Welcome | None = None
        self._started = False

    # -- its life ------------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive until the authority ends.

        Started when the log is open and the rules are in force.  Raises the
        authority's error when it cannot start.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run)
            watched = False
            while True:
                frames = await self._link.receive()
                if not frames:
                    break
                for frame in frames:
                    await self._take(m.decode_from_authority(frame))
                if self._started and not watched:
                    watched = True
                    nursery.start_soon(self._watch)
                    task_status.started()
            nursery.cancel_scope.cancel()
        self._over = True
        for number, call in list(self._calls.items()):
            call.give(m.Failed(number, "upstream", _LOST))
        if not self._stopping:
            self._lost(_DIED)

    async def _watch(self) -> None:
        """Call ``lost`` for an authority that has not ended and does not answer.

        Seconds are counted one by one: after a time in which this process was stopped
        as well, the authority has almost as many of them again.
        """
        while not self._stopping:
            await trio.sleep(authority_limits.AUTHORITY_BEAT_SECONDS)
            call = _Call()
            number = self._begin(call, kept=0)
            self._put_or_lose(m.AskReport(number))
            for _ in range(authority_limits.AUTHORITY_SILENT_SECONDS):
                with trio.move_on_after(1.0):
                    await call.answered.wait()
                    break
            del self._calls[number]
            # guard: an authority that does not answer ends the broker
            if call.answer is None and not self._stopping:
                self._lost(_SILENT)
                return

    async def stop(self, reason: str) -> None:
        """Have the authority close the log and end."""
        self._stopping = True
        await self._call(m.AuthorityDone, partial(m.Stop, reason=reason))

    @property
    def pid(self) -> int:
        """Of the authority."""
        return 0 if self._welcome is None else self._welcome.pid

    async def _take(self, message: m.FromAuthority) -> None:
        match message:
            case m.Welcome():
                self._welcome = message
                self._namer = Namer(
                    Names.KEEP,
                    message.names_key,
                    clipboard_digest=message.clipboard_digest,
                )
            case m.Policy():
                await self._follow(message)
            case m.ShareUsedUp(record, seconds):
                until = trio.current_time() + seconds
                error = RefusedError(message.message, hint=message.hint)
                self._used_up[record] = until, error
            case m.Failed(0):
                raise error_of(message)
            case _:
                self._take_answer(message)

    def _take_answer(self, message: _Answer) -> None:
        call = self._calls.get(message.request)
        match message:
            case m.PermitNow() | m.PermitCut() | m.Asking():
                if isinstance(call, _Asking):
                    _tell(call, message)
            case _:
                if call is not None:
                    call.give(message)

    # -- sending ---------------------------------------------------------------------------

    def _begin(self, call: _Call, *, kept: int = 1) -> int:
        """Number a request; ``kept``: places that it may not take, for ``_watch``."""
        if len(self._calls) >= authority_limits.AUTHORITY_REQUESTS - kept:
            raise RefusedError("too many requests wait for the authority")
        if self._over:
            raise UpstreamError(_LOST)
        self._last += 1
        self._calls[self._last] = call
        return self._last

    def _put(self, message: m.FromClient) -> None:
        self._link.put(m.encode_from_client(message))

    def _put_or_lose(self, message: m.FromClient) -> None:
        """Send what no one waits for; the far end's end is noticed elsewhere."""
        try:
            self._put(message)
        except UpstreamError as error:
            if not self._over:
                log_stderr(f"vitrail: the authority: {error}")

    async def _call(self, kind: type[_M], message: Callable[[int], m.FromClient]) -> _M:
        """Send a request and return its answer.  Raises the error that it is."""
        call = _Call()
        number = self._begin(call)
        try:
            self._put(message(number))
            await call.answered.wait()
        finally:
            del self._calls[number]
        return _expect(kind, call.answer)

    # -- interface.Permits -------------------------------------------------------------------

    @asynccontextmanager
    async def permit(
        self,
        request: Request,
        *,
        on_ask: OnAsk = nothing_asked,
        covered: Permit | None = None,
        chosen: Asked | None = None,
        gone: trio.Event | None = None,
    ) -> AsyncIterator[Permit]:
        """See the interface."""
        asking = _Asking(request=request)
        number = self._begin(asking)
        try:
            self._put(
                m.AskPermit(
                    number,
                    asked_of(request),
                    covered=0 if covered is None else covered.number,
                    chosen=0 if chosen is None else chosen.number,
                )
            )
            permit = await self._permitted(asking, on_ask, gone)
            permit.still_holds()
            with permit.scope:
                yield permit
        finally:
            del self._calls[number]
            self._put_or_lose(m.PermitOver(number))
        if permit.scope.cancelled_caught:
            raise RefusedError(permit.over, where=permit.where)

    async def _permitted(
        self, asking: _Asking, on_ask: OnAsk, gone: trio.Event | None
    ) -> Permit:
        await asking.news.wait()
        if not asking.answered.is_set():
            await on_ask()
            async with trio.open_nursery() as nursery:
                if gone is not None:
                    nursery.start_soon(self._tell_gone, asking, gone)
                await asking.answered.wait()
                nursery.cancel_scope.cancel()
        _expect(m.Permitted, asking.answer)
        if asking.permit is None:
            raise InternalError("an answer that is not a permit")
        return asking.permit

    async def _tell_gone(self, asking: _Asking, gone: trio.Event) -> None:
        await gone.wait()
        for number, call in self._calls.items():
            if call is asking:
                self._put_or_lose(m.PermitGone(number))

    def preview(self, request: Request) -> Verdict | None:
        """See the interface."""
        return self._judge.preview(request)

    async def choose(
        self, requests: Sequence[Request], text: ChoiceText
    ) -> ChosenRequest:
        """See the interface."""
        call = _Call()
        number = self._begin(call)
        try:
            asked = [asked_of(request) for request in requests]
            self._put(m.AskChoice(number, asked, text.words, text.details))
            await call.answered.wait()
        finally:
            del self._calls[number]
            self._put_or_lose(m.PermitOver(number))
        chosen = _expect(m.Chosen, call.answer)
        said = PersonAnswer(allow=True, by="person")
        return ChosenRequest(requests[chosen.place], Asked(chosen.question, said, 0.0))

    def world(self) -> tuple[Engine, World]:
        """See the interface."""
        return self._judge.engine(), self._judge.world()

    def acted(self, lease: str, ago: float = 0.0) -> None:
        """See the interface."""
        if self._link.waiting < authority_limits.AUTHORITY_NOTES_BYTES:
            self._put_or_lose(m.Acted(lease, ago))

    def notify(self, title: str, text: str, *, sandbox: str = "") -> None:
        """See the interface."""
        if self._link.waiting < authority_limits.AUTHORITY_NOTES_BYTES:
            self._put_or_lose(m.NotifyUser(title, text, sandbox))

    # -- interface.Authority -------------------------------------------------------------------

    @property
    def records(self) -> RecordSet:
        """See the interface."""
        return self._files.now

    @property
    def now(self) -> RecordSet:
        """The same, for ``runtime.CurrentRecords``."""
        return self._files.now

    async def lease_begun(self, lease: Lease) -> None:
        """See the interface."""
        self._leases[lease.id] = lease
        await self._call(
            m.AuthorityDone,
            partial(
                m.AnnounceLease,
                lease=lease.id,
                sandbox=lease.sandbox,
                record=lease.record,
                generation=lease.generation,
            ),
        )

    async def lease_ended(self, lease: str) -> None:
        """See the interface."""
        self._leases.pop(lease, None)
        await self._call(m.AuthorityDone, partial(m.EndLease, lease=lease))

    async def reload(self) -> None:
        """See the interface."""
        await self._call(m.AuthorityDone, m.Reload)

    async def wait_changed(self) -> None:
        """See the interface."""
        await self._changed.wait()
        self._changed = trio.Event()

    async def _follow(self, message: m.Policy) -> None:
        """Take copies of other rules and records, to show and to offer things."""
        rules = _NO_RULES
        if message.rules:
            # In a thread: ten thousand rules are half a second's work.
            found = await trio.to_thread.run_sync(
                decode_rules, message.rules, Path("the authority's rules")
            )
            if isinstance(found, Problem):
                raise InternalError(f"rules that cannot be read: {found.first_line()}")
            rules = found
        self._rules.engine, self._rules.digest = Engine(rules), message.digest
        await trio.to_thread.run_sync(self._files.follow, message.records)
        self._started = True
        self._changed.set()

    # -- status and control -----------------------------------------------------------------------

    async def report(self) -> AuthorityReport:
        """The authority's part of the status."""
        return (await self._call(m.Report, m.AskReport)).report

    async def serve_control(self) -> None:
        """Have the control socket served; returns when programs can connect.

        Raises SetupError.
        """
        await self._call(m.AuthorityDone, m.ServeControl)

    # -- audit.event_log.EventLog -----------------------------------------------------------------

    def check_share(self, lease: Lease) -> None:
        """See the interface: as the authority said a few seconds ago."""
        until, error = self._used_up.get(lease.record, (0.0, None))
        if error is not None and trio.current_time() < until:
            raise RefusedError(error.message, hint=error.hint)

    def content_digest(self, content: bytes) -> str:
        """See the interface."""
        return self._namer.content_digest(content)

    def digest(self, content: bytes) -> str:
        """See the interface."""
        return self._namer.digest(content)

    async def require(self, event: Event) -> None:
        """See the interface."""
        await self._record(event, "require")

    async def note(self, event: Event) -> None:
        """See the interface."""
        await self._past(event, "note")

    async def refused(self, event: Refusal) -> None:
        """See the interface."""
        await self._past(event, "refused")

    async def _past(self, event: Event, how: str) -> None:
        try:
            await self._record(event, how)
        except (UpstreamError, RefusedError) as error:
            log_stderr(f"vitrail: not recorded: {event.kind}: {error}")

    async def _record(self, event: Event, how: str) -> None:
        body = schema.encode(event)
        await self._call(m.AuthorityDone, partial(m.RecordEvent, body=body, how=how))


def _tell(asking: _Asking, message: m.PermitNow | m.PermitCut | m.Asking) -> None:
    permit = asking.permit
    match message:
        case m.Asking():
            asking.news.set()
        case m.PermitNow() if permit is not None:
            permit.where, permit.returns = message.where, message.returns
            permit.max_size = message.max_size
        case m.PermitCut() if permit is not None:
            permit.end(message.reason, message.where)


def _permit(request: Request, answer: m.Permitted) -> Permit:
    return Permit(
        request=request,
        target=answer.target,
        where=answer.where,
        user=answer.user,
        autostart=answer.autostart,
        max_size=answer.max_size,
        since=trio.current_time(),
        rule=None,
        answered=answer.answered,
        returns=answer.returns,
        schemes=answer.schemes,
        number=answer.request,
    )


def _expect(kind: type[_M], answer: m.FromAuthority | None) -> _M:
    if isinstance(answer, m.Failed):
        raise error_of(answer)
    if not isinstance(answer, kind):
        raise InternalError(f"an answer that is not {kind.__name__}")
    return answer
