"""Putting a question to the user: recorded before it is shown, and with its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.decisions.decision_events import Asked
from broker.authority.permit import Asker
from broker.core.question import PersonAnswer, untrusted_word
from broker.ipc.audit import schema

GONE = "who asked has gone"


async def ask_until_gone(
    asker: Asker, admitted: int, gone: trio.Event | None
) -> PersonAnswer:
    """Return the user's answer; the asker is told when ``gone`` is set."""
    if gone is None:
        return await asker.ask(admitted)
    answer = PersonAnswer(allow=False, by="gone", reason=GONE)
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await gone.wait()
            if not asker.absent(admitted):
                nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        answer = await asker.ask(admitted)
        nursery.cancel_scope.cancel()
    return answer


async def put_question(
    event: schema.QuestionAsked,
    admitted: int,
    hear: Callable[[], Awaitable[PersonAnswer]],
    *,
    asker: Asker,
    log: EventLog,
    gone: str,
) -> Asked:
    """Record a question, await its answer by ``hear``, and record that.

    ``admitted`` is the asker's number of the question, which is left in any case;
    ``gone`` is the reason of the no that is recorded when ``hear`` does not return.
    Raises UpstreamError when the question could not be recorded (then it is not
    asked), and what ``hear`` raises.
    """
    began = trio.current_time()
    said = PersonAnswer(allow=False, by="gone", reason=gone)
    try:
        await log.require(event)
        said = await hear()
    finally:
        asker.leave(admitted)
        seconds = trio.current_time() - began
        verdict = schema.EventVerdict
        with trio.CancelScope(shield=True):
            await log.note(
                schema.QuestionAnswered(
                    sandbox=event.sandbox,
                    lease=event.lease,
                    generation=event.generation,
                    service=event.service,
                    stream=event.stream,
                    peer=event.peer,
                    question=event.question,
                    answer=verdict.ALLOW if said.allow else verdict.DENY,
                    answered_by=said.by,
                    seconds=seconds,
                    remember=said.keep.value if said.allow else "",
                    target=untrusted_word(said.target),
                    reason=untrusted_word(said.reason, 400),
                )
            )
    return Asked(event.question, said, seconds)
