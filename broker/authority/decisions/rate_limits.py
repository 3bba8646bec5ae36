"""Limits of rules that need a memory: rates, and the time since the last gesture.

They outlive a change of the rules: a rule that means the same counts on.
"""

from __future__ import annotations

from broker.authority.permit import Request
from broker.core import limits
from broker.core.sliding_window import SlidingWindow
from policy.rules.engine import PolicyAnswer
from policy.rules.rule import Rule


class Meters:
    """The counters of all sandboxes of one viewer.  Time is passed in."""

    def __init__(self) -> None:
        self._acted: dict[str, float] = {}
        self._rates: dict[tuple[object, str], SlidingWindow] = {}

    def acted(self, lease: str, now: float) -> None:
        """The user has acted in a window of the sandbox."""
        self._acted[lease] = now

    def forget(self, lease: str) -> None:
        """A sandbox has stopped."""
        self._acted.pop(lease, None)

    def beyond(self, request: Request, answer: PolicyAnswer, now: float) -> str:
        """Count the call; return the limit that it exceeds, or an empty string."""
        held = answer.limits
        # guard: max-size needs a process that counts
        if held.max_size is not None and not request.counts_bytes:
            return f"max-size= cannot be enforced for {request.service}"
        if held.gesture is not None:
            age = self._age(request, now)
            if age is None or age > held.gesture:
                return f"no input in a window of the sandbox within {held.gesture} s"
        if held.rate is not None and answer.rule is not None:
            # guard: a rate is a record's
            rate = self._rate(answer.rule, request.lease.record, now)
            if rate is None or not rate.take(now):
                calls, seconds = held.rate
                if answer.rule.of_one_call:
                    return "the one call that was allowed has been made"
                if calls == 1:
                    return f"more than 1 call in {seconds} s"
                return f"more than {calls} calls in {seconds} s"
        return ""

    def _age(self, request: Request, now: float) -> float | None:
        """Return the seconds since the user acted in the sandbox; None: unknown."""
        if request.gesture is not None:
            return request.gesture
        # guard: gestures of this sandbox
        last = self._acted.get(request.lease.id)
        return None if last is None else now - last

    def _rate(self, rule: Rule, record: str, now: float) -> SlidingWindow | None:
        """Return the counter of a rule and a record; None when there is no room for it."""
        assert rule.limits.rate is not None
        key = (rule.meaning(), record)
        if key not in self._rates and len(self._rates) >= limits.RATE_COUNTERS:
            for old in [k for k, rate in self._rates.items() if rate.idle(now)]:
                del self._rates[old]
            if len(self._rates) >= limits.RATE_COUNTERS:
                return None
        return self._rates.setdefault(key, SlidingWindow(*rule.limits.rate))
