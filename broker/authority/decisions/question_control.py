"""Questions and grants as ``brokerctl`` sees and answers them."""

from __future__ import annotations

import math

import trio

from broker.authority.decider import Decider
from broker.authority.questions.grants import Grant
from broker.authority.questions.prompts import Questions
from broker.authority.questions.queue import QueueEntry
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.question import Keep, untrusted_word
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.wire.faults import NotFoundError

_SHOWN = (
    *("sandbox", "record", "label", "service", "argument", "words"),
    *("default_target", "seconds", "remembers", "rule"),
)
"""Fields of a question that are shown as they are."""


class QuestionControl:
    """The methods of the control socket about questions and grants."""

    def __init__(self, questions: Questions, decider: Decider) -> None:
        self._questions = questions
        self._decider = decider

    @serves(methods.PENDING)
    async def pending(
        self, exchange: Exchange[api.PendingAnswer], request: api.Nothing
    ) -> api.PendingAnswer:
        """List the questions that wait for the user, for brokerctl."""
        del exchange, request
        shown = self._questions.shown()
        found = [_question(entry, shown) for entry in self._questions.pending()]
        return api.PendingAnswer(questions=found)

    @serves(methods.ANSWER)
    async def answer(
        self, exchange: Exchange[api.Nothing], request: api.QuestionAnswerRequest
    ) -> api.Nothing:
        """Answer a question for brokerctl.

        Raises RefusedError for an unoffered choice.
        """
        words = [keep.value for keep in Keep]
        if request.keep is not None and request.keep not in words:
            raise RefusedError(
                f"{printable(request.keep, 40)!r} is not a duration for which to allow a request",
                hint=f"set keep to one of {', '.join(words)}",
            )
        self._questions.answer(
            request.id,
            allow=request.allow,
            target=request.target or "",
            keep=Keep(request.keep or Keep.ONCE),
            who=f"process {exchange.caller.pid}",
        )
        return api.Nothing()

    @serves(methods.GRANT_LIST)
    async def grants(
        self, exchange: Exchange[api.GrantsAnswer], request: api.Nothing
    ) -> api.GrantsAnswer:
        """Return the remembered answers (grants) for ``brokerctl grants``."""
        del exchange, request
        found = self._decider.grants.all(self._decider.clock.now())
        return api.GrantsAnswer(grants=[_grant(self._decider, one) for one in found])

    @serves(methods.GRANT_REVOKE)
    async def revoke(
        self, exchange: Exchange[api.GrantsAnswer], request: api.GrantRevokeRequest
    ) -> api.GrantsAnswer:
        """End grants, and the operations permitted by them; return those that ended.

        Raises NotFoundError.
        """
        found = self._decider.grants.all(self._decider.clock.now())
        if request.id is not None:
            found = [grant for grant in found if grant.id == request.id]
            if not found:
                raise NotFoundError(
                    "there is no such grant",
                    hint="to list the grants, run 'brokerctl grants list'",
                )
        ended = [_grant(self._decider, grant) for grant in found]
        reason = f"revoked by process {exchange.caller.pid}"
        await self._decider.revoke(found, reason)
        return api.GrantsAnswer(grants=ended)


def _question(entry: QueueEntry, shown: int) -> api.PendingQuestion:
    """Return a waiting question's row for ``brokerctl pending``."""
    asked = entry.question
    return api.PendingQuestion(
        id=entry.id,
        **{name: getattr(asked, name) for name in _SHOWN},
        color=asked.colour,
        details=[f"{name}: {value}" for name, value in asked.details],
        targets=list(asked.targets),
        keeps=[keep.value for keep in asked.keeps],
        left=max(0.0, entry.deadline - trio.current_time()),
        shown=entry.id == shown,
    )


def _grant(decider: Decider, grant: Grant) -> api.GrantStatus:
    """Return a grant's row for ``brokerctl grants``."""
    left, subject = grant.until - decider.clock.now(), grant.subject
    more = subject.host, subject.about, subject.way, "to change it" * subject.write
    return api.GrantStatus(
        id=grant.id,
        sandbox=grant.sandbox,
        service=subject.service,
        argument=subject.argument.removeprefix("+"),
        about=untrusted_word(", ".join(filter(None, more))),
        target=grant.target,
        keep=grant.keep.value,
        rule=grant.rule,
        left=None if math.isinf(left) else max(0.0, left),
        live=sum(1 for permit in decider.live() if permit.grant == grant.id),
    )
