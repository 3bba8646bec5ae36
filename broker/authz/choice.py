"""One question about several requests of which the person chooses one, or none.

For what comes from the machine and not from a sandbox: a device that was plugged in
and that rules let go to more than one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import trio

from broker.audit import schema
from broker.authz.decision_events import Asked
from broker.authz.permit import Asker, Request
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.question import PersonAnswer, Question, unfit, untrusted_word
from broker.services.event_log import Journal

_ALLOW, _DENY = schema.EventVerdict.ALLOW, schema.EventVerdict.DENY
_GREY = "#555555"


class ChosenRequest(NamedTuple):
    """The request that the person has chosen, and the answer."""

    request: Request
    asked: Asked


class ChoiceText(NamedTuple):
    """The texts of the question; ``details`` are what the device says about itself."""

    words: str
    details: tuple[tuple[str, str], ...] = ()


def question_of(requests: Sequence[Request], text: ChoiceText) -> Question:
    """Return the question whose targets are the sandboxes of these requests."""
    return Question(
        # No sandbox asks: a name with a blank is never a sandbox's.
        sandbox="this computer",
        lease="",
        record="",
        label="a device was plugged in",
        colour=_GREY,
        service=untrusted_word(requests[0].service),
        argument="",
        words=text.words,
        details=tuple((name, untrusted_word(value)) for name, value in text.details),
        targets=tuple(str(request.lease.sandbox) for request in requests),
    )


async def choose(
    requests: Sequence[Request],
    text: ChoiceText,
    *,
    asker: Asker,
    log: Journal,
    number: int,
) -> ChosenRequest:
    """Ask the person which of these it shall be; nothing is permitted by that alone.

    ``number``: of the question, for the log.  Raises RefusedError when none was chosen,
    UpstreamError when the question could not be recorded (then it is not asked).
    """
    if len(requests) > limits.QUESTION_TARGETS:
        raise RefusedError(f"{len(requests)} sandboxes are too many to choose from")
    question = question_of(requests, text)
    admitted = asker.admit(question)
    if isinstance(admitted, PersonAnswer):
        raise RefusedError(admitted.reason)
    asked = await _put(question, admitted, asker=asker, log=log, number=number)
    # The asker is not trusted to have offered these only.
    reason = unfit(question, asked.said)
    if reason or not asked.said.allow:
        raise RefusedError(reason or asked.said.reason or "the person chose none")
    place = question.targets.index(asked.said.target)
    return ChosenRequest(requests[place], asked)


async def _put(
    question: Question, admitted: int, *, asker: Asker, log: Journal, number: int
) -> Asked:
    began = trio.current_time()
    said = PersonAnswer(allow=False, by="gone", reason="the device was unplugged")
    try:
        await log.require(
            schema.QuestionAsked(
                service=question.service,
                question=number,
                detail={"targets": list(question.targets)},
            )
        )
        said = await asker.ask(admitted)
    finally:
        asker.leave(admitted)
        seconds = trio.current_time() - began
        with trio.CancelScope(shield=True):
            await log.note(
                schema.QuestionAnswered(
                    service=question.service,
                    question=number,
                    answer=_ALLOW if said.allow else _DENY,
                    answered_by=said.by,
                    seconds=seconds,
                    remember=said.keep.value if said.allow else "",
                    target=untrusted_word(said.target),
                    reason=untrusted_word(said.reason, 400),
                )
            )
    return Asked(number, said, seconds)
