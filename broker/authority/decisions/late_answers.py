"""A yes for a connection whose client had given up before it came.

libpulse waits 30 s for the first answer of a sound server, a user may take 60 s:
without this, a yes after 31 s would be for nothing, and the next attempt would ask
again.  Such a yes is kept for the next request of the same kind by the same sandbox:
for one, for a short time, and only while the same rule asks.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.authority.questions.subject import Subject
from broker.core import limits
from policy.rules.engine import PolicyAnswer as Verdict


class _Late(NamedTuple):
    target: str
    rule: Verdict
    until: float


class LateAnswers:
    """Sans-IO: ``now`` is monotonic.  Holds one for each kind of request of a lease."""

    def __init__(self) -> None:
        self._kept: dict[Subject, _Late] = {}

    def keep(self, subject: Subject, target: str, rule: Verdict, now: float) -> None:
        """Keep a yes for the next request; without room it is lost."""
        self._forget_over(now)
        if len(self._kept) < limits.GRANTS:
            until = now + limits.LATE_ANSWER_SECONDS
            self._kept[subject] = _Late(target, rule, until)

    def take(self, subject: Subject, rule: Verdict, now: float) -> str:
        """Return the target of a late yes, once; empty where none counts here."""
        self._forget_over(now)
        found = self._kept.pop(subject, None)
        if found is None or rule.rule is None or found.rule.rule is None:
            return ""
        # guard: a late yes is for the rule that asked
        if found.rule.rule.meaning() != rule.rule.meaning():
            return ""
        return found.target if found.target in rule.targets else ""

    def forget(self, lease: str) -> None:
        """A sandbox has stopped."""
        self._kept = {s: k for s, k in self._kept.items() if s.lease != lease}

    def _forget_over(self, now: float) -> None:
        # guard: a late yes is over in time
        self._kept = {s: k for s, k in self._kept.items() if now < k.until}
