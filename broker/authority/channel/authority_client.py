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

import trio
from typing_extensions import override

from broker.authority.channel.frame_link import FrameLink
from broker.authority.channel.interface import OnAsk, nothing_asked
from broker.authority.channel.log_client import Answer, AuthorityCall, LogClient, expect
from broker.authority.channel.request_messages import asked_of
from broker.authority.decisions.choice import ChoiceText, ChosenRequest
from broker.authority.decisions.decision_events import Asked
from broker.authority.decisions.evaluator import Judge
from broker.authority.permit import Permit, Request
from broker.core.errors import InternalError, RefusedError
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.question import PersonAnswer
from broker.ipc import authority as m
from policy.errors import Problem
from policy.rules.engine import Engine
from policy.rules.engine import PolicyAnswer as Verdict
from policy.rules.last_good import decode_rules
from policy.rules.ruleset import RuleSet
from policy.rules.world import World

_NO_RULES = RuleSet((), (), "", ())


@dataclass(eq=False)
class _Asking(AuthorityCall):
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


class AuthorityClient(LogClient):
    """See the head of this module.  ``run`` receives; everything else waits for it."""

    def __init__(
        self,
        link: FrameLink,
        *,
        lost: Callable[[str], None],
    ) -> None:
        """See ``LogClient``."""
        super().__init__(link, lost=lost)
        self._rules = _RulesCopy()
        self._leases: dict[str, Lease] = {}
        self._judge = Judge(
            self._rules, lambda: self.records, self._leases.values, lambda: None
        )

    @override
    def _take_answer(self, message: Answer) -> None:
        call = self._calls.get(message.request)
        match message:
            case m.PermitNow() | m.PermitCut() | m.Asking():
                if isinstance(call, _Asking):
                    _tell(call, message)
            case _:
                super()._take_answer(message)

    @override
    async def _follow(self, message: m.Policy) -> None:
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
        expect(m.Permitted, asking.answer)
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
        call = AuthorityCall()
        number = self._begin(call)
        try:
            asked = [asked_of(request) for request in requests]
            self._put(m.AskChoice(number, asked, text.words, text.details))
            await call.answered.wait()
        finally:
            del self._calls[number]
            self._put_or_lose(m.PermitOver(number))
        chosen = expect(m.Chosen, call.answer)
        said = PersonAnswer(allow=True, by="person")
        return ChosenRequest(requests[chosen.place], Asked(chosen.question, said, 0.0))

    def world(self) -> tuple[Engine, World]:
        """See the interface."""
        return self._judge.engine(), self._judge.world()

    def acted(self, lease: str, ago: float = 0.0) -> None:
        """See the interface."""
        if self._link.waiting < authority_limits.AUTHORITY_NOTES_BYTES:
            self._put_or_lose(m.Acted(lease, ago))

    # -- interface.Authority -------------------------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """See the interface."""
        self._leases[lease.id] = lease
        await self.ask(
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
        await self.ask(m.AuthorityDone, partial(m.EndLease, lease=lease))


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
