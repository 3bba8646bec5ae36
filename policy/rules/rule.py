"""One rule, and the placeholder for a line that could not be read.

The authority and brokerctl run this when they read rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policy.errors import Problem, Span, visible
from policy.rules.conditions import NO_LIMITS, NO_MATCH, Match, RuleLimits
from policy.rules.tokens import Place, Token, parse_token

Action = Literal["allow", "ask", "deny"]
ACTIONS: tuple[Action, ...] = ("allow", "ask", "deny")
ONCE_FILE = "05-once.policy"
"""The file for a line that allows one call, by its rate ('brokerctl allow --once')."""


@dataclass(frozen=True)
class Rule:
    """A line ``SERVICE ARGUMENT SOURCE TARGET ACTION key=value…``.

    ``service`` and ``argument`` are None for ``*``.  With ``broken`` set, the
    line could not be read: its meaning is unknown, so where it
    might have decided the answer is deny (its columns that could be read say
    where that is).  ``text`` is the line as it is in the file.
    """

    file: str
    line: int
    service: str | None
    argument: str | None
    source: Token
    target: Token
    action: Action
    redirect: Token | None = None
    default_target: Token | None = None
    user: str | None = None
    notify: bool = False
    autostart: bool = True
    match: Match = NO_MATCH
    limits: RuleLimits = NO_LIMITS
    observe: bool = False
    attach: str | None = None
    text: str = ""
    broken: Problem | None = None

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{visible(self.file)}:{self.line}"

    @property
    def unconditional(self) -> bool:
        """Return whether its four columns alone say that it decides."""
        return self.match is NO_MATCH and not self.observe

    def problem(self, message: str, hint: str = "") -> Problem:
        """Return a problem of the whole line."""
        span = Span(self.line, 1, self.line, len(self.text.rstrip()) + 1)
        return Problem(self.file, span, message, hint=hint, source_line=self.text)

    def outcome(self) -> tuple[object, ...]:
        """Return the parts of a rule's answer, to compare it with another rule's."""
        return (
            self.action,
            self.redirect.text if self.redirect else None,
            self.default_target.text if self.default_target else None,
            self.user,
            self.notify,
            self.autostart,
            self.attach,
            self.limits,
            self.broken is not None,
        )

    @property
    def of_one_call(self) -> bool:
        """Whether its rate is the one call that a user has allowed."""
        return self.limits.rate is not None and self.file.endswith(f"/{ONCE_FILE}")

    def meaning(self) -> tuple[object, ...]:
        """Return the rule's meaning without its place, as the input of a digest."""
        columns = (self.service, self.argument, self.source.key, self.target.key)
        return (*columns, self.match, self.observe, *self.outcome())


ANY_SOURCE = parse_token("*", Place.SOURCE)
ANY_TARGET = parse_token("*", Place.TARGET)


def barrier(
    problem: Problem,
    service: str | None = None,
    argument: str | None = None,
    source: Token = ANY_SOURCE,
    target: Token = ANY_TARGET,
) -> Rule:
    """Build the rule that replaces a line that could not be read; it denies."""
    return Rule(
        problem.file,
        problem.span.line,
        service,
        argument,
        source,
        target,
        "deny",
        notify=True,
        text=problem.source_line,
        broken=problem,
    )
