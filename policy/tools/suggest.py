"""The smallest set of rules that would have allowed the refused calls.

Of the decisions of a log: those that rules denied, and those that a rule in
``mode=observe`` would have denied.  Each line names one source, one destination and the
facts of the calls (ports, hosts, types), and is tried on the calls that it is made for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import NamedTuple

from policy.destinations import LOOKUP, NETWORK, destination_of
from policy.rules.engine import Engine, PolicyAnswer, PolicyCall
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.world import World
from policy.tools.explain import explain, parsed
from policy.tools.recorded import NotReplayableError, Recorded, recorded

GUESSED = "port=443 protocol=tcp"
"""Of a host whose name alone was asked for: it had no address to connect to."""
_FALLBACK_NS = 2_500_000_000
"""A flow whose names are refused is asked about by its address within this time."""
_FACTS = ("scheme", "host", "mime", "key")
_MOST = 5_000
"""Different calls that are looked at: a sandbox chooses how many it makes."""


class Suggestion(NamedTuple):
    """A line, and its parts."""

    line: str
    times: int
    """Decisions that it would have allowed."""
    event: int
    """The newest of them."""
    before: str
    """Where the line that refuses them is, which it has to precede; empty: none does."""
    guessed: bool = False
    """Its port is a guess."""


@dataclass
class Suggestions:
    """All lines, the most frequent first; ``left`` are decisions without one, by reason."""

    lines: list[Suggestion] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


@dataclass
class _Seen:
    """Equal calls."""

    count: int
    event: int
    before: str


def suggest(
    events: Iterable[tuple[int, Mapping[str, object]]], rules: RuleSet, world: World
) -> Suggestions:
    """Return the rule lines for refused events, each with its time in nanoseconds."""
    suggestions = Suggestions()
    strict = enforced(rules)
    calls = _denied(events, Engine(strict), world, suggestions.left)
    tries: dict[str, Rule] = {}
    guessed: set[str] = set()
    for line, guess in _lines(calls, strict, world, suggestions.left):
        rule = parsed(line)
        if rule is not None:
            tries.setdefault(line, rule)
            guessed |= {line} if guess else set()
    # Wide lines first, so that a line that another one covers decides nothing.
    order = sorted(tries, key=lambda line: (len(line.split()), line))
    rows = [tries[line] for line in order]
    engine = Engine(replace(strict, rules=(*rows, *strict.rules)))
    by_rule = {id(rule): line for line, rule in tries.items()}
    used: dict[str, list[_Seen]] = defaultdict(list)
    for call, seen in calls.items():
        answer = engine.answer(call, world)
        line = by_rule.get(id(answer.rule), "")
        if answer.verdict == "deny" or not line:
            suggestions.left["no single rule would allow it"] += seen.count
        else:
            used[line].append(seen)
    for line, covered in used.items():
        newest = max(covered, key=lambda seen: seen.event)
        total = sum(seen.count for seen in covered)
        guess = line in guessed
        suggestions.lines.append(
            Suggestion(line, total, newest.event, newest.before, guess)
        )
    suggestions.lines.sort(key=lambda one: (-one.times, one.line))
    return suggestions


def enforced(rules: RuleSet) -> RuleSet:
    """Return the rules with those denies in force that are only observed."""
    made = (
        replace(rule, observe=False) if rule.action == "deny" else rule
        for rule in rules.rules
    )
    return replace(rules, rules=tuple(made))


def _denied(
    events: Iterable[tuple[int, Mapping[str, object]]],
    engine: Engine,
    world: World,
    left: Counter[str],
) -> dict[PolicyCall, _Seen]:
    """Return the calls that were refused and still would be, with what was seen."""
    denials: dict[PolicyCall, _Seen] = {}
    names: dict[tuple[str, str | None, int | None], int] = {}
    for time_ns, event in events:
        try:
            then = recorded(event)
        except NotReplayableError as error:
            if event.get("verdict") == "deny":
                left[str(error)] += 1
            continue
        if then.verdict != "deny" and not _observed(event):
            continue
        if _is_fallback(then, time_ns, names):
            continue
        call, count = then.call, max(1, then.count)
        if call.source not in world.domains:
            left["the record of the sandbox no longer exists"] += count
            continue
        source = world.domains[call.source].record or call.source
        call = call._replace(source=source if source in world.domains else call.source)
        answer = engine.answer(call, world)
        if answer.verdict != "deny":
            continue  # rules allow it by now
        seen = denials.get(call)
        if seen is None and len(denials) >= _MOST:
            left[f"more than {_MOST} different calls"] += count
        else:
            before = _before(answer)
            total = count + (seen.count if seen else 0)
            denials[call] = _Seen(total, then.sequence, before)
    return denials


def _observed(event: Mapping[str, object]) -> bool:
    detail = event.get("detail")
    observed = detail.get("observed") if isinstance(detail, Mapping) else None
    return isinstance(observed, list) and bool(observed)


def _before(answer: PolicyAnswer) -> str:
    return answer.rule.where if answer.rule is not None else ""


def _is_fallback(
    then: Recorded,
    time_ns: int,
    names: dict[tuple[str, str | None, int | None], int],
) -> bool:
    """Return whether a flow was refused by its address because its name was.

    Notes in ``names`` when the name was refused.
    """
    call = then.call
    if call.service != NETWORK or call.protocol == LOOKUP:
        return False
    key = (call.source, call.protocol, call.port)
    if _is_name(call.argument):
        names[key] = time_ns
        return False
    return 0 <= time_ns - names.get(key, -_FALLBACK_NS - 1) <= _FALLBACK_NS


def _is_name(argument: str) -> bool:
    """Return whether the argument of a flow is a name and not an address."""
    try:
        ip_address(argument[1:])
    except ValueError:
        return True
    return False


# -- lines --------------------------------------------------------------------------


def _lines(
    calls: Mapping[PolicyCall, _Seen],
    rules: RuleSet,
    world: World,
    left: Counter[str],
) -> Iterator[tuple[str, bool]]:
    """Yield rule lines for the calls, each with whether its port is a guess."""
    flows: dict[tuple[str, str, str], list[PolicyCall]] = defaultdict(list)
    for call in calls:
        if call.service == NETWORK:
            flows[call.argument, call.source, call.target].append(call)
        else:
            line = _plain_line(call, rules, world)
            if line:
                yield line, False
    for (argument, source, target), made in flows.items():
        if destination_of(argument[1:]) is None:
            left["the destination is invalid"] += len(made)
            continue
        columns = f"{NETWORK} {argument} {source} {target} allow"
        for conditions in _flow_conditions(made):
            yield f"{columns} {conditions or GUESSED}", not conditions


def _flow_conditions(calls: list[PolicyCall]) -> list[str]:
    """Return a line's conditions for exactly these flows, one text for each line.

    Empty: only the name was asked for.
    """
    ports: dict[str, set[int]] = defaultdict(set)
    for call in calls:
        if call.protocol and call.protocol != LOOKUP:
            ports[call.protocol] |= {call.port} if call.port else set()
    if not ports:
        return [""]
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for protocol in sorted(ports):
        alike[tuple(sorted(ports[protocol]))].append(protocol)
    return [
        " ".join(
            [
                *([f"port={','.join(map(str, found))}"] if found else []),
                f"protocol={','.join(protocols)}",
            ]
        )
        for found, protocols in alike.items()
    ]


def _plain_line(call: PolicyCall, rules: RuleSet, world: World) -> str:
    """Return the line of a call of any other service, with its facts where they hold."""
    flip = explain(rules, call, world).flip
    if flip is None:
        return ""
    facts = [f"{key}={value}" for key in _FACTS if (value := getattr(call, key))]
    if facts:
        line = f"{flip.text} {' '.join(facts)}"
        rule = parsed(line)
        if rule is not None:
            made = Engine(replace(rules, rules=(rule, *rules.rules)))
            if made.answer(call, world).verdict != "deny":
                return line
    return flip.text
