"""Words of rules that mean nothing here: services, names, tags and types.

Such a rule is valid and never matches; most often a word in it is misspelt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from policy.names import ADMIN
from policy.rules.checks import CHECKS, SERVICES
from policy.rules.rule import Rule
from policy.rules.tokens import Token
from policy.rules.world import DISPVM_OF, World
from policy.suggestions import nearest
from policy.tools import limits as tool_limits
from policy.tools.linting.finding import found_in, tokens_of
from policy.tools.linting.sarif import LintFinding


def is_known(token: Token, world: World) -> bool:
    """Return whether some sandbox has a token's tag, type or name."""
    domains = world.domains.values()
    if token.prefix in {"@tag:", "@dispvm:@tag:"}:
        return any(token.value in domain.tags for domain in domains)
    if token.prefix == "@type:":
        return any(token.value == domain.type for domain in domains)
    if token.key == ADMIN or (token.prefix and token.prefix != DISPVM_OF):
        return True
    return world.name_of(token.value) in world.domains


def unknown_names(rules: tuple[Rule, ...], world: World) -> Iterator[LintFinding]:
    """Yield a warning for each name, tag and type that no sandbox has."""
    tags = {tag for domain in world.domains.values() for tag in domain.tags}
    types = {domain.type for domain in world.domains.values()}
    kinds: dict[str, tuple[str, Iterable[str]]] = {
        "@tag:": ("unknown-tag", tags),
        "@dispvm:@tag:": ("unknown-tag", tags),
        "@type:": ("unknown-type", types),
    }
    seen: dict[str, bool] = {}
    hints = 0
    for rule in rules:
        for column, token in tokens_of(rule):
            if token.text not in seen:
                seen[token.text] = is_known(token, world)
            if seen[token.text]:
                continue
            check, words = kinds.get(token.prefix, ("unknown-sandbox", world.names))
            hints += 1
            near = (
                nearest(token.value, words) if hints <= tool_limits.LINT_HINTS else ""
            )
            hint = f"did you mean '{token.prefix}{near}'?" if near else ""
            text = f"'{token.text}': {CHECKS[check][1]}"
            yield found_in(check, rule, column, text, hint)


_TCP = "vitrail.Tcp"
_PORT = re.compile(r"\+([1-9][0-9]{0,4})")


def _is_port(argument: str) -> bool:
    """Return whether an argument is a port as calls name it: in digits, without zeros."""
    digits = _PORT.fullmatch(argument)
    return digits is not None and int(digits[1]) < 65536


def meant_service(name: str) -> str | None:
    """Return our service that a misspelt name means; "" if none is near.

    None for a service that exists, and for names of other programs.
    """
    if name in SERVICES:
        return None
    lower = {service.lower(): service for service in SERVICES}
    short = f"vitrail.{name}".lower()  # the name as our messages shorten it
    ours = name.lower().startswith("vitrail.") or name.lower() in lower
    if not ours and short not in lower:
        return None
    return lower.get(short) or lower.get(nearest(name, lower) or "", "")


def unknown_services(rules: tuple[Rule, ...]) -> Iterator[LintFinding]:
    """Yield a finding for each misspelt service or port: such a rule has no effect."""
    for rule in rules:
        name = rule.service
        if name == _TCP and rule.argument is not None and not _is_port(rule.argument):
            text = f"'{rule.argument}': {CHECKS['unknown-port'][1]}"
            yield found_in(
                "unknown-port", rule, 1, text, "write it as in +8080, up to +65535"
            )
        near = None if name is None else meant_service(name)
        if near is None:
            continue
        hint = f"did you mean '{near}'?" if near else ""
        text = f"'{name}': {CHECKS['unknown-service'][1]}"
        yield found_in("unknown-service", rule, 0, text, hint)
