"""Authorization of operations of sandboxes: the one interface for every service.

A service performs an operation for a sandbox that crosses to the viewer or to
another sandbox inside ``Decider.permit``::

    request = Request(
        lease=guest.lease, service="vitrail.AudioInput", counts_bytes=False
    )
    async with decider.permit(request) as permit:
        await carry(permit.target)   # cancelled when it is permitted no longer

``permit`` asks the sandbox's record and the rules, asks the user where a rule
says so, and returns once the decision is on record; a no is RefusedError, and
then nothing was done.  A service without a rule is denied.  While the block runs it is
*live*: it is decided again when files change, and cancelled as soon as the answer is
deny, a grant is revoked, or its time (``ttl=``) is over; ``permit`` then raises
RefusedError with the rule in ``where``, unless the block has already ended.

For a paste the block is empty, or holds just the transfer.  The caller must still
enforce ``Permit.max_size``, the most bytes that may flow (checked before where
``Request.size`` is known), ``target``, and ``autostart``.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import trio

from broker.authority.audit import event_log
from broker.authority.boottime_clock import BoottimeClock
from broker.authority.decisions import decision_events as events
from broker.authority.decisions import grant_events
from broker.authority.decisions import put_question as questions
from broker.authority.decisions.choice import choose
from broker.authority.decisions.evaluator import Evaluator, Locked
from broker.authority.decisions.late_answers import LateAnswers
from broker.authority.decisions.live_permits import LivePermits
from broker.authority.decisions.rate_limits import Meters
from broker.authority.permit import (
    Asked,
    ChosenRequest,
    OnAsk,
    Permit,
    Request,
    nothing_asked,
)
from broker.authority.questions.grants import Grant, Grants
from broker.authority.rules import Rules
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.notify import Notify
from broker.core.question import Keep, PersonAnswer, Question
from broker.core.stderr_log import log_exception
from broker.ipc import authority as m
from broker.ipc.audit import schema
from policy.records.model import RecordSet
from policy.rules.engine import PolicyAnswer as Verdict

_ALLOW, _DENY = schema.EventVerdict.ALLOW, schema.EventVerdict.DENY
_ELSEWHERE = "the rule names another target, but this request has only one"


class Decider:
    """Decides for all sandboxes of one viewer."""

    def __init__(
        self,
        *,
        rules: Rules,
        records: Callable[[], RecordSet],
        running: Callable[[], Iterable[Lease]],
        log: event_log.EventLog,
        asker: questions.Asker | None = None,
        notify: Notify | None = None,
        pending_records: Callable[[], RecordSet | None] = lambda: None,
        locked: Locked,
        last_question: int = 0,
    ) -> None:
        self._rules = rules
        self._judge = Evaluator(rules, records, running, pending_records, locked)
        self._log = log
        self.asker: questions.Asker = asker or questions.NoPrompt()
        self.notify: Notify = notify or rules.notify
        self.grants, self._late = Grants(), LateAnswers()
        self._live = LivePermits()
        self._questions = last_question
        self._cut: list[tuple[Permit, str]] = []
        """Permits that ``cut_denied`` has ended, with the reason; not yet recorded."""
        self._meters = Meters()
        self.clock = BoottimeClock()

    # -- asking ----------------------------------------------------------------

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
        """Decide about one operation, and permit it while the block runs.

        ``on_ask`` is awaited when the user is about to be asked, which takes
        up to ``limits.QUESTION_MOST_SECONDS``.  ``covered``: a permit whose question
        named this request as well; the same rule does not ask again.  ``chosen``: the
        answer of ``choose`` that named this request.  ``gone``: is set when who asked
        has given up; a yes that comes then is a no for this request, and counts for
        the next equal one.  Raises RefusedError for a no,
        UpstreamError when the decision could not be recorded (so it is a no).
        """
        self._live.require_room(request)
        if not request.reported_by_viewer:  # else it is the user's hand, as a chord is
            # guard: a decision asks the share
            self._log.check_share(request.lease)
        permit = await self._decide(request, on_ask, covered, chosen, gone)
        with self._live.using(permit):
            try:
                await self._confirm(permit, on_ask)
            except BaseException as error:
                reason = str(error) if isinstance(error, RefusedError) else ""
                await events.not_opened(self._log, request, reason)
                raise
            # guard: what a rule wants to be notified of is not left to the viewer
            if permit.rule is not None and permit.rule.notify:
                way = f" to {permit.target}, by {permit.where}"
                self.notify(
                    *events.notice(request, "allowed", way),
                    sandbox=request.lease.sandbox,
                )
            with permit.scope:
                yield permit
        if permit.scope.cancelled_caught:
            reason = permit.over or "the time limit of the rule has passed"
            if not permit.over:
                await self._log.note(events.cut(permit, reason, self._judge.digests()))
            raise RefusedError(reason, where=permit.where)

    async def _confirm(self, permit: Permit, on_ask: OnAsk) -> None:
        """Judge a new permit by the current rules; log a no, ask again if they changed."""
        answer, reason, where = self._judge.revalidate(permit)
        if permit.grant and permit.grant not in self.grants:
            reason, where = "the grant has ended", permit.where
        # guard: decided again before the effect
        if reason:
            raise await self._no(permit.request, None, reason, where)
        if answer is not None and not self._holds_still(permit, answer):
            await self._ask_again(permit, answer, on_ask)
        permit.still_holds()

    async def preview(self, requests: Sequence[Request]) -> Sequence[m.Preview | None]:
        """See ``Permits.preview``."""
        return [self._judge.preview(request) for request in requests]

    async def rules_about(
        self, service: str, source: str, target: str = ""
    ) -> Sequence[m.ShownRule]:
        """See ``Permits.rules_about``."""
        return self._judge.rules_about(service, source, target)

    async def choose(self, requests: Sequence[Request]) -> ChosenRequest:
        """Have the user choose one of several requests; see ``choice.choose``."""
        self._questions += 1
        return await choose(
            requests, asker=self.asker, log=self._log, number=self._questions
        )

    def acted(self, lease: str, ago: float = 0.0) -> None:
        """Record that the user acted in a window of a sandbox.

        ``ago``: so many seconds before now. It is the word of the sandbox's worker, so
        it holds as far as that one was not taken over.
        """
        self._meters.acted(lease, self.clock.now() - ago)

    async def _decide(
        self,
        request: Request,
        on_ask: OnAsk,
        covered: Permit | None,
        chosen: Asked | None,
        gone: trio.Event | None,
    ) -> Permit:
        """Decide a request by rule, choice, grant or the user's answer; log the decision."""
        answer = await self._asked_first(request)
        if answer.verdict == "allow":
            return await self._yes(request, answer)
        if chosen is not None:
            question = self._judge.question(request, answer)
            said = msgspec.structs.replace(chosen.said, target=question.default_target)
            return await self._answered(request, question, replace(chosen, said=said))
        if covered is not None and covered.answered and covered.rule is answer.rule:
            return await self._yes(request, answer, target=covered.target)
        now = self.clock.now()
        grant = self.grants.find(request.subject, now)
        if grant is not None and self._serves(grant, answer):
            return await self._yes(request, answer, grant=grant)
        if late := self._late.take(request, answer, now):
            why = "the user allowed an earlier request, which had been given up"
            return await self._yes(request, answer, target=late, reason=why)
        return await self._ask(request, answer, on_ask, gone)

    async def _granted(self, request: Request) -> Verdict:
        """Return an allow or an ask of record and rules.  Raises RefusedError."""
        decided = self._judge.decide(request, begins=True)
        answer = decided.answer
        if decided.refused_by_record:
            raise await self._no(request, None, answer.reason, decided.where)
        if answer.verdict not in {"allow", "ask"}:
            raise await self._no(request, answer, answer.reason, answer.where)
        return answer

    async def _asked_first(self, request: Request) -> Verdict:
        """Return the verdict with its limits counted.  Logs a no, raises RefusedError."""
        answer = await self._granted(request)
        if request.elsewhere(answer):
            raise await self._no(request, answer, _ELSEWHERE, answer.where)
        beyond = self._meters.beyond(request, answer, self.clock.now())
        # guard: limits are held
        if beyond:
            # What follows the one call that a user allowed is refused like all others.
            brief = answer.rule is None or not answer.rule.of_one_call
            raise await self._no(request, answer, beyond, answer.where, brief=brief)
        return answer

    # -- the user ------------------------------------------------------------------

    async def _ask(
        self, request: Request, answer: Verdict, on_ask: OnAsk, gone: trio.Event | None
    ) -> Permit:
        """Put a question to the user; log the answer, return its permit or refuse."""
        question = self._judge.question(request, answer)
        # guard: a question offers few targets
        if len(question.targets) > limits.QUESTION_TARGETS:
            reason = f"{len(question.targets)} targets are too many to choose from"
            raise await self._no(request, answer, reason, answer.where)
        # Before anything is recorded one by one: this is where a flood ends.
        number = self.asker.admit(question)
        if isinstance(number, PersonAnswer):
            # guard: a flood is refused unrecorded
            reason = number.reason
            raise await self._no(request, answer, reason, answer.where, brief=True)
        asked = await self._put(request, question, number, on_ask, gone)
        if (
            gone is not None
            and gone.is_set()
            and not questions.refusal(question, asked.said)
        ):
            raise await self._too_late(request, answer, asked)
        return await self._answered(request, question, asked)

    async def _too_late(
        self, request: Request, answer: Verdict, asked: Asked
    ) -> RefusedError:
        """Keep a yes that came too late, record the no and return what to raise."""
        target, now = asked.said.target, self.clock.now()
        self._late.keep(request, target, answer, now)
        reason = f"the request was given up before the answer; the answer applies to the next attempt within {limits.LATE_ANSWER_SECONDS:g} s"
        return await self._no(request, answer, reason, answer.where, asked=asked)

    async def _put(
        self,
        request: Request,
        question: Question,
        admitted: int,
        on_ask: OnAsk = nothing_asked,
        gone: trio.Event | None = None,
    ) -> Asked:
        """Ask the user, and record question and answer."""
        self._questions += 1
        policy = self._rules.digest
        event = grant_events.question_asked(request, question, self._questions, policy)

        async def answer() -> PersonAnswer:
            await on_ask()
            return await questions.ask_until_gone(self.asker, admitted, gone)

        return await questions.put_question(
            event,
            admitted,
            answer,
            asker=self.asker,
            log=self._log,
            gone=questions.GONE,
        )

    async def _answered(
        self, request: Request, question: Question, asked: Asked
    ) -> Permit:
        """Apply the current rules to the user's answer; log it, return a permit or refuse."""
        said = asked.said
        answer = await self._granted(request)
        reason = questions.refusal(question, said)
        # guard: rules asked again after the answer
        chosen = said.target in answer.targets or answer.verdict == "allow"
        chosen = chosen and not request.elsewhere(answer)
        if not reason and not chosen:
            reason = "the chosen target is no longer offered"
        if reason:
            raise await self._no(request, answer, reason, answer.where, asked=asked)
        if answer.verdict == "allow":
            return await self._yes(request, answer, asked=asked)
        grant = await self._remember(request, answer, said)
        return await self._yes(
            request, answer, grant=grant, target=said.target, asked=asked
        )

    async def _remember(
        self, request: Request, answer: Verdict, said: PersonAnswer
    ) -> Grant | None:
        """Remember an answer for as long as the current rule permits."""
        # guard: keep as the rule permits
        if said.keep is Keep.ONCE or said.keep not in questions.keeps(answer.limits):
            return None
        seconds = answer.limits.ttl or 0
        grant = self.grants.add(
            request.lease.sandbox,
            request.subject,
            said.target,
            keep=said.keep,
            rule=answer.where,
            now=self.clock.now(),
            seconds=seconds,
        )
        if grant is None:
            return None
        try:
            await self._log.require(
                grant_events.grant_made(request, grant, said.by, seconds)
            )
        except BaseException:
            self.grants.end(grant)  # a grant that is not on record must not hold
            raise
        return grant

    def _serves(self, grant: Grant, answer: Verdict) -> bool:
        """Return whether this rule would let a user give this grant."""
        return (
            answer.verdict == "ask"
            and grant.target in answer.targets
            and grant.keep in questions.keeps(answer.limits)
        )

    # -- grants --------------------------------------------------------------------

    async def revoke(self, grants: Iterable[Grant], reason: str) -> None:
        """End grants, and the operations that are permitted by them; log each end."""
        for grant in grants:
            if not self.grants.end(grant):
                continue
            await self._log.note(grant_events.grant_ended(grant, reason))
            # guard: a revoked grant cuts
            for permit in [p for p in self._live if p.grant == grant.id]:
                await self._end(permit, f"the grant has ended: {reason}", grant.rule)

    async def lease_ended(self, lease: str) -> None:
        """End the grants of a sandbox that has stopped."""
        self._meters.forget(lease)
        self._late.forget(lease)
        self.asker.forget(lease)
        # guard: grants end with the lease
        await self.revoke(self.grants.of_lease(lease), "the sandbox stopped")

    async def forget_over(self) -> None:
        """End the grants whose time is over, and operations that a sleep outlasted."""
        self.clock.catch_up(self._live)
        await self.revoke(
            self.grants.over(self.clock.now()), "its time limit has passed"
        )

    # -- live -----------------------------------------------------------------------

    def live(self) -> list[Permit]:
        """The live operations."""
        return list(self._live)

    def cut_denied(self) -> None:
        """Cut operations that are denied now, before anything can be recorded.

        ``decide_again``, which follows, records it.
        """
        for permit in self.live():
            _, reason, where = self._judge.revalidate(permit)
            if reason:
                permit.end(reason, where)
                self._cut.append((permit, reason))

    async def decide_again(self) -> None:
        """Decide again after a change of rules or records; end denied operations.

        Returns when denied operations were cut and the questions about others
        were answered.
        """
        self.cut_denied()  # before the grants, whose ends are recorded
        for grant in self.grants.all(self.clock.now()):
            # guard: grants looked at after a swap
            await self._look_at_grant(grant)
        asked: list[tuple[Permit, Verdict]] = []
        ended, self._cut = self._cut, []
        for permit in self.live():
            answer, reason, where = self._judge.revalidate(permit)
            # guard: a swap asks
            if reason:
                # Denied while the grants were looked at; the others were cut above.
                permit.end(reason, where)
                ended.append((permit, reason))
            elif answer is not None and not self._holds_still(permit, answer):
                asked.append((permit, answer))
        async with trio.open_nursery() as nursery:
            for permit, reason in ended:
                nursery.start_soon(self._tell_end, permit, reason)
            for permit, answer in asked:
                nursery.start_soon(self._ask_again, permit, answer)

    async def _look_at_grant(self, grant: Grant) -> None:
        """End a remembered grant that the current rules no longer allow."""
        subject = grant.subject
        lease = next((x for x in self._judge.running() if x.id == subject.lease), None)
        if lease is None:
            return  # it ends with its lease
        request = Request(**{**subject._asdict(), "lease": lease})
        answer = self._judge.verdict(request)
        if answer.verdict != "allow" and not self._serves(grant, answer):
            await self.revoke([grant], f"{answer.where} no longer allows it")
        elif answer.verdict == "ask" and answer.limits.ttl is not None:
            # guard: a shorter time is a grant's, too
            self.grants.shorten(grant, grant.since + answer.limits.ttl)

    def _holds_still(self, permit: Permit, answer: Verdict) -> bool:
        """Return whether an earlier answer still answers the current rules."""
        before, now = permit.rule, answer.rule
        permit.follow(answer)
        if answer.verdict == "allow":
            return True
        if not permit.answered:
            return False
        if before is not None and now is not None and before.meaning() == now.meaning():
            return True
        if permit.grant:
            return True  # looked at already, and it serves
        return answer.limits.remember in {"stream", "session"}

    async def _ask_again(
        self, permit: Permit, answer: Verdict, on_ask: OnAsk = nothing_asked
    ) -> None:
        """Ask the user again about a permit; record a yes, end it after a no."""
        # It continues as it is or not at all.
        question = msgspec.structs.replace(
            self._judge.question(permit.request, answer),
            targets=(permit.target,),
            default_target=permit.target,
            keeps=(Keep.ONCE,),
        )
        number = self.asker.admit(question)
        try:
            if isinstance(number, PersonAnswer):
                asked = Asked(0, number, 0.0)
            else:
                asked = await self._put(permit.request, question, number, on_ask)
        except Exception as error:  # noqa: BLE001 -- any failure is a denial
            log_exception(error)
            no = PersonAnswer(allow=False, reason="the user could not be asked")
            asked = Asked(0, no, 0.0)
        why = questions.refusal(question, asked.said)
        if why:
            await self._end(permit, f"the user was asked again: {why}", answer.where)
        else:
            permit.answered = True
            await self._log.note(
                self._event(permit.request, answer, target=permit.target, asked=asked)
            )

    async def _end(self, permit: Permit, reason: str, where: str) -> None:
        """End a permit that still holds; record that, and notify the user."""
        if not permit.over:
            permit.end(reason, where)
            await self._tell_end(permit, reason)

    async def _tell_end(self, permit: Permit, reason: str) -> None:
        """Record the end of a permit in the audit log, and notify the user of it."""
        # It has happened whether or not it can be written down.
        await self._log.note(events.cut(permit, reason, self._judge.digests()))
        self.notify(*events.notice(permit.request, "cut", f": {reason}"))

    # -- events ------------------------------------------------------------------------

    async def _yes(
        self,
        request: Request,
        answer: Verdict,
        *,
        grant: Grant | None = None,
        target: str = "",
        reason: str = "",
        asked: Asked | None = None,
    ) -> Permit:
        """Record an allowed decision and return its permit.  Raises UpstreamError."""
        permit = self._permit(request, answer, grant=grant, target=target)
        event = self._event(
            request,
            answer,
            target=permit.target,
            reason=reason,
            asked=asked,
            grant=permit.grant if asked is None else "",  # made by this answer
        )
        opened = events.opened(request)
        # Given up in here it would be written all the same, and no end of it.
        with trio.CancelScope(shield=bool(opened)):
            # guard: recorded before the effect
            await self._log.require(event, *opened)
        return permit

    def _permit(
        self,
        request: Request,
        answer: Verdict,
        *,
        grant: Grant | None = None,
        target: str = "",
    ) -> Permit:
        now, ttl = trio.current_time(), answer.limits.ttl
        until = math.inf if ttl is None else now + ttl
        if grant is not None:
            target, until = grant.target, min(until, self.clock.deadline(grant.until))
        # guard: time to live
        permit = Permit(
            request=request,
            target=target or answer.target or "",
            where=answer.where,
            user=answer.user,
            autostart=answer.autostart,
            max_size=answer.limits.max_size,
            since=now,
            rule=answer.rule,
            answered=answer.verdict == "ask",
            grant="" if grant is None else grant.id,
            scope=trio.CancelScope(deadline=until),
        )
        permit.follow(answer)
        return permit

    async def _no(
        self,
        request: Request,
        answer: Verdict | None,
        reason: str,
        where: str,
        *,
        asked: Asked | None = None,
        brief: bool = False,
    ) -> RefusedError:
        """Record a denied decision and return the error to raise."""
        event = events.decision(
            request,
            answer,
            _DENY,
            self._judge.digests(),
            where=where,
            reason=reason,
            asked=asked,
            brief=brief,
        )
        await self._log.refused(event)
        if (answer is None or answer.notify) and not request.reported_by_viewer:
            shown = events.notice(request, "refused", f": {reason}")
            self.notify(*shown, sandbox=request.lease.sandbox)
        return RefusedError(f"denied: {reason}", where=where)

    def _event(
        self,
        request: Request,
        answer: Verdict,
        *,
        target: str,
        reason: str = "",
        asked: Asked | None = None,
        grant: str = "",
    ) -> schema.Decision:
        return events.decision(
            request,
            answer,
            _ALLOW,
            self._judge.digests(),
            target=target,
            reason=reason,
            asked=asked,
            grant=grant,
            record=self._judge.record_line(request),
        )
