"""A yes for a connection whose client had given up before it came.

libpulse waits 30 s for the first answer of a sound server, a user may take 60 s:
without this, a yes after 31 s would be for nothing, and the next attempt would ask
again.  Such a yes is kept for the next request whose question is equal in all that it
asks for: for one, for a short time, and only while the same rule asks.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.authority.decisions.put_question import digest
from broker.authority.permit import Request
from broker.core import limits
from policy.rules.engine import PolicyAnswer as Verdict


class _Late(NamedTuple):
    lease: str
    target: str
    rule: Verdict
    until: float


class LateAnswers:
    """Sans-IO: ``now`` is monotonic.  Holds one for each question of a lease."""

    def __init__(self) -> None:
        self._kept: dict[str, _Late] = {}

    def keep(self, request: Request, target: str, rule: Verdict, now: float) -> None:
        """Keep a yes for the next equal request; without room it is lost."""
        self._forget_over(now)
        if len(self._kept) < limits.GRANTS:
            until = now + limits.LATE_ANSWER_SECONDS
            kept = _Late(request.lease.id, target, rule, until)
            self._kept[_question(request)] = kept

    def take(self, request: Request, rule: Verdict, now: float) -> str:
        """Return the target of a late yes, once; empty if none counts here."""
        self._forget_over(now)
        found = self._kept.pop(_question(request), None)
        if found is None or rule.rule is None or found.rule.rule is None:
            return ""
        # guard: a late yes is for the rule that asked
        if found.rule.rule.meaning() != rule.rule.meaning():
            return ""
        return found.target if found.target in rule.targets else ""

    def forget(self, lease: str) -> None:
        """A sandbox has stopped."""
        self._kept = {q: k for q, k in self._kept.items() if k.lease != lease}

    def _forget_over(self, now: float) -> None:
        # guard: a late yes is over in time
        self._kept = {q: k for q, k in self._kept.items() if now < k.until}


def _question(request: Request) -> str:
    """Return the key of a yes for once: the whole question, not a grant's subject."""
    # guard: a late yes is for an equal question
    return digest(request)
