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

from policy.destinations import NET, NETWORK, port_ranges
from policy.names import ADMIN, ADMIN_NAMES
from policy.records.device import DeviceFacts
from policy.rules.conditions import Match
from policy.rules.engine import Engine, PolicyAnswer, PolicyCall
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.world import DEFAULT, DISPVM, DISPVM_OF, World
from policy.tools import limits as tool_limits
from policy.tools.device_example import example


class TooManyError(Exception):
    """More classes than can be asked; the text says how many."""


class Told(NamedTuple):
    """Attributes of a call that rules distinguish; None: it is not stated."""

    mime: str | None
    scheme: str | None
    host: str | None
    device: DeviceFacts | None
    protocol: str | None = None
    port: int | None = None
    key: str | None = None

    def without_flow(self) -> Told:
        """Return these attributes for any protocol and port; they come before each."""
        return self._replace(protocol=None, port=None)


class Change(NamedTuple):
    """A class of calls whose answer changes.

    ``call`` is one of them; ``sources`` and ``targets`` are all sandboxes of
    the class: the answer changes in the same way for each source with each target.
    If the call's source is its target, it is about each source with itself.
    """

    call: PolicyCall
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    old: PolicyAnswer
    new: PolicyAnswer


@dataclass(frozen=True)
class Classes:
    """Classes of sources and of targets (members, the first represents all).

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
        if name in ADMIN_NAMES:
            continue  # as a target it is ADMIN, below
        kind = (keys, domain.power_state, domain.internal)
        targets.setdefault(kind, []).append(name)
        if domain.template_for_dispvms:
            made = DISPVM_OF + name
            keys = frozenset(used.intersection(world.target_keys(made, "")))
            targets.setdefault((keys, DISPVM_OF, domain.internal), []).append(made)
    # Two members where there are two: a sandbox and another of its class.
    parts = [tuple(members) for members in targets.values()]
    parts += [(special,) for special in (DEFAULT, ADMIN, DISPVM, NET)]
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


def is_possible(service: str, targets: tuple[str, ...]) -> bool:
    """Return whether a call of a service can name these targets: only flows lead outside."""
    return (service == NETWORK) == (targets == (NET,))


def _services(rules: tuple[Rule, ...]) -> Iterator[tuple[str, str]]:
    """Yield services and arguments that rules name, and another that none names."""
    arguments: dict[str, set[str]] = {}
    for rule in rules:
        if rule.service is not None:
            known = arguments.setdefault(rule.service, set())
            if rule.argument is not None:
                known.add(rule.argument)
        elif rule.target.key in {"*", NET}:
            arguments.setdefault(NETWORK, set())  # has targets of its own
    for service, known in sorted(arguments.items()):
        for argument in [*sorted(known), OTHER_ARGUMENT]:
            yield service, argument
    yield OTHER_SERVICE, OTHER_ARGUMENT


def _told(rules: Iterable[Rule]) -> Iterator[Told]:
    """Attributes of calls: for each kind none stated, and each that rules name.

    A deny with a condition decides where the attribute is not stated, and not where the
    call states that none exists, so those are two.
    """
    rules = list(rules)
    matches = [rule.match for rule in rules]
    denies = [rule.match for rule in rules if rule.action == "deny"]
    mimes = {mime.replace("*", "x") for match in matches for mime in match.mime}
    schemes = {scheme for match in matches for scheme in match.scheme}
    keys = {key for match in matches for key in match.key}
    hosts = {host.replace("*.", "x.", 1) for match in matches for host in match.host}
    options: list[tuple[str | None, ...]] = []
    for kind, found in (
        *(("mime", mimes), ("scheme", schemes)),
        *(("host", hosts), ("key", keys)),
    ):
        none = ("",) if any(getattr(match, kind) for match in denies) else ()
        options.append((None, *none, *sorted(found)))
    devices = {
        device: None
        for match in matches
        if match.device.conditions and (device := example(match.device)) is not None
    }
    flows = [(None, None), *_flows(matches)]
    for mime, scheme, host, key in product(*options):
        for device in (None, *devices):
            for protocol, port in flows:
                yield Told(mime, scheme, host, device, protocol, port, key)


def _flows(matches: Iterable[Match]) -> list[tuple[str, int]]:
    """Return flows for each port and protocol that rules name, and for others."""
    known = [match for match in matches if match.port or match.protocol]
    if not known:
        return []
    # Each end of a range, and the port after it, begins a class of ports.
    ends = {1, *(one.start for m in known for one in port_ranges(m.port))}
    ends |= {one.stop for m in known for one in port_ranges(m.port) if one.stop < 65536}
    return [
        *(("tcp", port) for port in sorted(ends)),
        *(("udp", port) for port in sorted(ends)),
        ("icmp", 0),
    ]


def diff(old: RuleSet, new: RuleSet, world: World) -> list[Change]:
    """Return what changes, in the order of the services; raises TooManyError."""
    shared = classes((*old.rules, *new.rules), world)
    if shared.count() > tool_limits.DIFF_CALLS:
        raise TooManyError(
            f"{shared.count()} classes of calls exceed the limit of {tool_limits.DIFF_CALLS}"
        )
    engines = Engine(old), Engine(new)
    changes: list[Change] = []
    for (service, argument), sources, targets in product(
        shared.services, shared.sources, shared.targets
    ):
        if not is_possible(service, targets):
            continue
        source = sources[0]
        # A call to itself is another class than a call to another like it.
        tried = {
            target: None
            for target in (source, targets[0], targets[-1])
            if target in targets
        }
        any_flow: dict[object, object] = {}
        for target, told in product(tried, shared.told[service]):
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
                told.protocol,
                told.port,
                told.key,
            )
            before, after = (engine.answer(call, world) for engine in engines)
            both = outcome(before), outcome(after)
            first = any_flow.setdefault((target, told.without_flow()), both)
            if told.protocol is not None and first == both:
                continue
            if both[0] != both[1]:
                reached = tuple(name for name in sources if name in targets)
                part = reached if target == source else targets
                changes.append(Change(call, sources, part, before, after))
    return _joined(changes)


def _joined(changes: Iterable[Change]) -> list[Change]:
    """Join the classes of calls that change in the same way, in the order of the first.

    First the targets of each class of sources, then the sources with equal targets.
    """
    by_sources: dict[object, Change] = {}
    for change in changes:
        key = (_facts(change), change.sources)
        first = by_sources.setdefault(key, change)
        targets = tuple(dict.fromkeys((*first.targets, *change.targets)))
        by_sources[key] = first._replace(targets=targets)
    by_targets: dict[object, Change] = {}
    for change in by_sources.values():
        key = (_facts(change), () if _to_itself(change) else change.targets)
        first = by_targets.setdefault(key, change)
        by_targets[key] = first._replace(
            sources=tuple(dict.fromkeys((*first.sources, *change.sources))),
            targets=tuple(dict.fromkeys((*first.targets, *change.targets))),
        )
    return list(by_targets.values())


def _facts(change: Change) -> tuple[object, ...]:
    """Return what a change is about, without its sandboxes."""
    call = change.call
    told = (*call[:2], *call[4:7], *call[8:])
    return (*told, _to_itself(change), _relative(change, 0), _relative(change, 1))


def _to_itself(change: Change) -> bool:
    return change.call.source == change.call.target


def _relative(change: Change, side: int) -> tuple[object, ...]:
    """Return an outcome in which the call's own target has no name.

    Each target of a class is reached itself: two classes with the answers "allow to a"
    and "allow to b" change in the same way.
    """
    answer = (change.old, change.new)[side]
    verdict, target, *others = outcome(answer)
    itself = target is not None and target == change.call.target
    return (verdict, "@itself" if itself else target, *others)


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
