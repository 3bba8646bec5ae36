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
from broker.host_and_viewer.log_client import AuthorityCall, LogClient, expect
from broker.ipc import authority as m
from broker.viewer.authority.request_messages import asked_of
from broker.wire.frame_carrier import Frames

_S = TypeVar("_S", m.Previewed, m.RulesShown)
_SHOWN_KEPT = 256
"""Answers that are kept; a message has AUTHORITY_PREVIEWS requests at most."""


@dataclass(eq=False)
class _Asking(AuthorityCall):
    """A request for a permit, until its end."""

    request: Request | None = None
    news: trio.Event = field(default_factory=trio.Event)
    """Set when the user is being asked, and with the answer."""
    permit: Permit | None = None

    @override
    def set_answer(self, answer: m.AuthorityAnswer) -> None:
        """Store the answer, with its permit, and wake the task that waits for it."""
        # At once: what cuts it may be the next message, and is read in this turn.
        if isinstance(answer, m.Permitted) and self.request is not None:
            self.permit = _permit(self.request, answer)
        super().set_answer(answer)
        self.news.set()


class AuthorityClient(LogClient):
    """Asks the authority for permits, and holds them while their blocks run."""

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
        self._shown: dict[bytes, m.Previewed | m.RulesShown] = {}
        """Answers that hold until something changes, by their questions."""
        self._changes = 0

    @override
    def _decode(self, frame: bytes) -> m.AuthorityMessage:
        return m.decode_from_authority(frame)

    @override
    async def _take(self, message: m.AuthorityMessage) -> None:
        """Handle one message of the authority."""
        if isinstance(message, m.QuestionWaits):
            self.question_waits(message)
        else:
            await super()._take(message)

    def show_question(self, token: str) -> None:
        """Have the dialog brought to the front, by a compositor's token or ""."""
        self._put_or_lose(m.ShowQuestion(token))

    @override
    def _take_answer(self, message: m.AuthorityAnswer) -> None:
        """Handle an answer to a permit request; pass others to the base class."""
        call = self._calls.get(message.request)
        if not isinstance(call, _Asking):
            super()._take_answer(message)
            return
        match message:
            case m.PermitNow() | m.PermitCut() | m.Asking():
                _tell(call, message)
            case m.AuthorityDone(number):
                # guard: a permit that is given up has its place until its end
                del self._calls[number]
            case _:
                call.set_answer(message)

    @override
    async def _follow(self, message: m.Policy) -> None:
        self._forget_shown()
        await super()._follow(message)

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
        asking = _Asking(request=request)
        number = self._begin(
            asking,
            partial(
                m.AskPermit,
                asked=asked_of(request),
                covered=0 if covered is None else covered.number,
                chosen=0 if chosen is None else chosen.number,
            ),
        )
        used = False
        try:
            permit = await self._wait_for_permit(asking, on_ask, gone)
            permit.renewed = partial(self._renewed, permit)
            permit.still_holds()
            used = True
            with permit.scope:
                yield permit
        finally:
            self._put_or_lose(m.PermitOver(number, used))
        if permit.scope.cancelled_caught:
            raise RefusedError(permit.over, where=permit.where)

    async def _wait_for_permit(
        self, asking: _Asking, on_ask: OnAsk, gone: trio.Event | None
    ) -> Permit:
        """Wait for the answer to a request that was sent.

        ``on_ask`` is called when the user is asked.  The authority answers also when it
        was told of ``gone``.
        """
        await asking.news.wait()
        if not asking.answered.is_set():
            await on_ask()
            async with trio.open_nursery() as nursery:
                if gone is not None:
                    nursery.start_soon(self._tell_gone, asking, gone)
                await asking.answered.wait()
                nursery.cancel_scope.cancel()
        expect(m.Permitted, asking.answer)
        if asking.permit is None:
            raise InternalError("the authority sent an answer that is not a permit")
        return asking.permit

    def _renewed(self, permit: Permit) -> bytes:
        """See ``Permit.renewed``."""
        self._put_or_lose(m.RenewWarrant(permit.number))
        return permit.warrant

    async def _tell_gone(self, asking: _Asking, gone: trio.Event) -> None:
        await gone.wait()
        for number, call in self._calls.items():
            if call is asking:
                self._put_or_lose(m.PermitGone(number))

    async def preview(self, requests: Sequence[Request]) -> Sequence[m.Preview | None]:
        """Return the current decisions about requests.  See ``Permits.preview``."""
        asked = [
            m.PreviewRequest(one.lease.sandbox, one.lease.record, asked_of(one))
            for one in requests
        ]
        answers: list[m.Preview | None] = []
        for at in range(0, len(asked), authority_limits.AUTHORITY_PREVIEWS):
            some = asked[at : at + authority_limits.AUTHORITY_PREVIEWS]
            found = await self._show(m.Previewed, partial(m.AskPreview, asked=some))
            answers += found.answers
        return answers

    async def rules_about(
        self, service: str, source: str, target: str = ""
    ) -> Sequence[m.ShownRule]:
        """See ``Permits.rules_about``."""
        ask = partial(m.AskRules, service=service, source=source, target=target)
        return (await self._show(m.RulesShown, ask)).rules

    async def _show(self, kind: type[_S], ask: Callable[[int], m.ClientMessage]) -> _S:
        """Return the authority's answer to a question; keep it until policy changes."""
        key, changes = m.encode_from_client(ask(0)), self._changes
        known = self._shown.get(key)
        if isinstance(known, kind):
            return known
        answer = await self.ask(kind, ask)
        # An answer that crossed a change may be by the earlier rules.
        if changes == self._changes:
            if len(self._shown) >= _SHOWN_KEPT:
                self._shown.clear()
            self._shown[key] = answer
        return answer

    def _forget_shown(self) -> None:
        self._changes += 1
        self._shown.clear()

    async def choose(self, requests: Sequence[Request]) -> ChosenRequest:
        """Have the user choose one request; see ``interface.Permits.choose``."""
        call = AuthorityCall()
        asked = [asked_of(request) for request in requests]
        ask = partial(m.AskChoice, asked=asked)
        number = self._begin(call, ask)
        try:
            await call.answered.wait()
        finally:
            self._put_or_lose(m.PermitOver(number))
        chosen = expect(m.Chosen, call.answer)
        said = PersonAnswer(allow=True, by="person")
        return ChosenRequest(requests[chosen.place], Asked(chosen.question, said, 0.0))

    def acted(self, lease: str, ago: float = 0.0) -> None:
        """See ``Permits.acted``."""
        if self._link.waiting < authority_limits.AUTHORITY_NOTES_BYTES:
            self._put_or_lose(m.Acted(lease, ago))

    # -- interface.Authority -------------------------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """Announce a lease to the authority.  See ``Authority``."""
        await self._change_leases(
            partial(
                m.AnnounceLease,
                lease=lease.id,
                sandbox=lease.sandbox,
                record=lease.record,
                generation=lease.generation,
            )
        )

    async def lease_ended(self, lease: str) -> None:
        """See ``Authority``."""
        await self._change_leases(
            partial(m.EndLease, lease=lease), kept=-authority_limits.AUTHORITY_LEASES
        )

    async def _change_leases(
        self, change: Callable[[int], m.ClientMessage], kept: int = 1
    ) -> None:
        """Report a lease that began or ended, and forget all kept answers."""
        try:
            await self.ask(m.AuthorityDone, change, kept=kept)
        finally:
            self._forget_shown()


def _tell(asking: _Asking, message: m.PermitNow | m.PermitCut | m.Asking) -> None:
    """Apply a message of the authority to the permit that it is about."""
    permit = asking.permit
    match message:
        case m.Asking():
            asking.news.set()
        case m.PermitNow() if permit is not None:
            permit.where, permit.returns = message.where, message.returns
            permit.max_size, permit.warrant = message.max_size, message.warrant
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
        warrant=answer.warrant,
    )
