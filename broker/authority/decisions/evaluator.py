"""The current decision of a sandbox's record and the rules about a request.

Nothing is recorded here, no person is asked, and limits that have a memory are not
checked: that is the Decider's task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from broker.authority.decisions.decision_events import Digests
from broker.authority.decisions.put_question import call_of, question_of
from broker.authority.permit import Permit, Request
from broker.authority.rules import Rules
from broker.core.lease import Lease
from broker.core.question import Question
from broker.ipc import authority as m
from policy.names import ADMIN, ADMIN_NAMES
from policy.records.model import RecordSet
from policy.rules import record_gate, verdict
from policy.rules.conditions import NO_LIMITS
from policy.rules.engine import Engine
from policy.rules.engine import PolicyAnswer as Verdict
from policy.rules.rule import Rule
from policy.rules.world import World, world_of


class Locked(Protocol):
    """Why a lockdown denies a request; empty: it does not."""

    def __call__(self, request: Request, /, *, begins: bool) -> str:
        """``begins``: the request is new, not permitted already."""


class Evaluator:
    """The records and rules in force, and the sandboxes that they speak about."""

    def __init__(
        self,
        rules: Rules,
        records: Callable[[], RecordSet],
        running: Callable[[], Iterable[Lease]],
        pending_records: Callable[[], RecordSet | None],
        locked: Locked,
    ) -> None:
        """Set up evaluation; ``locked`` returns why a lockdown denies a request."""
        self._rules = rules
        self._records = records
        self._pending_records = pending_records
        self._locked = locked
        self.running = running
        self._world: tuple[RecordSet, object, World] | None = None

    def decide(self, request: Request, *, begins: bool = False) -> verdict.Verdict:
        """Return the combined verdict of the sandbox's record and the rules.

        ``begins``: the request is new, not permitted already.

        Records and rules that have been read and are not on record yet take
        away, and give nothing: the stricter of both holds.
        """
        reason = self._locked(request, begins=begins)
        # guard: a lockdown denies whatever the rules say
        if reason:
            no = record_gate.RecordDecision("deny", reason, "lockdown", "", ())
            return verdict.Verdict(no, Verdict("deny", reason, notify=True))
        now = self._decide(request, self._records(), self._rules.engine)
        records, engine = self._pending_records(), self._rules.pending
        if records is None and engine is None:
            return _adapted(request, now)
        # guard: a record that is not on record denies
        then = self._decide(
            request, records or self._records(), engine or self._rules.engine
        )
        # As strict, it still may lead elsewhere, which ends live operations.
        # guard: a grant waits for the log
        return _adapted(request, then if _strictness(then) >= _strictness(now) else now)

    def _decide(
        self, request: Request, records: RecordSet, engine: Engine
    ) -> verdict.Verdict:
        """Evaluate record and rules about a request."""

        def rules() -> Verdict:
            return engine.answer(call_of(request), self.world())

        return verdict.decide(records, _of_record(request), rules)

    def record_line(self, request: Request) -> str:
        """``file:line:column`` of the record's entry about a service."""
        return record_gate.record_allows(self._records(), _of_record(request)).where

    def verdict(self, request: Request) -> Verdict:
        """Return the verdict of both; a denial by the record has no rule."""
        return self.decide(request).answer

    def preview(self, request: Request) -> m.Preview | None:
        """Return the verdict of the rules in force about a request.

        None: the record denies it, or a rule leads a settled request elsewhere.  The
        user, who has no record, may be the sandbox of the request's lease.
        """
        if request.lease.sandbox == ADMIN:
            return _shown(self._rules.engine.answer(call_of(request), self.world()))
        decided = _adapted(
            request, self._decide(request, self._records(), self._rules.engine)
        )
        answer = decided.answer
        if decided.refused_by_record:
            return None
        if answer.verdict in {"allow", "ask"} and request.elsewhere(answer):
            return None
        return _shown(answer)

    def rules_about(self, service: str, source: str, target: str) -> list[m.ShownRule]:
        """Return the rules about a service, a source, and a target unless it is ''."""
        world = self.world()
        targets = world.target_keys(target, source) if target else None
        return [
            _shown_rule(rule)
            for rule in self._rules.engine.about(service, source, world)
            if targets is None or rule.target.key in targets
        ]

    def world(self) -> World:
        """Return all sandboxes of records, and the running ones, as rules name them."""
        records = self._records()
        running = tuple((lease.sandbox, lease.record) for lease in self.running())
        known = self._world
        if known is None or known[0] is not records or known[1] != running:
            known = self._world = (records, running, world_of(records, running))
        return known[2]

    def digests(self) -> Digests:
        """Which rules and which records these are."""
        return Digests(rules=self._rules.digest, records=self._records().digest)

    def question(self, request: Request, answer: Verdict) -> Question:
        """Return the question that an ``ask`` verdict puts to the user."""
        record = self._records().records.get(request.lease.record)
        return question_of(request, answer, record)

    def revalidate(self, permit: Permit) -> tuple[Verdict | None, str, str]:
        """Return a live permit's current verdict, and why and where it ends.

        ``(None, '', '')``: it has ended already.  A time to live and a size that
        are shorter now hold from now on.
        """
        if permit.over:
            return None, "", ""
        request = permit.request
        decided = self.decide(request)
        answer = decided.answer
        if decided.refused_by_record:
            return None, f"denied now: {answer.reason}", decided.where
        if answer.verdict not in {"allow", "ask"}:
            return answer, f"denied now: {answer.reason}", answer.where
        held = answer.limits
        if held.max_size is not None and not request.counts_bytes:
            return answer, "denied now: max-size= cannot be enforced", answer.where
        # guard: only a rule makes a folder writable
        if request.write and not held.write:
            why = f"{answer.where} allows only reading the folder; writing needs write=yes"
            return answer, why, answer.where
        offered = {answer.target} if answer.verdict == "allow" else set(answer.targets)
        if permit.target not in offered:
            return answer, f"{answer.where} now names another target", answer.where
        if held.ttl is not None:
            deadline = permit.since + held.ttl
            permit.scope.deadline = min(permit.scope.deadline, deadline)
        if held.max_size is not None:
            permit.narrow(held.max_size)
        return answer, "", ""


def _of_record(request: Request) -> record_gate.RecordRequest:
    lease = request.lease
    return record_gate.RecordRequest(
        lease.sandbox, lease.record, request.service, request.raw
    )


def _adapted(request: Request, decided: verdict.Verdict) -> verdict.Verdict:
    """Return an answer adapted to a request ahead of its uses, or for this once."""
    answer = decided.answer
    if not (request.ahead or request.asks) or decided.refused_by_record:
        return decided
    if answer.verdict not in {"allow", "ask"} or request.elsewhere(answer):
        return decided
    target = _name(request)
    if request.asks:
        # guard: asked about where a rule allows
        answer = answer._replace(verdict="ask", targets=(target,), target=None)
    elif answer.verdict == "ask":
        reason = f"{answer.where} asks about each use"
        answer = answer._replace(verdict="allow", target=target, reason=reason)
    # guard: a yes for this once is not remembered
    held = replace(answer.limits, remember="stream")
    return replace(
        decided, answer=answer._replace(limits=NO_LIMITS if request.ahead else held)
    )


def _name(request: Request) -> str:
    return "dom0" if request.target in ADMIN_NAMES else request.target


def _strictness(decided: verdict.Verdict) -> int:
    """0 for an allow, 1 for a question, 2 for a deny."""
    if decided.refused_by_record:
        return 2
    return {"allow": 0, "ask": 1}.get(decided.answer.verdict, 2)


def _shown(answer: Verdict) -> m.Preview:
    """Convert an answer of the rule engine to the message that a client receives."""
    return m.Preview(
        answer.verdict,
        answer.reason,
        answer.where,
        None if answer.rule is None else _shown_rule(answer.rule),
        answer.target,
        answer.targets,
        answer.default_target,
        answer.limits.max_size,
        answer.limits.ttl,
        bool(answer.limits.returns),
        answer.limits.printer or "",
    )


def _shown_rule(rule: Rule) -> m.ShownRule:
    """Convert a rule to the message in which a client receives it."""
    return m.ShownRule(
        rule.where,
        rule.service,
        rule.argument,
        rule.target.text,
        rule.action,
        rule.attach,
        rule.match.mime,
        rule.match.host,
        rule.match.scheme,
        rule.limits.max_size,
        rule.limits.ttl,
    )
