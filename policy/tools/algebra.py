"""Which calls each rule decides, exactly, by sets.

The language of tokens is finite, so calls fall into finitely many classes
(*atoms*): a service and argument that rules name or any other one; a source or
target that rules or the world know or any other one; what '@dispvm' means.  A
set of sources or targets is one Python integer, a bit for each atom.

A ``Cover`` knows which (source, target) pairs are decided already; each rule in
turn adds its rectangle, and the part not covered before is its share.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from policy.destinations import NET, NETWORK, is_inner
from policy.names import ADMIN
from policy.rules.conditions import NO_MATCH, Match
from policy.rules.rule import Rule
from policy.rules.tokens import Token
from policy.rules.world import DEFAULT, DISPOSABLE, DISPVM, DISPVM_OF, World
from policy.tools import limits as tool_limits

OTHER = ""
"""Any service or argument that no rule names; any unknown sandbox."""

_INNER = "@net, inner"
"""Addresses outside that only a rule with their network opens."""

Piece = tuple[int, int]
"""A rectangle: a set of sources times a set of targets."""


class Atoms:
    """The atoms of a world and a set of rules, and the set of each token.

    ``instances``: disposables run under different names, with the tags and the type
    of their template; rules for the name of our record are for its disposables,
    too, those for the name of one of Qubes' templates are not.
    """

    def __init__(self, rules: Iterable[Rule], world: World, *, instances: bool) -> None:
        """Divide sources and targets into classes that no rule tells apart."""
        self._world = world
        self.sources: list[str] = []
        self.targets: list[tuple[str, str]] = []
        self._source_sets: dict[str, int] = {}
        self._target_sets: dict[str, int] = {}
        self._add_sources(rules, instances=instances)
        self._add_targets()
        self.all_sources = (1 << len(self.sources)) - 1

    def _add_sources(self, rules: Iterable[Rule], *, instances: bool) -> None:
        """Add a class for each kind of source that the rules tell apart."""
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
                    keys = set(world.source_keys(name))
                    if world.domains[name].type != DISPOSABLE:
                        keys.discard(name)
                    self._source(f"an instance of {name}", keys)
        self._source(OTHER, ("*", "@anyvm"))

    def _source(self, name: str, keys: Iterable[str]) -> None:
        bit = 1 << len(self.sources)
        self.sources.append(name)
        for key in keys:
            self._source_sets[key] = self._source_sets.get(key, 0) | bit

    def _add_targets(self) -> None:
        """Add a class for each kind of target that the rules tell apart."""
        world = self._world
        for name in dict.fromkeys(["dom0", *world.names]):
            self._target(name, "", world.source_keys(name))
            if world.is_template(name):
                made = DISPVM_OF + name
                self._target(made, "", world.target_keys(made, ""))
        self._target(ADMIN, "", ("*", ADMIN))
        self._target(DEFAULT, "", ("*", "@anyvm", DEFAULT))
        self._target(NET, "", ("*", NET))
        self._target(NET, _INNER, (_INNER, "*", NET))
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

    def target(self, rule: Rule) -> int:
        """The targets that a rule matches.

        Only flows lead outside; a grant without a destination opens no inner address.
        """
        targets = self._target_sets.get(rule.target.key, 0)
        net, inner = self._target_sets[NET], self._target_sets[_INNER]
        if rule.service is not None:
            targets &= net if rule.service == NETWORK else ~net
        if rule.argument is None:
            return targets if rule.action == "deny" else targets & ~inner
        if is_inner(rule.argument):
            return targets & inner
        # A prefix may also contain inner addresses.
        return targets if "/" in rule.argument else targets & ~inner

    def impossible(self) -> dict[int, int]:
        """Map each set of '@dispvm' targets to the set of sources that cannot name it.

        '@dispvm' means another template for them.
        """
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

    def __init__(self, groups: Mapping[int, int]) -> None:
        self._groups = dict(groups)
        self._alone: dict[int, int] = {}
        self._named = 0
        """All sources that are kept apart."""

    def fresh(self, sources: int, targets: int) -> Iterator[Piece]:
        """Yield the parts of a rectangle that are not covered."""
        alone = sources & self._named
        if alone:
            for source in self._kept_apart(alone):
                left = targets & ~self._alone[source]
                if left:
                    yield source, left
            sources &= ~self._named
        if sources:
            for covered, group in self._groups.items():
                mine = group & sources
                left = targets & ~covered
                if mine and left:
                    yield mine, left

    def _kept_apart(self, sources: int) -> Iterator[int]:
        if sources & (sources - 1) == 0:
            yield sources
        else:
            yield from (source for source in self._alone if source & sources)

    def add(self, sources: int, targets: int) -> None:
        """Mark all pairs of these sources and targets (bit sets) as covered."""
        if not sources or not targets:
            return
        if sources & (sources - 1) == 0:
            self._add_alone(sources, targets)
            return
        alone = sources & self._named
        if alone:
            for source in list(self._kept_apart(alone)):
                self._alone[source] |= targets
            sources &= ~self._named
        for covered, group in list(self._groups.items()):
            mine = group & sources
            if mine and targets & ~covered:
                self._move(covered, mine, covered | targets)

    def _add_alone(self, source: int, targets: int) -> None:
        """Cover targets of one source, which leaves its group if needed."""
        if not source & self._named:
            covered = next(c for c, group in self._groups.items() if group & source)
            self._groups[covered] &= ~source
            if not self._groups[covered]:
                del self._groups[covered]
            self._alone[source] = covered
            self._named |= source
        self._alone[source] |= targets

    def _move(self, old: int, sources: int, new: int) -> None:
        self._groups[old] &= ~sources
        if not self._groups[old]:
            del self._groups[old]
        self._groups[new] = self._groups.get(new, 0) | sources


def _left(piece: Piece, covers: Sequence[Cover]) -> bool:
    """Return whether some of a rectangle is in none of the covers."""
    if not covers:
        return True
    first, rest = covers[0], covers[1:]
    return any(_left(part, rest) for part in first.fresh(*piece))


@dataclass
class Reach:
    """The reach of a set's rules: the calls that they decide.

    ``decides``: for each rule, by number, whether it ever decides; ``matches``
    whether its columns match any call at all; ``by`` the earlier rules (by
    number) that decide what a rule matches.
    """

    decides: list[bool]
    matches: list[bool]
    by: dict[int, list[int]] = field(default_factory=dict)


def reach(rules: tuple[Rule, ...], atoms: Atoms) -> Reach:
    """Compute for each rule if it decides any call, and which rules hide it."""
    sets = [(atoms.source(rule.source), atoms.target(rule)) for rule in rules]
    never = atoms.impossible()
    meets = [
        any(s & group and t & ~covered for covered, group in never.items())
        for s, t in sets
    ]
    layers = _Layers(never, atoms.all_sources)
    decides = [
        layers.decides(rule, piece) for rule, piece in zip(rules, sets, strict=True)
    ]
    found = Reach(decides, meets)
    idle = [n for n, m in enumerate(meets) if m and not decides[n]]
    causes = _Causes(rules, sets)
    for number in idle[: tool_limits.LINT_CAUSES]:
        found.by[number] = causes.of(number)
    return found


Level = tuple[str | None, str | None]
"""A service and an argument, None for any; then a level of rules, widest first:
those for everything, for a service, for a service and an argument."""


def _levels(rule: Rule) -> tuple[Level, ...]:
    """Return the levels of service and argument at which rules can cover a rule."""
    service, argument = rule.service, rule.argument
    found: tuple[Level, ...] = ((None, None),)
    if service is not None:
        found += ((service, None),)
    if argument is not None:
        found += ((service, argument),)
    return found


class _Layers:
    """The decisions so far, by level and by condition.

    A rule for every service has to be looked at for a service that no rule
    names only: what earlier rules decide there they decide for each service.
    So each rule is looked at once, against what its own and the wider levels
    have decided.  Rules with conditions decide calls that meet them; two
    different conditions are taken to be about different calls.
    """

    def __init__(self, never: Mapping[int, int], sources: int) -> None:
        self._sources = sources
        self._plain: dict[Level, Cover] = {(None, None): Cover(never)}
        self._met: dict[tuple[Level, Match, bool], Cover] = {}

    def decides(self, rule: Rule, piece: Piece) -> bool:
        """Add the next rule's piece; return whether it decides any call."""
        levels = _levels(rule)
        covers = [self._plain[level] for level in levels if level in self._plain]
        if rule.match is not NO_MATCH:
            # A deny also holds where an attribute is not given, a grant does not.
            deny = rule.action == "deny"
            keys = [(level, rule.match, deny) for level in levels]
            covers += [self._met[key] for key in keys if key in self._met]
        found = _left(piece, covers)
        if not rule.observe:
            self._add(levels[-1], rule, piece)
        return found

    def _add(self, level: Level, rule: Rule, piece: Piece) -> None:
        """Cover a rule's piece at a level, for calls of its conditions."""
        if rule.match is NO_MATCH:
            if level not in self._plain:
                self._plain[level] = Cover({0: self._sources})
            self._plain[level].add(*piece)
            return
        # A deny also decides calls whose attribute matches, before grants of the same.
        for deny in {rule.action == "deny", False}:
            key = (level, rule.match, deny)
            if key not in self._met:
                self._met[key] = Cover({0: self._sources})
            self._met[key].add(*piece)


class _Causes:
    """Finds the earlier rules that decide all that a rule matches."""

    def __init__(self, rules: tuple[Rule, ...], sets: list[Piece]) -> None:
        """Index the rules, with the piece that each matches."""
        self._rules = rules
        self._sets = sets
        self._by: dict[Level, list[int]] = {}
        for number, rule in enumerate(rules):
            if not rule.observe:
                self._by.setdefault((rule.service, rule.argument), []).append(number)

    def of(self, number: int) -> list[int]:
        """Return the earlier rules that together hide a rule, at most eight."""
        mine = self._rules[number]
        sources, targets = self._sets[number]
        left = Cover({0: (1 << sources.bit_length()) - 1 or 1})
        causes: list[int] = []
        lists = [self._by.get(level, []) for level in _levels(mine)]
        for earlier in heapq.merge(*lists):
            if earlier >= number:
                break
            rule = self._rules[earlier]
            if rule.match is not NO_MATCH and rule.match != mine.match:
                continue
            s, t = self._sets[earlier]
            piece = (s & sources, t & targets)
            if not _left(piece, (left,)) or not all(piece):
                continue
            left.add(*piece)
            causes.append(earlier)
            if len(causes) == 8 or not _left((sources, targets), (left,)):
                break
        return causes
