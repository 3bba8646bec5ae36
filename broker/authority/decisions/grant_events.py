"""Questions and grants as events."""

from __future__ import annotations

from broker.authority.decisions.decision_events import subject
from broker.authority.permit import Request
from broker.authority.questions.grants import Grant
from broker.core.question import Question, untrusted_word
from broker.ipc.audit import schema

_TARGETS_RECORDED = 64


def question_asked(
    request: Request, question: Question, number: int, policy: str
) -> schema.QuestionAsked:
    """Return the event of a question; ``policy``: the digest of the rules."""
    return schema.QuestionAsked(
        **subject(request),
        question=number,
        rule=question.rule,
        policy=policy,
        target=untrusted_word(request.target),
        detail={"targets": list(question.targets[:_TARGETS_RECORDED])},
    )


def grant_made(
    request: Request, grant: Grant, by: str, seconds: int
) -> schema.GrantMade:
    """Return the event of an answer that is remembered for so many seconds; 0: no end."""
    return schema.GrantMade(
        **subject(request),
        grant=grant.id,
        verdict=schema.EventVerdict.ALLOW,
        target=grant.target,
        rule=grant.rule,
        granted_by=by,
        seconds=float(seconds),
    )


def grant_ended(grant: Grant, reason: str) -> schema.GrantEnded:
    """Return the event of a grant that has ended."""
    return schema.GrantEnded(
        sandbox=grant.sandbox,
        lease=grant.subject.lease,
        service=grant.subject.service,
        grant=grant.id,
        target=grant.target,
        reason=reason,
    )
