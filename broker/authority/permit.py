"""Requests to the ``Decider``, and the permits that it gives."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from broker.authority.questions.grants import Subject
from broker.core.errors import InternalError, RefusedError
from broker.core.lease import Lease
from broker.core.prompt_words import VIEWER, wants
from broker.core.question import (
    Keep,
    PersonAnswer,
    Question,
    untrusted_details,
    untrusted_word,
)
from policy.records.device import DeviceFacts
from policy.records.model import Record
from policy.rules.conditions import RuleLimits
from policy.rules.engine import PolicyAnswer as Verdict
from policy.rules.engine import PolicyCall
from policy.rules.rule import Rule
from policy.rules.world import ADMIN_NAMES


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sandbox's request.  Texts are validated by the caller, or hostile.

    ``argument`` begins with ``+``.  ``target``: ``@adminvm`` is the user at
    the viewer, '' no target.  An attribute is None where it is not stated, ''
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
    device: DeviceFacts | None = None
    """The device to attach; an answer about it is never remembered, because
    the next device in that port is another one."""
    protocol: str | None = None
    port: int | None = None
    """Of a flow to a host outside."""
    key: str | None = None
    """The ssh key to use: its fingerprint, a space and its comment."""
    stream: int = 0
    peer: str = ""
    source: str = ""
    """The giver, where it is not the lease's sandbox: ``@adminvm`` for content that
    the user's own programs give to the sandbox."""
    words: str = ""
    """The operation, in plain words; empty: as of every request of the service."""
    details: tuple[tuple[str, str], ...] = ()
    """The details that the user is shown; empty: the stated attributes."""
    settled: bool = False
    """The target is settled: no rule leads elsewhere, and no choice is offered."""
    tells: bool = False
    """The caller reports the outcome to the user."""
    raw: bool = False
    """Sound without a filter: its permission ends when the record has one."""
    write: bool = False
    """A folder that may be changed: its permission ends with the rule's ``write=``."""
    ahead: bool = False
    """Nothing is done yet, and each use is decided: a rule that asks is a yes here,
    and its limits are for the uses."""
    asks: bool = False
    """The user is asked, for this once, also where a rule allows it."""
    counts_bytes: bool = True
    """Whether the caller holds ``Permit.max_size``; a rule with ``max-size=``
    for one that cannot is a no."""

    @property
    def call(self) -> PolicyCall:
        """The same for the engine."""
        return PolicyCall(
            self.service,
            self.argument,
            self.source or self.lease.sandbox,
            self.target,
            self.mime,
            self.scheme,
            self.host,
            self.size,
            self.device,
            self.protocol,
            self.port,
            self.key,
        )

    def elsewhere(self, answer: Verdict) -> bool:
        """Whether an answer leads to another target than the settled one."""
        offered = answer.targets if answer.verdict == "ask" else (answer.target,)
        wanted = "dom0" if self.target in ADMIN_NAMES else self.target
        return self.settled and wanted not in offered

    @property
    def subject(self) -> Subject:
        """The key that equal requests share, for grants and late answers."""
        return Subject(
            self.lease.id,
            self.service,
            self.argument,
            self.target,
            self.mime,
            self.scheme,
            self.host,
            self.protocol,
            self.port,
            self.key,
        )


@dataclass(eq=False)
class Permit:
    """A permission, while its block runs."""

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
    """Whether the user has been asked, now or for its grant."""
    grant: str = ""
    returns: bool = False
    """Whether the rule lets the file come back."""
    schemes: tuple[str, ...] = ()
    """The URL schemes that the rule names; empty: it names none."""
    number: int = 0
    """Of the permit, in the process that asked another one for it."""
    changed: Callable[[Permit], None] = lambda _permit: None
    """Called when it holds by other terms: another rule, a smaller size."""
    over: str = ""
    """Why it was ended, once it was."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def end(self, reason: str, where: str = "") -> None:
        """Cancel the block."""
        if not self.over:
            self.over = reason
            self.where = where or self.where
            self.scope.cancel()

    def follow(self, answer: Verdict) -> None:
        """Hold by the rule that decides now."""
        self.rule, self.where = answer.rule, answer.where
        self.returns = bool(answer.limits.returns)
        self.schemes = () if answer.rule is None else answer.rule.match.scheme
        self.changed(self)

    def narrow(self, max_size: int) -> None:
        """Let no more bytes flow than this, if fewer than before."""
        most = math.inf if self.max_size is None else self.max_size
        if max_size < most:
            self.max_size = max_size
            self.changed(self)

    def move(self, missed: float) -> None:
        """Have it end sooner by these seconds, in which the machine slept."""
        self.since -= missed
        # guard: a sleep counts for what is in use
        self.scope.deadline -= missed

    def still_holds(self) -> None:
        """Raise RefusedError when it was ended already."""
        if self.over:
            raise RefusedError(self.over, where=self.where)


class Asker(Protocol):
    """Asks the user.

    In two steps, so that the question is on record before the user sees it,
    and a flood is refused before anything of it is recorded.
    """

    def admit(self, question: Question) -> int | PersonAnswer:
        """Take a question in; returns its number, or a no at once (too often, say)."""
        ...

    async def ask(self, number: int) -> PersonAnswer:
        """Show it, and return the answer: a no when there is none in time."""
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
    """For a broker without a user."""

    def admit(self, question: Question) -> int | PersonAnswer:
        """See ``Asker``."""
        del question
        return PersonAnswer(allow=False, reason="there is no person to ask")

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
    """For how long a user may let an answer hold, by the rule that asks.

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


def question_of(request: Request, answer: Verdict, record: Record | None) -> Question:
    """Return the question that a rule asks about a request."""
    lease = request.lease
    label = None if record is None else record.viewer.label
    claims = {
        "type": request.mime,
        "scheme": request.scheme,
        "host": request.host,
        "size": None if request.size is None else f"{request.size} bytes",
        "protocol": request.protocol,
        "port": None if request.port is None else str(request.port),
    }
    targets = answer.targets
    if request.settled:
        targets = ("dom0",) if request.target in ADMIN_NAMES else (request.target,)
    default = answer.default_target or ""
    if not default and request.target in targets:
        default = request.target
    if (not default or request.settled) and len(targets) == 1:
        default = targets[0]
    # guard: an answer is for one device
    return Question(
        sandbox=lease.sandbox,
        lease=lease.id,
        record=lease.record,
        label=lease.sandbox if label is None else label.name,
        colour="#555555" if label is None else label.colour,
        service=untrusted_word(request.service),
        argument=untrusted_word(request.argument.removeprefix("+")),
        words=request.words or wants(request.service),
        details=untrusted_details(request.details or claims.items()),
        targets=targets,
        default_target=default,
        keeps=keeps(answer.limits) if request.device is None else (Keep.ONCE,),
        seconds=answer.limits.ttl or 0,
        rule=answer.where,
        subject=digest(request),
    )


def digest(*requests: Request) -> str:
    """Return what distinguishes the questions about these, however they are shown."""
    parts = [
        (r.subject, r.source, r.size, r.device, r.words, r.details) for r in requests
    ]
    # guard: a yes is for one request
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
