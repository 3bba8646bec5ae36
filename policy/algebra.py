"""Which calls each rule decides, exactly, by sets.

The language of tokens is finite, so calls fall into finitely many classes
(*atoms*): a service and argument that rules name or any other one; a source or
target that rules or the world know or any other one; what '@dispvm' means.  A
set of sources or targets is one Python integer, a bit for each atom.

For one service and argument, a ``Cover`` knows which (source, target) pairs
are decided already; each rule in turn adds its rectangle, and what was not
covered before is what it decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from policy import limits
from policy.conditions import NO_MATCH, Match
from policy.rule import Rule
from policy.tokens import Token
from policy.world import ADMIN, DEFAULT, DISPVM, DISPVM_OF, World

OTHER = ""
"""Any service or argument that no rule names; any sandbox that nobody knows."""

Piece = tuple[int, int]
"""A rectangle: a set of sources times a set of targets."""


class Atoms:
    """The atoms of a world and a set of rules, and the set of each token.

    ``instances``: disposables run under names of their own, with the tags and
    the type of what they are made of.
    """

    def __init__(self, rules: Iterable[Rule], world: World, *, instances: bool) -> None:
        self._world = world
        self.sources: list[str] = []
        self.targets: list[tuple[str, str]] = []
        self._source_sets: dict[str, int] = {}
        self._target_sets: dict[str, int] = {}
        self._add_sources(rules, instances=instances)
        self._add_targets()
        self.all_sources = (1 << len(self.sources)) - 1
        self.all_targets = (1 << len(self.targets)) - 1

    def _add_sources(self, rules: Iterable[Rule], *, instances: bool) -> None:
        world = self._world
        names = dict.fromkeys(["dom0", *world.names])
        # uuid:… of an unknown sandbox is a name like any other here.
        names |= dict.fromkeys(rule.source.key for rule in rules if rule.source.literal)
        uuids = {f"uuid:{domain.uuid}" for domain in world.domains.values()}
        for name in names:
            if name not in uuids:
                self._source(name, world.source_keys(name))
        if instances:
            for name in world.names:
                if world.is_template(name):
                    keys = set(world.source_keys(name)) - {name}
                    self._source(f"an instance of {name}", keys)
        self._source(OTHER, ("*", "@anyvm"))

    def _source(self, name: str, keys: Iterable[str]) -> None:
        bit = 1 << len(self.sources)
        self.sources.append(name)
        for key in keys:
            self._source_sets[key] = self._source_sets.get(key, 0) | bit

    def _add_targets(self) -> None:
        world = self._world
        for name in dict.fromkeys(["dom0", *world.names]):
            self._target(name, "", world.source_keys(name))
            if world.is_template(name):
                made = DISPVM_OF + name
                self._target(made, "", world.target_keys(made, ""))
        self._target(ADMIN, "", ("*", ADMIN))
        self._target(DEFAULT, "", ("*", "@anyvm", DEFAULT))
        meanings: dict[str, str] = {}
        for name in self.sources:
            meanings.setdefault(world.template(name) or "", name)
        for meaning, name in meanings.items():
            self._target(DISPVM, meaning, world.target_keys(DISPVM, name))

    def _target(self, name: str, meaning: str, keys: Iterable[str]) -> None:
        bit = 1 << len(self.targets)
        self.targets.append((name, meaning))
        for key in keys:
            self._target_sets[key] = self._target_sets.get(key, 0) | bit

    def source(self, token: Token) -> int:
        """The sources that a token matches."""
        return self._source_sets.get(token.key, 0)

    def target(self, token: Token) -> int:
        """The targets that a token matches."""
        return self._target_sets.get(token.key, 0)

    def impossible(self) -> dict[int, int]:
        """Targets that some sources cannot name ('@dispvm' with another meaning)."""
        special = [
            (1 << bit, meaning)
            for bit, (target, meaning) in enumerate(self.targets)
            if target == DISPVM
        ]
        found: dict[int, int] = {}
        for number, name in enumerate(self.sources):
            mine = self._world.template(name) or ""
            never = sum(bit for bit, meaning in special if meaning != mine)
            found[never] = found.get(never, 0) | 1 << number
        return found


class Cover:
    """The pairs that are decided, as groups of sources with equal targets.

    Sources that rules name alone are kept apart, so that thousands of rules
    about one sandbox each do not make thousands of groups.
    """

    def __init__(self, impossible: Mapping[int, int]) -> None:
        self._groups = dict(impossible)
        self._alone: dict[int, int] = {}

    def copy(self) -> Cover:
        """Return a cover that goes its own way."""
        made = Cover(self._groups)
        made._alone = dict(self._alone)
        return made

    def add(self, sources: int, targets: int) -> list[Piece]:
        """Add a rectangle; return what of it was not covered."""
        if not sources or not targets:
            return []
        if sources & (sources - 1) == 0:
            return self._add_alone(sources, targets)
        new: list[Piece] = []
        for source in [s for s in self._alone if s & sources]:
            new += self._add_alone(source, targets)
        for covered, group in list(self._groups.items()):
            mine = group & sources
            fresh = targets & ~covered
            if mine and fresh:
                new.append((mine, fresh))
                self._move(covered, mine, covered | fresh)
        return new

    def _add_alone(self, source: int, targets: int) -> list[Piece]:
        covered = self._alone.get(source)
        if covered is None:
            covered = next(c for c, group in self._groups.items() if group & source)
            self._groups[covered] &= ~source
            if not self._groups[covered]:
                del self._groups[covered]
        self._alone[source] = covered | targets
        fresh = targets & ~covered
        return [(source, fresh)] if fresh else []

    def _move(self, old: int, sources: int, new: int) -> None:
        self._groups[old] &= ~sources
        if not self._groups[old]:
            del self._groups[old]
        self._groups[new] = self._groups.get(new, 0) | sources


@dataclass
class Reach:
    """What a set's rules decide.

    ``decides``: for each rule, by number, whether it ever decides; ``matches``
    whether its columns match any call at all; ``by`` the earlier rules (by
    number) that decide what a rule matches.
    """

    decides: list[bool]
    matches: list[bool]
    by: dict[int, list[int]] = field(default_factory=dict)


Shared = dict[tuple[str | None, str | None], list[int]]


def services(rules: tuple[Rule, ...]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield each atom of service and argument, with the rules that match it."""
    by: Shared = {}
    arguments: dict[str | None, set[str]] = {}
    for number, rule in enumerate(rules):
        by.setdefault((rule.service, rule.argument), []).append(number)
        if rule.argument is not None:
            arguments.setdefault(rule.service, set()).add(rule.argument)
    every = by.get((None, None), [])
    yield OTHER, OTHER, every
    for service in {rule.service for rule in rules} - {None}:
        anything = by.get((service, None), [])
        for argument in [OTHER, *sorted(arguments.get(service, ()))]:
            exact = by.get((service, argument), [])
            yield str(service), argument, sorted([*exact, *anything, *every])


def reach(rules: tuple[Rule, ...], atoms: Atoms) -> Reach:
    """Find out which rules decide any call."""
    sets = [(atoms.source(rule.source), atoms.target(rule.target)) for rule in rules]
    never = atoms.impossible()
    meets = [
        any(s & group and t & ~covered for covered, group in never.items())
        for s, t in sets
    ]
    found = Reach([False] * len(rules), meets)
    for _, _, numbers in services(rules):
        _walk(rules, sets, numbers, Cover(never), found)
    idle = [n for n, m in enumerate(found.matches) if m and not found.decides[n]]
    for number in idle[: limits.LINT_CAUSES]:
        found.by[number] = _causes(rules, sets, number)
    return found


def _walk(
    rules: tuple[Rule, ...],
    sets: list[Piece],
    numbers: list[int],
    cover: Cover,
    found: Reach,
) -> None:
    """Let the rules for one service and argument decide, in order."""
    # What rules with equal conditions have decided, for calls that meet them.
    met: dict[tuple[Match, bool], Cover] = {}
    for number in numbers:
        rule = rules[number]
        piece = sets[number]
        if rule.match is NO_MATCH:
            mine = cover.copy() if rule.observe else cover
            if mine.add(*piece):
                found.decides[number] = True
            if not rule.observe:
                for other in met.values():
                    other.add(*piece)
            continue
        # A deny holds where nothing is told as well, a grant does not.
        for deny in (False, True):
            key = (rule.match, deny)
            own = met.setdefault(key, cover.copy())
            if deny == (rule.action == "deny"):
                if (own.copy() if rule.observe else own).add(*piece):
                    found.decides[number] = True
            elif rule.action == "deny" and not rule.observe:
                own.add(*piece)


def _causes(rules: tuple[Rule, ...], sets: list[Piece], number: int) -> list[int]:
    """The earlier rules that decide all that a rule matches (at most eight)."""
    mine = rules[number]
    sources, targets = sets[number]
    left = Cover({0: (1 << sources.bit_length()) - 1 or 1})
    causes: list[int] = []
    for earlier in range(number):
        rule = rules[earlier]
        if rule.service not in {None, mine.service} or rule.observe:
            continue
        if rule.argument not in {None, mine.argument}:
            continue
        if rule.match is not NO_MATCH and rule.match != mine.match:
            continue
        s, t = sets[earlier]
        if left.add(s & sources, t & targets):
            causes.append(earlier)
            if len(causes) == 8 or not left.copy().add(sources, targets):
                break
    return causes
