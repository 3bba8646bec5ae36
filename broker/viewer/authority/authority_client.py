"""The asking process's end of the authority's channel: requests out, permits in.

Implements ``interface.Authority`` and ``audit.event_log.EventLog`` by messages.  What is
only shown or offered (``preview``, ``rules_about``) is asked for and kept until the
authority announces other rules or records, or a lease begins or ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
import trio
from typing_extensions import override

from broker.authority.permit import (
    Asked,
    ChosenRequest,
    OnAsk,
    Permit,
    Request,
    nothing_asked,
)
from broker.core.errors import InternalError, RefusedError
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.question import PersonAnswer
from broker.host_and_viewer.log_client import LogClient
from broker.ipc import authority as m
from broker.ipc.audit.log_rows import (
    ANNOUNCE_LEASE,
    END_LEASE,
    AnnounceLease,
    EndLease,
)
from broker.viewer.authority.request_messages import asked_of
from broker.wire.exchange import ServedCall
from broker.wire.frame_carrier import Frames
from broker.wire.pending_call import PendingCall
from broker.wire.row import Empty, ProcessKind, Row, serves

_Q = TypeVar("_Q", m.PreviewRequests, m.RulesRequest)
_L = TypeVar("_L", AnnounceLease, EndLease)
_A = TypeVar("_A", m.Previews, m.ShownRules)
_SHOWN_KEPT = 256
"""Answers that are kept; a message has AUTHORITY_PREVIEWS requests at most."""
_key_of = msgspec.msgpack.Encoder().encode


@dataclass(eq=False)
class _PermitCall:
    """A call for a permit, until its end."""

    request: Request
    news: trio.Event = field(default_factory=trio.Event)
    """Set when the user is being asked, and with the decision."""
    decided: trio.Event = field(default_factory=trio.Event)
    """Set when there is a permit, or the call has ended."""
    permit: Permit | None = None

    def take(self, number: int, news: m.PermitNews) -> None:
        """Apply what the authority says of the permit with this number."""
        # At once: what cuts it may be the next message, and is read in this turn.
        if news.granted is not None:
            self.permit = _permit(self.request, news.granted, number)
            self.decided.set()
        elif self.permit is not None and news.changed is not None:
            permit, now = self.permit, news.changed
            permit.where, permit.returns = now.where, now.returns
            permit.max_size, permit.warrant = now.max_size, now.warrant
        elif self.permit is not None and news.cut is not None:
            self.permit.end(news.cut.reason, news.cut.where)
        self.news.set()

    def end(self) -> None:
        """Wake the task that waits: there will be no permit."""
        self.decided.set()
        self.news.set()


class AuthorityClient(LogClient):
    """Asks the authority for permits, and holds them while their blocks run."""

    KIND = ProcessKind.VIEWER
    ROWS = m.AUTHORITY_ROWS

    def __init__(
        self,
        link: Frames,
        *,
        lost: Callable[[str], None],
    ) -> None:
        """Set up the client; see ``LogClient``."""
        super().__init__(link, lost=lost)
        self.question_waits: Callable[[m.QuestionWaits], None] = lambda _: None
        """Called when another question is on the screen, or none."""
        self._shown: dict[tuple[str, bytes], m.Previews | m.ShownRules] = {}
        """Answers that hold until something changes, by their questions."""
        self._changes = 0

    @serves(m.QUESTION_WAITS)
    async def _take_question(
        self, _: ServedCall[Empty], question: m.QuestionWaits
    ) -> None:
        self.question_waits(question)

    def show_question(self, token: str) -> None:
        """Have the dialog brought to the front, by a compositor's token or ""."""
        self.put_or_lose(m.SHOW_QUESTION, m.ShowQuestion(token))

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
        """Request a permit and hold it while the block runs.

        See ``Permits.permit``.
        """
        waiting = _PermitCall(request)
        # One that is given up has its place until the authority has ended it.
        call = await self.peer.begin(
            m.PERMIT,
            m.AskPermit(
                asked_of(request),
                covered=0 if covered is None else covered.number,
                chosen=0 if chosen is None else chosen.number,
            ),
            on_item=lambda news: waiting.take(call.number, news),
            on_end=waiting.end,
        )
        used = False
        try:
            permit = await self._wait_for_permit(call, waiting, on_ask, gone)
            permit.renewed = partial(self._renewed, permit)
            permit.still_holds()
            used = True
            with permit.scope:
                yield permit
        finally:
            self.put_or_lose(m.PERMIT_OVER, m.PermitOver(call.number, used))
        if permit.scope.cancelled_caught:
            raise RefusedError(permit.over, where=permit.where)

    async def _wait_for_permit(
        self,
        call: PendingCall,
        waiting: _PermitCall,
        on_ask: OnAsk,
        gone: trio.Event | None,
    ) -> Permit:
        """Wait for the decision about a request that was sent.

        ``on_ask`` is called when the user is asked.  The authority decides also when it
        was told of ``gone``.
        """
        await waiting.news.wait()
        if not waiting.decided.is_set():
            await on_ask()
            async with trio.open_nursery() as nursery:
                if gone is not None:
                    nursery.start_soon(self._tell_gone, call, gone)
                await waiting.decided.wait()
                nursery.cancel_scope.cancel()
        if waiting.permit is None:
            raise call.error or InternalError("the authority did not decide a request")
        return waiting.permit

    def _renewed(self, permit: Permit) -> bytes:
        """See ``Permit.renewed``."""
        self.put_or_lose(m.RENEW_WARRANT, m.NamedPermit(permit.number))
        return permit.warrant

    async def _tell_gone(self, call: PendingCall, gone: trio.Event) -> None:
        await gone.wait()
        if not call.ended.is_set():
            self.put_or_lose(m.PERMIT_GONE, m.NamedPermit(call.number))

    async def preview(self, requests: Sequence[Request]) -> Sequence[m.Preview | None]:
        """Return the current decisions about requests.  See ``Permits.preview``."""
        asked = [
            m.PreviewRequest(one.lease.sandbox, one.lease.record, asked_of(one))
            for one in requests
        ]
        answers: list[m.Preview | None] = []
        for at in range(0, len(asked), authority_limits.AUTHORITY_PREVIEWS):
            some = asked[at : at + authority_limits.AUTHORITY_PREVIEWS]
            found = await self._show(m.PREVIEW, m.PreviewRequests(some))
            answers += found.answers
        return answers

    async def rules_about(
        self, service: str, source: str, target: str = ""
    ) -> Sequence[m.ShownRule]:
        """See ``Permits.rules_about``."""
        request = m.RulesRequest(service, source, target)
        return (await self._show(m.RULES_ABOUT, request)).rules

    async def _show(self, row: Row[_Q, _A], request: _Q) -> _A:
        """Return the authority's answer to a question; keep it until policy changes."""
        key, changes = (row.name, _key_of(request)), self._changes
        known = self._shown.get(key)
        if row.answer is not None and isinstance(known, row.answer):
            return known
        answer = await self.call(row, request)
        # An answer that crossed a change may be by the earlier rules.
        if changes == self._changes:
            if len(self._shown) >= _SHOWN_KEPT:
                self._shown.clear()
            self._shown[key] = answer
        return answer

    @override
    def _forget_shown(self) -> None:
        self._changes += 1
        self._shown.clear()

    async def choose(self, requests: Sequence[Request]) -> ChosenRequest:
        """Have the user choose one request; see ``interface.Permits.choose``."""
        asked = [asked_of(request) for request in requests]
        chosen = await self.call(m.CHOOSE, m.ChoiceRequest(asked))
        said = PersonAnswer(allow=True, by="person")
        return ChosenRequest(requests[chosen.place], Asked(chosen.question, said, 0.0))

    def acted(self, lease: str, ago: float = 0.0) -> None:
        """See ``Permits.acted``."""
        if self._link.waiting < authority_limits.AUTHORITY_NOTES_BYTES:
            self.put_or_lose(m.ACTED, m.Acted(lease, ago))

    # -- interface.Authority -------------------------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """Announce a lease to the authority.  See ``Authority``."""
        request = AnnounceLease(lease.id, lease.sandbox, lease.record, lease.generation)
        await self._change_leases(ANNOUNCE_LEASE, request)

    async def lease_ended(self, lease: str) -> None:
        """See ``Authority``."""
        await self._change_leases(END_LEASE, EndLease(lease))

    async def _change_leases(self, row: Row[_L, Empty], change: _L) -> None:
        """Report a lease that began or ended, and forget all kept answers."""
        try:
            await self.call(row, change)
        finally:
            self._forget_shown()


def _permit(request: Request, answer: m.Permitted, number: int) -> Permit:
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
        number=number,
        warrant=answer.warrant,
    )
