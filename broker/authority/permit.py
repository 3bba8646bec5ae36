"""Requests to the ``Decider``, and the permits that it gives.

The viewer sends a request and holds the permit; the authority decides about it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.authority.questions.subject import Subject
from broker.core.errors import RefusedError
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName
from broker.core.prompt_words import VIEWER
from broker.core.question import NO_PAGE_IMAGE, PageImage, PersonAnswer
from broker.core.services import OPEN_URL, REPORTED_BY_AUTHORITY
from policy.names import ADMIN, ADMIN_NAMES
from policy.records.device import DeviceFacts

if TYPE_CHECKING:
    from policy.rules.engine import PolicyAnswer as Verdict
    from policy.rules.rule import Rule


OnAsk = Callable[[], Awaitable[None]]
USER = Lease(LeaseId(""), SandboxName(ADMIN), SandboxName(""), 0)
"""The user, of whose requests there are previews only."""


async def nothing_asked() -> None:
    """The caller does not need to know that the user is asked."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sandbox's request.  Texts are validated by the caller, or hostile.

    ``argument`` begins with ``+``.  ``target``: ``@adminvm`` is the user at
    the viewer, '' no target.  An attribute is None if it is not stated, ''
    if none exists; ``size`` in bytes.  ``gesture``: seconds since the
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
    """The giver, if it is not the lease's sandbox: ``@adminvm`` for content that
    the user's own programs give to the sandbox."""
    way: str = ""
    """How it is done, where that differs: of those of the service (``rules.wording``)."""
    about: str = ""
    """What no rule names: a whole address, a folder's path, a printer, a host's key, the
    hash of a relying party."""
    claims: tuple[tuple[str, str], ...] = ()
    """What the sandbox says of it, by titles of the service; empty: type and size."""
    preview: PageImage = NO_PAGE_IMAGE
    """A page to be printed."""
    settled: bool = False
    """The target is settled: no rule leads elsewhere, and no choice is offered."""
    raw: bool = False
    """Sound without a filter: its permission ends when the record has one."""
    write: bool = False
    """A folder that may be changed: its permission ends with the rule's ``write=``."""
    ahead: bool = False
    """Nothing is done yet, and each use is decided: a rule that asks is a yes here,
    and its limits are for the uses."""
    asks: bool = False
    """The user is asked, for this once, also where a rule allows it."""
    opens: bool = False
    """A stream to the sandbox's worker begins with the permission, and its event is
    recorded with the decision; the caller records its end."""
    counts_bytes: bool = True
    """Whether the caller holds ``Permit.max_size``; a rule with ``max-size=``
    for one that cannot is a no."""

    @property
    def reported_by_viewer(self) -> bool:
        """Return whether the service's part of the viewer reports the outcome.

        It does to the user, or to the program that asked.
        """
        # guard: who reports an outcome is not a client's word
        return self.service not in REPORTED_BY_AUTHORITY

    def elsewhere(self, answer: Verdict) -> bool:
        """Return whether an answer leads to another target than the settled one."""
        offered = answer.targets if answer.verdict == "ask" else (answer.target,)
        wanted = "dom0" if self.target in ADMIN_NAMES else self.target
        return self.settled and wanted not in offered

    @property
    def subject(self) -> Subject:
        """Return the key of a remembered answer: all requests that it serves share it."""
        # guard: a yes to read is not one to write
        named = {name: getattr(self, name) for name in Subject._fields}
        # A remembered yes is for a host, whatever the rest of the address.
        # guard: a yes for an address without a host is for that address
        about = "" if self.service == OPEN_URL and self.host else self.about
        return Subject(**{**named, "lease": self.lease.id, "about": about})


def request_of(opening: Opening, service: str = "") -> Request:
    """Return the request of a stream; ``service``: another one than the stream's."""
    return Request(
        lease=opening.lease,
        service=service or opening.service,
        stream=opening.stream,
        peer=opening.peer,
    )


@dataclass(frozen=True)
class Asked:
    """A question that was put: its number, the answer, after how many seconds."""

    number: int
    said: PersonAnswer
    seconds: float


class ChosenRequest(NamedTuple):
    """The request that the user has chosen, and the answer."""

    request: Request
    asked: Asked


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
    warrant: bytes = b""
    """The authority's, for those who carry it out (``ipc.session.warrant``)."""
    changed: Callable[[Permit], None] = lambda _permit: None
    """Called when it holds by other terms: another rule, a smaller size."""
    renewed: Callable[[], bytes] = lambda: b""
    """Return ``warrant``, and have the authority replace it by one of now."""
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
        """Have the permit end sooner by these seconds, in which the machine slept."""
        self.since -= missed
        # guard: a sleep counts for what is in use
        self.scope.deadline -= missed

    def still_holds(self) -> None:
        """Raise RefusedError when it was ended already."""
        if self.over:
            raise RefusedError(self.over, where=self.where)
