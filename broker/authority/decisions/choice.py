"""One question about several requests of which the user chooses one, or none.

For an event of the machine, not of a sandbox: a device was plugged in, and rules
allow it to more than one sandbox.  ``ClientChannel`` takes requests for one device only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.authority.audit.event_log import EventLog
from broker.authority.decisions.put_question import (
    Asker,
    digest,
    put_question,
    texts_of,
)
from broker.authority.permit import ChosenRequest, Request
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.question import PersonAnswer, Question, unfit, untrusted_word
from broker.ipc.audit import schema
from policy.rules.wording import CHOICE

_GREY = "#555555"


def question_of(requests: Sequence[Request]) -> Question:
    """Return the question whose targets are the sandboxes of these requests."""
    words, details = texts_of(replace(requests[0], way=CHOICE))
    return Question(
        # No sandbox asks: a name with a blank is never a sandbox's.
        sandbox="this computer",
        lease="",
        record="",
        label="a device was plugged in",
        colour=_GREY,
        service=untrusted_word(requests[0].service),
        argument="",
        words=words,
        details=details,
        targets=tuple(str(request.lease.sandbox) for request in requests),
        subject=digest(*requests),
    )


async def choose(
    requests: Sequence[Request],
    *,
    asker: Asker,
    log: EventLog,
    number: int,
) -> ChosenRequest:
    """Ask the user which of these it shall be; nothing is permitted by that alone.

    ``number``: of the question, for the log.  Raises RefusedError when none was chosen,
    UpstreamError when the question could not be recorded (then it is not asked).
    """
    if len(requests) > limits.QUESTION_TARGETS:
        raise RefusedError(
            f"{len(requests)} sandboxes are too many to choose from: a question offers at most {limits.QUESTION_TARGETS}"
        )
    question = question_of(requests)
    admitted = asker.admit(question)
    if isinstance(admitted, PersonAnswer):
        raise RefusedError(admitted.reason)
    asked = await put_question(
        schema.QuestionAsked(
            service=question.service,
            question=number,
            detail={"targets": list(question.targets)},
        ),
        admitted,
        lambda: asker.ask(admitted),
        asker=asker,
        log=log,
        gone="the device was unplugged",
    )
    # The asker is not trusted to have offered these only.
    reason = unfit(question, asked.said)
    if reason or not asked.said.allow:
        raise RefusedError(reason or asked.said.reason or "the user chose no sandbox")
    place = question.targets.index(asked.said.target)
    return ChosenRequest(requests[place], asked)
