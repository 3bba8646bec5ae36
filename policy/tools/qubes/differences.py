"""Where a set means something else here than under Qubes, line by line.

``ROWS`` is the table of docs/policy-qubes.md; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple

from policy.errors import Problem, Span
from policy.names import ADMIN
from policy.rules.conditions import KEYS
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.tokens import Token
from policy.rules.world import DEFAULT, DISPVM, DISPVM_OF

ROWS = MappingProxyType(
    {
        "keys": "conditions and limits: Qubes refuses the line, and with it every call",
        "readable": "Qubes accepts this line, but Vitrail rejects it",
        "broken": "Qubes refuses every call while it reads this line; in Vitrail, the "
        "last good set is to stay in force",
        "redirect": "the redirect leads to a target that an earlier line denies: Qubes "
        "follows it, but Vitrail denies the call",
        "offered": "an earlier line denies this disposable: Qubes still offers it to "
        "the user for '@dispvm', but Vitrail does not",
        "itself": "a call of a sandbox to itself: Qubes allows it here and refuses it "
        "later, but Vitrail denies it",
        "nowhere": "a redirect to a sandbox that does not exist: Qubes offers it to "
        "the user, but Vitrail does not",
        "depth": "files include each other without end: Qubes fails, but Vitrail reports an error with its location",
        "files": "Vitrail rejects files that other users own or can write to",
        "uuid": "Vitrail finds 'uuid:…' whenever a sandbox has that uuid",
        "fails": "Qubes' parser fails here, and its caller denies; in Vitrail, the "
        "rule that makes it fail does not match or offers nothing",
    }
)


class Difference(NamedTuple):
    """A row of the table, and the place that it is about."""

    row: str
    problem: Problem


def differences(ours: RuleSet, theirs: RuleSet) -> list[Difference]:
    """Return what differs; ``theirs`` is the same files read with ``compat``."""
    found = [*_unreadable(ours, theirs)]
    denies: dict[str | None, list[Rule]] = {}
    for rule in ours.rules:
        if rule.broken is not None:
            continue
        if own := own_keys(rule):
            found.append(_at(rule, "keys", f"Qubes has no {', '.join(own)}"))
        if rule.action == "deny":
            denies.setdefault(rule.service, []).append(rule)
            continue
        earlier = denies.get(None, [])
        if rule.service is not None:
            earlier = [*denies.get(rule.service, []), *earlier]
        else:
            earlier = [one for some in denies.values() for one in some]
        found += _touched(rule, earlier)
    return sorted(found, key=lambda one: (one.problem.file, one.problem.span))


def own_keys(rule: Rule) -> list[str]:
    """The keys of a rule that only we have."""
    words = {word.partition("=")[0] for word in rule.text.split()[5:]}
    return [key for key in KEYS if key in words]


def _unreadable(ours: RuleSet, theirs: RuleSet) -> Iterator[Difference]:
    """Yield a difference for each line that only one of the parsers reads."""
    refused = {(p.file, p.span.line) for p in theirs.problems}
    seen: set[tuple[str, int]] = set()
    for problem in ours.problems:
        place = (problem.file, problem.span.line)
        if place in seen:
            continue
        seen.add(place)
        row = "broken" if place in refused else "readable"
        if "includes itself" in problem.message or "deep" in problem.message:
            row = "depth"
        yield Difference(row, problem)


def _touched(rule: Rule, denies: list[Rule]) -> Iterator[Difference]:
    """Yield a difference where a deny touches a grant here, not under Qubes."""
    for deny in denies:
        if not _may_meet(rule, deny):
            continue
        if rule.redirect is not None:
            if _may_match(deny.target, rule.redirect):
                yield _at(
                    rule,
                    "redirect",
                    f"to '{rule.redirect.text}', which {deny.where} denies",
                )
                return
        elif (
            rule.action == "ask"
            and deny.target.prefix.startswith(DISPVM_OF)
            and rule.target.key in {"*", "@anyvm", DISPVM}
        ):
            yield _at(rule, "offered", f"{deny.where} denies '{deny.target.text}'")
            return


def _may_meet(one: Rule, other: Rule) -> bool:
    """Return whether some call matches both in service, argument and source."""
    if None not in (one.argument, other.argument) and one.argument != other.argument:
        return False
    return _may_overlap(one.source, other.source)


def _may_overlap(one: Token, other: Token) -> bool:
    """Return whether two tokens may match the same name."""
    if one.key == other.key or "*" in (one.key, other.key):
        return True
    if ADMIN in (one.key, other.key):
        return "@anyvm" not in (one.key, other.key) and not (
            one.literal and other.literal
        )
    return not (one.literal and other.literal)


def _may_match(token: Token, target: Token) -> bool:
    """Return whether a token of the target's column may match a redirect."""
    if token.key in (target.key, "*"):
        return True
    if token.key == "@anyvm":
        return target.key != ADMIN
    if token.key in {DEFAULT, DISPVM, ADMIN} or token.literal:
        return False
    special = target.key.startswith(DISPVM)
    if token.prefix.startswith(DISPVM_OF):
        return special and (target.key == DISPVM or token.prefix != DISPVM_OF)
    return not special


def _at(rule: Rule, row: str, message: str) -> Difference:
    """Return a difference at a rule's line."""
    begin = len(rule.text) - len(rule.text.lstrip()) + 1
    span = Span(
        rule.line, begin, rule.line, max(begin + 1, len(rule.text.rstrip()) + 1)
    )
    text = f"{message} ({ROWS[row]})" if row != "keys" else message
    return Difference(row, Problem(rule.file, span, text, source_line=rule.text))
