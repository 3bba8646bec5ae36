"""Putting a question to the user: recorded before it is shown, and with its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.permit import Asked, Request
from broker.core.errors import InternalError
from broker.core.question import (
    CONTROL_SOCKET,
    Keep,
    PersonAnswer,
    Question,
    unfit,
    untrusted_details,
    untrusted_word,
)
from broker.core.services import FILE_COPY
from broker.ipc.audit import schema
from policy.names import ADMIN_NAMES
from policy.records.model import Record
from policy.rules.conditions import RuleLimits
from policy.rules.engine import PolicyAnswer as Verdict
from policy.rules.engine import PolicyCall
from policy.rules.wording import remembered, wording

GONE = "the requester disconnected"
SAID = ", it says"
"""After the title of what the viewer's process or the sandbox says."""
_WORDS_CHARACTERS = 240


class Asker(Protocol):
    """Asks the user.

    In two steps, so that the question is on record before the user sees it,
    and a flood is refused before anything of it is recorded.
    """

    def admit(self, question: Question) -> int | PersonAnswer:
        """Queue a question; return its number, or a denial at once (too often, for example)."""
        ...

    async def ask(self, number: int) -> PersonAnswer:
        """Show the question and return the answer: a denial when none comes in time."""
        ...

    def absent(self, number: int) -> bool:
        """True: the asker has gone, and the answer is kept for its next request.

        False: the same question is put for another request, which gets the answer.
        """
        ...

    def leave(self, number: int) -> None:
        """The caller no longer waits for that answer; to be called in any case."""
        ...

    def forget(self, lease: str) -> None:
        """A sandbox has stopped: its questions are over."""
        ...


class NoPrompt:
    """Denies all questions, for a broker without a user."""

    def admit(self, question: Question) -> int | PersonAnswer:
        """See ``Asker``."""
        del question
        return PersonAnswer(allow=False, reason="no user is available to answer")

    async def ask(self, number: int) -> PersonAnswer:
        """See ``Asker``; nothing is ever admitted."""
        raise InternalError(f"question {number} was not admitted")

    def absent(self, number: int) -> bool:
        """See ``Asker``; nothing is ever admitted."""
        raise InternalError(f"question {number} was not admitted")

    def leave(self, number: int) -> None:
        """See ``Asker``."""

    def forget(self, lease: str) -> None:
        """See ``Asker``."""


def keeps(held: RuleLimits) -> tuple[Keep, ...]:
    """Return for how long a user may let an answer hold, by the rule that asks.

    ``remember=no`` and ``remember=stream`` let no answer outlive its
    operation; ``ttl=`` bounds everything, so there is no "until it stops" beside it.
    """
    if held.remember in {"no", "stream"}:
        return (Keep.ONCE,)
    if held.ttl is not None:
        return (Keep.ONCE, Keep.TIME)
    if held.remember == "session":
        return (Keep.ONCE, Keep.SESSION)
    return (Keep.ONCE,)


def call_of(request: Request) -> PolicyCall:
    """Return the call that the rule engine evaluates for a request."""
    named = {name: getattr(request, name) for name in PolicyCall._fields}
    return PolicyCall(**{**named, "source": request.source or request.lease.sandbox})


def texts_of(request: Request) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the words and details of a question; claims follow what is permitted."""
    words, lines = wording(
        call_of(request), request.way, request.about, write=request.write
    )
    size = "" if request.size is None else f"{request.size} bytes"
    claims = request.claims or (("type", request.mime), ("size", size))
    # guard: a claim is marked as one
    said = [(f"{title}{SAID}", value) for title, value in claims]
    details = untrusted_details([*lines, *said])
    return untrusted_word(words, _WORDS_CHARACTERS), details


def question_of(request: Request, answer: Verdict, record: Record | None) -> Question:
    """Return the question that a rule asks about a request."""
    lease = request.lease
    label = None if record is None else record.viewer.label
    targets = answer.targets
    if request.settled:
        targets = ("dom0",) if request.target in ADMIN_NAMES else (request.target,)
    named = "dom0" if request.target in ADMIN_NAMES else request.target
    if named not in targets and f"@dispvm:{named}" in targets:
        named = f"@dispvm:{named}"  # of a disposable record that is the same
    if request.service == FILE_COPY and named in targets:
        targets = (named,)  # the user, or the program, has said where to
    default = answer.default_target or ""
    if not default and named in targets:
        default = named
    if (not default or request.settled) and len(targets) == 1:
        default = targets[0]
    words, details = texts_of(request)
    # guard: a choice says what a yes is remembered for
    remembers = remembered(call_of(request), request.way)
    # guard: an answer is for one device
    return Question(
        sandbox=lease.sandbox,
        lease=lease.id,
        record=lease.record,
        label=lease.sandbox if label is None else label.name,
        colour="#555555" if label is None else label.colour,
        service=untrusted_word(request.service),
        argument=untrusted_word(request.argument.removeprefix("+")),
        words=words,
        details=details,
        preview=request.preview,
        targets=targets,
        default_target=default,
        keeps=keeps(answer.limits) if request.device is None else (Keep.ONCE,),
        seconds=answer.limits.ttl or 0,
        remembers=remembers,
        rule=answer.where,
        subject=digest(request),
    )


def digest(*requests: Request) -> str:
    """Return the digest that distinguishes questions about these requests."""
    parts = [
        (r.subject, r.about, r.source, r.size, r.device, r.claims, r.preview)
        for r in requests
    ]
    # guard: a yes is for one request
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


async def ask_until_gone(
    asker: Asker, admitted: int, gone: trio.Event | None
) -> PersonAnswer:
    """Wait for the user's answer; tell the asker when ``gone`` is set."""
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


def refusal(question: Question, said: PersonAnswer) -> str:
    """Why an answer does not allow a request; empty when it does."""
    if not said.allow:
        # The sandbox gets this reason; the log alone has the process that answered.
        if not said.reason or said.reason.startswith(CONTROL_SOCKET):
            return "the user said no"
        return said.reason
    # guard: the answer is checked
    return unfit(question, said)
