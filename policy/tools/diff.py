"""The decisions that change between two sets of rules.

Not the lines: calls are put into classes that no rule of either set distinguishes, one
call of each class is asked of both sets, and the answers are compared.  So a change is
found wherever there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from policy import limits
from policy.records.device import DeviceFacts, example
from policy.rules.engine import Engine, PolicyAnswer, PolicyCall
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.world import ADMIN, DEFAULT, DISPVM, DISPVM_OF, World


class TooManyError(Exception):
    """More classes than can be asked; the text says how many."""


class Told(NamedTuple):
    """Attributes of a call that rules distinguish."""

    mime: str
    scheme: str
    host: str
    device: DeviceFacts | None


class Change(NamedTuple):
    """A class of calls whose answer changes.

    ``call`` is one of them; ``sources`` and ``targets`` are all sandboxes of
    the class.
    """

    call: PolicyCall
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    old: PolicyAnswer
    new: PolicyAnswer


@dataclass(frozen=True)
class Classes:
    """Classes of sources and of targets (members, the first stands for all).

    ``told``: by service, the attributes that its rules distinguish.
    """

    services: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, ...], ...]
    targets: tuple[tuple[str, ...], ...]
    told: Mapping[str, tuple[Told, ...]]

    def count(self) -> int:
        """Calls that have to be asked."""
        told = sum(len(self.told[service]) for service, _ in self.services)
        return told * len(self.sources) * len(self.targets)


OTHER_SERVICE = "(any other service)"
OTHER_ARGUMENT = "+(any other)"


def classes(rules: tuple[Rule, ...], world: World) -> Classes:
    """Return the classes of calls that these rules distinguish."""
    used = {token.key for rule in rules for token in (rule.source, rule.target)}
    # A redirect and a default target are about single sandboxes.
    for rule in rules:
        used |= {t.key for t in (rule.redirect, rule.default_target) if t is not None}
    sources: dict[object, list[str]] = {}
    targets: dict[object, list[str]] = {}
    for name in world.names:
        domain = world.domains[name]
        keys = frozenset(used.intersection(world.source_keys(name)))
        sources.setdefault((keys, domain.default_dispvm), []).append(name)
        kind = (keys, domain.power_state, domain.internal, name == "dom0")
        targets.setdefault(kind, []).append(name)
        if domain.template_for_dispvms:
            made = DISPVM_OF + name
            keys = frozenset(used.intersection(world.target_keys(made, "")))
            targets.setdefault((keys, DISPVM_OF, domain.internal), []).append(made)
    # Two members where there are two: a sandbox and another of its class.
    parts = [tuple(members) for members in targets.values()]
    parts += [(special,) for special in (DEFAULT, ADMIN, DISPVM)]
    services = tuple(_services(rules))
    return Classes(
        services,
        tuple(tuple(members) for members in sources.values()),
        tuple(parts),
        {
            service: tuple(_told([r for r in rules if r.service in {None, service}]))
            for service in {service for service, _ in services}
        },
    )


def _services(rules: tuple[Rule, ...]) -> Iterator[tuple[str, str]]:
    arguments: dict[str, set[str]] = {}
    for rule in rules:
        if rule.service is not None:
            known = arguments.setdefault(rule.service, set())
            if rule.argument is not None:
                known.add(rule.argument)
    for service, known in sorted(arguments.items()):
        for argument in [*sorted(known), OTHER_ARGUMENT]:
            yield service, argument
    yield OTHER_SERVICE, OTHER_ARGUMENT


def _told(rules: Iterable[Rule]) -> Iterator[Told]:
    """Attributes of calls: for each kind nothing, and each that rules name."""
    matches = [rule.match for rule in rules]
    mimes = {mime.replace("*", "x") for match in matches for mime in match.mime}
    schemes = {scheme for match in matches for scheme in match.scheme}
    hosts = {host.replace("*.", "x.", 1) for match in matches for host in match.host}
    options = [("", *sorted(found)) for found in (mimes, schemes, hosts)]
    devices = {
        device: None
        for match in matches
        if match.device.conditions and (device := example(match.device)) is not None
    }
    for mime, scheme, host in product(*options):
        for device in (None, *devices):
            yield Told(mime, scheme, host, device)


def diff(old: RuleSet, new: RuleSet, world: World) -> list[Change]:
    """Return what changes, in the order of the services; raises TooManyError."""
    found = classes((*old.rules, *new.rules), world)
    if found.count() > limits.DIFF_CALLS:
        raise TooManyError(
            f"{found.count()} classes of calls, at most {limits.DIFF_CALLS}"
        )
    engines = Engine(old), Engine(new)
    changes: list[Change] = []
    for (service, argument), sources, targets in product(
        found.services, found.sources, found.targets
    ):
        source = sources[0]
        # A call to itself is another class than a call to another like it.
        tried = {
            target: None
            for target in (source, targets[0], targets[-1])
            if target in targets
        }
        for target, told in product(tried, found.told[service]):
            call = PolicyCall(
                service,
                argument,
                source,
                target,
                told.mime,
                told.scheme,
                told.host,
                None,
                told.device,
            )
            before, after = (engine.answer(call, world) for engine in engines)
            if outcome(before) != outcome(after):
                changes.append(Change(call, sources, targets, before, after))
                break
    return changes


def outcome(answer: PolicyAnswer) -> tuple[object, ...]:
    """Return the decision in an answer, without the rule's place."""
    return (
        answer.verdict,
        answer.target,
        answer.targets,
        answer.default_target,
        answer.user,
        answer.autostart,
        answer.notify,
        answer.rule.attach if answer.rule else None,
        answer.limits,
    )
