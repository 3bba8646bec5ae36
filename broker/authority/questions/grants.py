"""Answers that are remembered: for a time, or until the sandbox stops.

Pure: time is passed in, and what a rule permits today is asked by the caller
each time a grant is used.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace

from broker.authority.questions.subject import Subject
from broker.core import limits
from broker.core.question import Keep


# A grant is for equal requests, and `ttl=` bounds everything. "For 10 minutes" could
# have meant the service, whatever its argument. It means the same service, argument,
# target, type, scheme and host; another host is asked about, and of addresses without a
# host each other one. `ttl=` without a question, and beside `remember=session`, is an
# upper bound too: streams that it allowed are cut.
@dataclass(frozen=True)
class Grant:
    """One remembered answer.  ``until`` is monotonic; infinity: no end by time."""

    id: str
    sandbox: str
    subject: Subject
    target: str
    keep: Keep
    rule: str
    since: float
    until: float


class Grants:
    """All of a broker."""

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}

    def all(self, now: float) -> list[Grant]:
        """Those that hold at ``now``, oldest first."""
        return [grant for grant in self._grants.values() if now < grant.until]

    def find(self, subject: Subject, now: float) -> Grant | None:
        """The newest grant for it."""
        for grant in reversed(self._grants.values()):
            if grant.subject == subject and now < grant.until:
                return grant
        return None

    def add(
        self,
        sandbox: str,
        subject: Subject,
        target: str,
        *,
        keep: Keep,
        rule: str,
        now: float,
        seconds: int,
    ) -> Grant | None:
        """Remember an answer; None when there is no room: it counts once then.

        ``seconds`` is the most that it holds, 0 no such limit.
        """
        if len(self._grants) >= limits.GRANTS:
            return None
        until = now + seconds if seconds else math.inf
        made = Grant(
            secrets.token_hex(4), sandbox, subject, target, keep, rule, now, until
        )
        self._grants[made.id] = made
        return made

    def shorten(self, grant: Grant, until: float) -> None:
        """End an existing grant at that time, if it would end later."""
        if until < grant.until and grant.id in self._grants:
            self._grants[grant.id] = replace(grant, until=until)

    def __contains__(self, number: str) -> bool:
        """Return whether the grant of that id has not ended."""
        return number in self._grants

    def end(self, grant: Grant) -> bool:
        """Forget one; whether it was there."""
        return self._grants.pop(grant.id, None) is not None

    def of_lease(self, lease: str) -> list[Grant]:
        """Those of one launch of a sandbox."""
        return [g for g in self._grants.values() if g.subject.lease == lease]

    def over(self, now: float) -> list[Grant]:
        """Return the grants that have expired."""
        return [g for g in self._grants.values() if g.until <= now]
