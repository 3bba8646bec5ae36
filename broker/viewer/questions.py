"""Questions and grants as ``brokerctl`` sees and answers them."""

from __future__ import annotations

import math

import trio

from broker.authz.decider import Decider
from broker.authz.prompts import Questions
from broker.control import api
from broker.core.errors import RefusedError
from broker.core.question import Keep
from broker.prompt.grants import Grant
from broker.prompt.queue import QueueEntry


def pending(questions: Questions) -> api.PendingAnswer:
    """Return the questions that wait for the person."""
    shown = questions.shown()
    found = [_question(entry, shown) for entry in questions.pending()]
    return api.PendingAnswer(questions=found)


def _question(entry: QueueEntry, shown: int) -> api.PendingQuestion:
    asked = entry.question
    return api.PendingQuestion(
        id=entry.id,
        sandbox=asked.sandbox,
        record=asked.record,
        label=asked.label,
        color=asked.colour,
        service=asked.service,
        argument=asked.argument,
        words=asked.words,
        details=[f"{name}: {value}" for name, value in asked.details],
        targets=list(asked.targets),
        default_target=asked.default_target,
        keeps=[keep.value for keep in asked.keeps],
        seconds=asked.seconds,
        rule=asked.rule,
        left=max(0.0, entry.deadline - trio.current_time()),
        shown=entry.id == shown,
    )


def answer(questions: Questions, request: api.QuestionAnswerRequest, who: str) -> None:
    """Answer a question.  Raises RefusedError for a choice that was not offered."""
    words = [keep.value for keep in Keep]
    if request.keep is not None and request.keep not in words:
        raise RefusedError(
            "an answer cannot hold so long", hint=f"keep is one of {', '.join(words)}"
        )
    questions.answer(
        request.id,
        allow=request.allow,
        target=request.target or "",
        keep=Keep(request.keep or Keep.ONCE),
        who=who,
    )


def grants(decider: Decider) -> api.GrantsAnswer:
    """Answers that are remembered."""
    found = decider.grants.all(trio.current_time())
    return api.GrantsAnswer(grants=[_grant(decider, grant) for grant in found])


async def revoke(
    decider: Decider, request: api.GrantRevokeRequest, reason: str
) -> api.GrantsAnswer:
    """End grants, and the operations that run by them; returns those that ended.

    Raises NotFoundError.
    """
    found = decider.grants.all(trio.current_time())
    if request.id is not None:
        found = [grant for grant in found if grant.id == request.id]
        if not found:
            raise api.NotFoundError(
                "there is no such grant", hint="'brokerctl grants list' shows them"
            )
    ended = [_grant(decider, grant) for grant in found]
    await decider.revoke(found, reason)
    return api.GrantsAnswer(grants=ended)


def _grant(decider: Decider, grant: Grant) -> api.GrantStatus:
    left = grant.until - trio.current_time()
    return api.GrantStatus(
        id=grant.id,
        sandbox=grant.sandbox,
        service=grant.subject.service,
        argument=grant.subject.argument.removeprefix("+"),
        target=grant.target,
        keep=grant.keep.value,
        rule=grant.rule,
        left=None if math.isinf(left) else max(0.0, left),
        live=sum(1 for permit in decider.live() if permit.grant == grant.id),
    )
