"""Findings about rules: where on the line they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policy.errors import Problem, Span
from policy.rules.checks import CHECKS
from policy.rules.rule import Rule
from policy.rules.tokens import Token
from policy.tools.linting.sarif import LintFinding

_WORD = re.compile(r"[^ \t]+")


def found_in(
    check: str, rule: Rule, column: int, message: str, hint: str = ""
) -> LintFinding:
    """Return a finding about a column (0 to 4) or, from 5 on, a parameter of a rule."""
    words = list(_WORD.finditer(rule.text))
    # Lines of the old form have no service and no argument.
    shift = 2 if words and len(words) > 2 and rule.action in words[2][0] else 0
    at = min(max(0, column - shift), len(words) - 1)
    begin, end = words[at].span() if words else (0, 1)
    span = Span(rule.line, begin + 1, rule.line, end + 1)
    level = CHECKS[check][0]
    problem = Problem(rule.file, span, message, hint=hint, source_line=rule.text)
    return LintFinding(check, level, problem)


def tokens_of(rule: Rule) -> Iterator[tuple[int, Token]]:
    """Yield every token of a rule with its column."""
    yield 2, rule.source
    yield 3, rule.target
    for key, token in (
        ("target=", rule.redirect),
        ("default_target=", rule.default_target),
    ):
        if token is not None:
            yield parameter(rule, key), token


def parameter(rule: Rule, key: str) -> int:
    """The column of a parameter, counted as words of a whole line."""
    words = rule.text.replace(",", " ").split()
    found = next((n for n, word in enumerate(words) if word.startswith(key)), 4)
    return found + (2 if len(words) > 2 and words[2] == rule.action else 0)


def problem_json(problem: Problem) -> dict[str, str | int]:
    """Return the problem as JSON values (docs/policy.md describes them)."""
    return {
        "file": problem.file,
        "line": problem.span.line,
        "column": problem.span.column,
        "end_line": problem.span.end_line,
        "end_column": problem.span.end_column,
        "message": problem.message,
        "expected": problem.expected,
        "hint": problem.hint,
        "source_line": problem.source_line,
    }
