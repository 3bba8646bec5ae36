"""Whether a sandbox may: the one door through which every service asks.

Whoever is about to do something for a sandbox that crosses to the viewer or to
another sandbox does it inside ``Decider.permit``::

    request = Request(
        lease=guest.lease, service="vitrail.AudioInput", counts_bytes=False
    )
    async with decider.permit(request) as permit:
        await carry(permit.target)   # cancelled when it is permitted no longer

``permit`` asks the sandbox's record and the rules, asks the person where a rule
says so, and returns once the decision is on record; a no is RefusedError, and
then nothing was done.  Unknown services are asked about too: no rule, no.  While
the block runs it is *live*: it is decided again when files change, and its body
is cancelled as soon as the answer is no, a grant is revoked, or its time
(``ttl=``) is over; ``permit`` then raises RefusedError behind the block, with
the rule in ``where``, unless the body has already ended by itself.

For something that is over at once (a paste) the block is empty, or holds just
the transfer.  What the caller must still hold itself: ``Permit.max_size``, the
most bytes that may flow (it is told to the engine beforehand where
``Request.size`` is known); ``target``, where they may go; ``autostart``.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import msgspec
import trio

from broker.audit import schema
from broker.core import limits
from broker.core.complain import complain_of
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.rate import Rate
from broker.prompt.grants import Grant, Grants
from broker.prompt.question import Answer, Keep, Question, unfit, untrusted_word
from broker.prompt.words import wants
from broker.session import journal
from broker.session.decisions import Digests, cut, decision
from broker.session.permits import Asker, NobodyToAsk, Permit, Request, keeps
from broker.session.rules import Notify, Rules
from policy import evaluate
from policy.conditions import RuleLimits
from policy.engine import Answer as Verdict
from policy.loader import RecordSet
from policy.rule import Rule
from policy.world import World, world_of

__all__ = ["Decider", "Permit", "Request"]

_ALLOW, _ASK, _DENY = schema.Verdict.ALLOW, schema.Verdict.ASK, schema.Verdict.DENY

OnAsk = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """Nobody wants to know that it takes as long as a person does."""


class Decider:
    """Decides for all sandboxes of one viewer."""

    def __init__(
        self,
        *,
        rules: Rules,
        records: Callable[[], RecordSet],
        running: Callable[[], Iterable[Lease]],
        log: journal.Journal,
        asker: Asker | None = None,
        notify: Notify | None = None,
    ) -> None:
        self._rules = rules
        self._records = records
        self._running = running
        self._log = log
        self.asker: Asker = asker or NobodyToAsk()
        self.notify: Notify = notify or rules.notify
        self.grants = Grants()
        self._live: set[Permit] = set()
        self._acted: dict[str, float] = {}
        self._rates: dict[tuple[object, str], Rate] = {}
        self._world: tuple[RecordSet, object, World] | None = None

    # -- asking ----------------------------------------------------------------

    @asynccontextmanager
    async def permit(
        self, request: Request, *, on_ask: OnAsk = _nothing
    ) -> AsyncIterator[Permit]:
        """See the head of this module.

        ``on_ask`` is awaited when the person is about to be asked, which takes
        up to ``limits.QUESTION_SECONDS``.  Raises RefusedError for a no,
        UpstreamError when the decision could not be recorded (so it is a no).
        """
        if len(self._live) >= limits.LIVE_PERMITS:
            raise RefusedError(f"{limits.LIVE_PERMITS} permissions are in use already")
        permit = await self._decide(request, on_ask)
        self._live.add(permit)
        try:
            # While the decision was written other rules may have come.
            _, reason, where = self._now(permit)
            if reason:
                raise await self._no(request, None, reason, where)
            with permit.scope:
                yield permit
        finally:
            self._live.discard(permit)
        if permit.scope.cancelled_caught:
            reason = permit.over or f"the time of {permit.where} is over"
            if not permit.over:
                await self._log.note(cut(permit, reason, self._digests()))
            raise RefusedError(reason, where=permit.where)

    def acted(self, lease: str) -> None:
        """The person has just acted (key, button, touch) in a sandbox's window."""
        self._acted[lease] = trio.current_time()

    async def _decide(self, request: Request, on_ask: OnAsk) -> Permit:
        answer = await self._asked_first(request)
        if answer.verdict == "allow":
            permit = self._permit(request, answer)
            await self._log.require(self._event(request, answer, _ALLOW))
            return permit
        now = trio.current_time()
        grant = self.grants.find(request.subject, now)
        if grant is not None and self._serves(grant, answer):
            permit = self._permit(request, answer, grant=grant)
            await self._log.require(
                self._event(
                    request,
                    answer,
                    _ALLOW,
                    target=grant.target,
                    reason=f"granted before ({grant.id})",
                )
            )
            return permit
        return await self._ask(request, answer, on_ask)

    async def _asked_first(self, request: Request) -> Verdict:
        """The verdict, its limits held.  Raises RefusedError for a no."""
        stands = self._record_says(request)
        if not stands.allowed:
            raise await self._no(request, None, stands.reason, stands.where)
        answer = self._verdict(request)
        if answer.verdict not in {"allow", "ask"}:
            raise await self._no(request, answer, answer.reason, answer.where)
        beyond = self._beyond(request, answer)
        if beyond:
            raise await self._no(request, answer, beyond, answer.where)
        return answer

    def _record_says(self, request: Request) -> evaluate.Decision:
        lease = request.lease
        return evaluate.stands(
            self._records(),
            evaluate.Request(lease.sandbox, lease.record, request.service),
        )

    def _verdict(self, request: Request) -> Verdict:
        return self._rules.engine.answer(request.call, self._now_world())

    def _now_world(self) -> World:
        records = self._records()
        running = tuple((lease.sandbox, lease.record) for lease in self._running())
        known = self._world
        if known is None or known[0] is not records or known[1] != running:
            known = self._world = (records, running, world_of(records, running))
        return known[2]

    # -- limits ------------------------------------------------------------------

    def _beyond(self, request: Request, answer: Verdict) -> str:
        """Which limit of the rule is not kept; empty: all are.  Counts the call."""
        held, now = answer.limits, trio.current_time()
        if held.max_size is not None and not request.counts_bytes:
            return f"max-size= cannot be held for {request.service}"
        if held.gesture is not None:
            last = self._acted.get(request.lease.id)
            age = request.gesture
            if age is None and last is not None:
                age = now - last
            if age is None or age > held.gesture:
                return f"nobody acted in a window of it within {held.gesture} s"
        if held.rate is not None and answer.rule is not None:
            rate = self._rate(answer.rule, request.lease.sandbox, held, now)
            if rate is None or not rate.take(now):
                calls, seconds = held.rate
                return f"more than {calls} calls in {seconds} s"
        return ""

    def _rate(
        self, rule: Rule, sandbox: str, held: RuleLimits, now: float
    ) -> Rate | None:
        assert held.rate is not None
        key = (rule.meaning(), sandbox)
        if key not in self._rates and len(self._rates) >= limits.RATE_COUNTERS:
            for old in [k for k, rate in self._rates.items() if rate.idle(now)]:
                del self._rates[old]
            if len(self._rates) >= limits.RATE_COUNTERS:
                return None
        return self._rates.setdefault(key, Rate(*held.rate))

    # -- the person ------------------------------------------------------------------

    async def _ask(self, request: Request, answer: Verdict, on_ask: OnAsk) -> Permit:
        question = self._question(request, answer)
        await self._log.require(
            self._event(
                request,
                answer,
                _ASK,
                outcome="asked",
                more={"targets": list(question.targets[:64])},
            )
        )
        if len(question.targets) > limits.QUESTION_TARGETS:
            reason = f"{len(question.targets)} targets are no choice"
            raise await self._no(request, answer, reason, answer.where)
        await on_ask()
        said = await self.asker.ask(question)
        return await self._answered(request, question, said)

    async def _answered(
        self, request: Request, question: Question, said: Answer
    ) -> Permit:
        """Make of an answer what the rules permit by now."""
        stands, answer = self._record_says(request), self._verdict(request)
        if not stands.allowed:
            raise await self._no(request, None, stands.reason, stands.where)
        if answer.verdict not in {"allow", "ask"}:
            raise await self._no(request, answer, answer.reason, answer.where)
        reason = unfit(question, said)
        if not said.allow:
            reason = said.reason or "the person said no"
        elif (
            not reason and answer.verdict == "ask" and said.target not in answer.targets
        ):
            reason = "what was chosen is not offered any more"
        if reason:
            raise await self._no(request, answer, reason, answer.where, asked=True)
        if answer.verdict == "allow":
            permit = self._permit(request, answer)
        else:
            grant = self._remember(request, answer, said)
            permit = self._permit(request, answer, grant=grant, target=said.target)
        await self._log.require(
            self._event(
                request,
                answer,
                _ALLOW,
                target=permit.target,
                outcome="answered",
                reason=said.reason or "the person said yes",
                more={"keep": said.keep.value, "grant": permit.grant},
            )
        )
        return permit

    def _question(self, request: Request, answer: Verdict) -> Question:
        lease, argument = request.lease, request.argument.removeprefix("+")
        record = self._records().records.get(lease.record)
        label = record.viewer.label if record is not None else None
        claims = {
            "type": request.mime,
            "scheme": request.scheme,
            "host": request.host,
            "size": None if request.size is None else f"{request.size} bytes",
        }
        default = answer.default_target or ""
        if not default and request.target in answer.targets:
            default = request.target
        if not default and len(answer.targets) == 1:
            default = answer.targets[0]
        return Question(
            sandbox=lease.sandbox,
            lease=lease.id,
            record=lease.record,
            label=lease.sandbox if label is None else label.name,
            colour="#555555" if label is None else label.colour,
            service=request.service,
            argument=untrusted_word(argument),
            words=wants(request.service),
            details=tuple(
                (name, untrusted_word(value)) for name, value in claims.items() if value
            ),
            targets=answer.targets,
            default_target=default,
            keeps=keeps(answer.limits),
            seconds=answer.limits.ttl or 0,
            rule=answer.where,
        )

    def _remember(
        self, request: Request, answer: Verdict, said: Answer
    ) -> Grant | None:
        """Remember an answer for as long as the rule of now permits."""
        if said.keep is Keep.ONCE or said.keep not in keeps(answer.limits):
            return None
        return self.grants.add(
            request.lease.sandbox,
            request.subject,
            said.target,
            keep=said.keep,
            rule=answer.where,
            now=trio.current_time(),
            seconds=answer.limits.ttl or 0,
        )

    def _serves(self, grant: Grant, answer: Verdict) -> bool:
        """Whether what was granted is what this rule would let a person grant."""
        return (
            answer.verdict == "ask"
            and grant.target in answer.targets
            and grant.keep in keeps(answer.limits)
        )

    # -- grants --------------------------------------------------------------------

    async def revoke(self, grants: Iterable[Grant], reason: str) -> None:
        """End grants, and what goes on by them."""
        for grant in grants:
            if not self.grants.end(grant):
                continue
            await self._log.note(
                schema.GrantEnded(
                    sandbox=grant.sandbox,
                    lease=grant.subject.lease,
                    service=grant.subject.service,
                    grant=grant.id,
                    reason=reason,
                )
            )
            for permit in [p for p in self._live if p.grant == grant.id]:
                await self._end(permit, f"the grant has ended: {reason}", grant.rule)

    async def lease_ended(self, lease: str) -> None:
        """A sandbox has stopped, and with it what was granted to it."""
        self._acted.pop(lease, None)
        await self.revoke(self.grants.of_lease(lease), "the sandbox stopped")

    async def forget_over(self) -> None:
        """End the grants whose time is over."""
        await self.revoke(self.grants.over(trio.current_time()), "its time is over")

    # -- live -----------------------------------------------------------------------

    def live(self) -> list[Permit]:
        """What is going on with permission."""
        return list(self._live)

    async def decide_again(self) -> None:
        """Rules or records are others: end at once what is not permitted now.

        Returns when what is denied was cut and what is to be asked about was
        answered.
        """
        for grant in self.grants.all(trio.current_time()):
            await self._look_at_grant(grant)
        asked: list[tuple[Permit, Verdict]] = []
        ended: list[tuple[Permit, str]] = []
        for permit in self.live():
            answer, reason, where = self._now(permit)
            if reason:
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
        subject = grant.subject
        lease = next((x for x in self._running() if x.id == subject.lease), None)
        if lease is None:
            return  # it ends with its lease
        request = Request(
            lease=lease,
            service=subject.service,
            argument=subject.argument,
            target=subject.asked,
            mime=subject.mime,
            scheme=subject.scheme,
            host=subject.host,
        )
        answer = self._verdict(request)
        if answer.verdict != "allow" and not self._serves(grant, answer):
            await self.revoke([grant], f"{answer.where} does not let it go on")

    def _now(self, permit: Permit) -> tuple[Verdict | None, str, str]:
        """The verdict of now, and why it ends what is live; (None, '', ''): it ended."""
        if permit.over:
            return None, "", ""
        request = permit.request
        stands = self._record_says(request)
        if not stands.allowed:
            return None, f"denied now: {stands.reason}", stands.where
        answer = self._verdict(request)
        if answer.verdict not in {"allow", "ask"}:
            return answer, f"denied now: {answer.reason}", answer.where
        held = answer.limits
        if held.max_size is not None and not request.counts_bytes:
            return answer, "denied now: max-size= cannot be held", answer.where
        offered = {answer.target} if answer.verdict == "allow" else set(answer.targets)
        if permit.target not in offered:
            return answer, f"{answer.where} leads elsewhere now", answer.where
        if held.ttl is not None:
            deadline = permit.since + held.ttl
            permit.scope.deadline = min(permit.scope.deadline, deadline)
        if held.max_size is not None:
            most = math.inf if permit.max_size is None else permit.max_size
            permit.max_size = int(min(held.max_size, most))
        return answer, "", ""

    def _holds_still(self, permit: Permit, answer: Verdict) -> bool:
        """Whether an answer of before is an answer to the rules of now."""
        before, now = permit.rule, answer.rule
        permit.rule, permit.where = now, answer.where
        if answer.verdict == "allow":
            return True
        if not permit.answered:
            return False
        if before is not None and now is not None and before.meaning() == now.meaning():
            return True
        if permit.grant:
            return True  # looked at already, and it serves
        return answer.limits.remember in {"stream", "session"}

    async def _ask_again(self, permit: Permit, answer: Verdict) -> None:
        # It goes on as it is or not at all.
        question = msgspec.structs.replace(
            self._question(permit.request, answer),
            targets=(permit.target,),
            default_target=permit.target,
            keeps=(Keep.ONCE,),
        )
        try:
            await self._log.require(
                self._event(permit.request, answer, _ASK, outcome="asked again")
            )
            said = await self.asker.ask(question)
        except Exception as error:  # noqa: BLE001 -- whatever it was, nobody has said yes
            complain_of(error)
            said = Answer(allow=False, reason="it could not be asked about")
        reason = unfit(question, said)
        if said.allow and not reason:
            permit.answered = True
            await self._log.note(
                self._event(
                    permit.request,
                    answer,
                    _ALLOW,
                    target=permit.target,
                    outcome="answered",
                    reason=said.reason or "the person said yes",
                )
            )
            return
        why = reason or said.reason or "the person said no"
        await self._end(permit, f"asked about again: {why}", answer.where)

    async def _end(self, permit: Permit, reason: str, where: str) -> None:
        if not permit.over:
            permit.end(reason, where)
            await self._tell_end(permit, reason)

    async def _tell_end(self, permit: Permit, reason: str) -> None:
        # It has happened whether or not it can be written down.
        await self._log.note(cut(permit, reason, self._digests()))
        self.notify(
            f"Vitrail: {permit.request.lease.sandbox} was cut",
            f"{untrusted_word(permit.request.service)}: {reason}",
        )

    # -- events ------------------------------------------------------------------------

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
            target, until = grant.target, min(until, grant.until)
        return Permit(
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

    async def _no(
        self,
        request: Request,
        answer: Verdict | None,
        reason: str,
        where: str,
        *,
        asked: bool = False,
    ) -> RefusedError:
        """Record a no and return what to raise."""
        outcome = "answered" if asked else ""
        event = self._event(
            request, answer, _DENY, where=where, reason=reason, outcome=outcome
        )
        await self._log.refused(event)
        if answer is None or answer.notify:
            self.notify(
                f"Vitrail: {request.lease.sandbox} was refused",
                f"{untrusted_word(request.service)}: {reason}",
            )
        return RefusedError(f"denied: {reason}", where=where)

    def _digests(self) -> Digests:
        return Digests(rules=self._rules.digest, records=self._records().digest)

    def _event(
        self,
        request: Request,
        answer: Verdict | None,
        verdict: schema.Verdict,
        *,
        where: str = "",
        target: str = "",
        reason: str = "",
        outcome: str = "",
        more: Mapping[str, schema.Scalar] | None = None,
    ) -> schema.Decision:
        return decision(
            request,
            answer,
            verdict,
            self._digests(),
            where=where,
            target=target,
            reason=reason,
            outcome=outcome,
            more=more,
        )
