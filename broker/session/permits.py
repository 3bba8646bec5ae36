"""What is asked of the ``Decider``, and what a yes is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import trio

from broker.core.errors import InternalError, RefusedError
from broker.core.lease import Lease
from broker.prompt.grants import Subject
from broker.prompt.question import Answer, Keep, Question, untrusted_word
from broker.prompt.words import VIEWER, wants
from policy.conditions import RuleLimits
from policy.engine import Answer as Verdict
from policy.engine import Call
from policy.model import Record
from policy.rule import Rule


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a sandbox asks.  Texts are validated by the caller, or hostile.

    ``argument`` begins with ``+``.  ``target``: ``@adminvm`` is the person at
    the viewer, '' no target.  An attribute is None where nobody has said it, ''
    where there is none; ``size`` in bytes.  ``gesture``: seconds since the
    person acted in a window of the sandbox, None: what ``Decider.acted`` knows.
    """

    lease: Lease
    service: str
    argument: str = "+"
    target: str = VIEWER
    mime: str | None = None
    scheme: str | None = None
    host: str | None = None
    size: int | None = None
    gesture: float | None = None
    stream: int = 0
    peer: str = ""
    counts_bytes: bool = True
    """Whether the caller holds ``Permit.max_size``; a rule with ``max-size=``
    for one that cannot is a no."""

    @property
    def call(self) -> Call:
        """The same for the engine."""
        return Call(
            self.service,
            self.argument,
            self.lease.sandbox,
            self.target,
            self.mime,
            self.scheme,
            self.host,
            self.size,
        )

    @property
    def subject(self) -> Subject:
        """What an equal request has in common with it."""
        return Subject(
            self.lease.id,
            self.service,
            self.argument,
            self.target,
            self.mime,
            self.scheme,
            self.host,
        )


@dataclass(eq=False)
class Permit:
    """A yes, while its block runs."""

    request: Request
    target: str
    """Where it goes: a sandbox's name, ``@dispvm:NAME``, or ``dom0``: the viewer."""
    where: str
    """``file:line`` of the rule."""
    user: str | None
    autostart: bool
    max_size: int | None
    since: float
    rule: Rule | None
    answered: bool = False
    """Whether the person has been asked, now or for its grant."""
    grant: str = ""
    over: str = ""
    """Why it was ended, once it was."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def end(self, reason: str, where: str = "") -> None:
        """Cancel the block."""
        if not self.over:
            self.over = reason
            self.where = where or self.where
            self.scope.cancel()

    def still_holds(self) -> None:
        """Raise RefusedError when it was ended already."""
        if self.over:
            raise RefusedError(self.over, where=self.where)


class Asker(Protocol):
    """Asks the person.

    In two steps, so that what is asked is on record before anybody sees it, and
    a flood is refused before anything of it is recorded.
    """

    def admit(self, question: Question) -> int | Answer:
        """Take a question in; returns its number, or a no at once (too often, say)."""
        ...

    async def ask(self, number: int) -> Answer:
        """Show it, and return the answer: a no when there is none in time."""
        ...

    def leave(self, number: int) -> None:
        """Nobody waits for that answer any more; to be called in any case."""
        ...

    def forget(self, lease: str) -> None:
        """A sandbox has stopped: what it has asked is over."""
        ...


class NobodyToAsk:
    """For a broker without a person."""

    def admit(self, question: Question) -> int | Answer:
        """See ``Asker``."""
        del question
        return Answer(allow=False, reason="nobody is here to be asked")

    async def ask(self, number: int) -> Answer:
        """See ``Asker``; nothing is ever admitted."""
        raise InternalError(f"question {number} was not admitted")

    def leave(self, number: int) -> None:
        """See ``Asker``."""

    def forget(self, lease: str) -> None:
        """See ``Asker``."""


def keeps(held: RuleLimits) -> tuple[Keep, ...]:
    """For how long a person may let an answer hold, by the rule that asks.

    ``remember=no`` and ``remember=stream`` let nothing outlive what was asked
    about; ``ttl=`` bounds everything, so there is no "until it stops" beside it.
    """
    if held.remember in {"no", "stream"}:
        return (Keep.ONCE,)
    if held.ttl is not None:
        return (Keep.ONCE, Keep.TIME)
    if held.remember == "session":
        return (Keep.ONCE, Keep.SESSION)
    return (Keep.ONCE,)


def question_of(request: Request, answer: Verdict, record: Record | None) -> Question:
    """Return the question that a rule asks about a request."""
    lease = request.lease
    label = None if record is None else record.viewer.label
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
        service=untrusted_word(request.service),
        argument=untrusted_word(request.argument.removeprefix("+")),
        words=wants(request.service),
        details=tuple(
            (n, untrusted_word(value)) for n, value in claims.items() if value
        ),
        targets=answer.targets,
        default_target=default,
        keeps=keeps(answer.limits),
        seconds=answer.limits.ttl or 0,
        rule=answer.where,
    )
