"""The engine: rules, a world and a call give an answer.

Pure.  The answer is that of the first rule, in order, whose columns and
conditions hold, and deny where none does.  Rules are in an index by the keys
of their columns (see ``world``), so the cost of an answer does not grow with
rules about other things.

Beyond Qubes' parser (``compat`` answers as that one, docs/policy-qubes.md has
the table): a deny is not overridden by a redirect, a sandbox never calls
itself, and no rule leads to a target that does not exist.

The authority runs it for each request, brokerctl for its tools.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from functools import cached_property, lru_cache
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple

from policy.destinations import (
    NET,
    NETWORK,
    OPEN_URL,
    embedded_ipv4,
    is_inner,
    is_inner_host,
)
from policy.errors import visible
from policy.names import ADMIN, ADMIN_NAMES, ANY_KEY, sample_host, without_port
from policy.records.device import DeviceFacts
from policy.rules.conditions import NO_LIMITS, RuleLimits, fails_flow, fits
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.tokens import Place, Token, TokenError, parse_token
from policy.rules.world import DEFAULT, DISPOSABLE, DISPVM, DISPVM_OF, World

Verdict = Literal["allow", "ask", "deny", "error"]
NO_RULE = "no rule matches"
HOST_KEY = "SHA256:"
"""Begins the host of a login whose name the user's ssh does not know."""


class PolicyCall(NamedTuple):
    """A call.  ``argument`` begins with ``+``; target '' is no target.

    An attribute is None when it was not given and '' when the call has
    none; ``size`` is in bytes.  A deny whose condition asks for a fact that is not
    given applies, a grant does not.
    """

    service: str
    argument: str
    source: str
    target: str
    mime: str | None = None
    scheme: str | None = None
    host: str | None = None
    size: int | None = None
    device: DeviceFacts | None = None
    protocol: str | None = None
    port: int | None = None
    key: str | None = None


class EngineStep(NamedTuple):
    """One step on the way to an answer."""

    question: str
    answer: str
    where: str = ""


class PolicyAnswer(NamedTuple):
    """``verdict``, and why; ``error`` comes from ``compat`` only.

    ``rule`` is the rule that decided, None if none matched.  ``target`` is set
    for allow; ``targets`` (sorted) and ``default_target`` for ask.  ``limits``
    are for the caller to hold; beyond them the answer is deny.  ``observed``
    are rules in ``mode=observe`` that would have decided.
    """

    verdict: Verdict
    reason: str
    rule: Rule | None = None
    target: str | None = None
    targets: tuple[str, ...] = ()
    default_target: str | None = None
    user: str | None = None
    autostart: bool = True
    notify: bool = False
    limits: RuleLimits = NO_LIMITS
    trace: tuple[EngineStep, ...] = ()
    observed: tuple[Rule, ...] = ()

    @property
    def where(self) -> str:
        """``file:line`` of the rule, or that none matched."""
        return self.rule.where if self.rule else NO_RULE


def holds(rule: Rule, call: PolicyCall) -> str:
    """Return the first condition of a rule that a call does not fulfil, or nothing."""
    match = rule.match
    failed = _device_fails(rule, call.device)
    if failed:
        return failed
    deny = rule.action == "deny"
    failed = fails_flow(match, deny=deny, protocol=call.protocol, port=call.port)
    if failed:
        return failed
    # guard: an inner address is named by its rule
    if rule.argument is None and not deny and _is_inner(call):
        return "argument"
    scheme, host, key = call.scheme, call.host, call.key
    if deny:
        if key == ANY_KEY and (match.key or match.host):
            return "key"  # it is about one of several
        # An attribute that was not given may be the denied one.
        scheme = match.scheme[0] if scheme is None and match.scheme else scheme
        # The name of a host that has only a key may be the denied one, too.
        if match.host and (host is None or host.startswith(HOST_KEY)):
            host = sample_host(match.host[0])
        # guard: a denied host is denied at each of its ports
        if host is not None and fits(match, call.mime, scheme, host, None) == "host":
            host = without_port(host)
        key = match.key[0] if key is None and match.key else key
    return fits(match, call.mime, scheme, host, key)


def _is_inner(call: PolicyCall) -> bool:
    return call.service == NETWORK and is_inner(call.argument)


def _opens_inner(rule: Rule, call: PolicyCall) -> bool:
    """Return whether a rule without ``host=`` would open a URL of the user's network.

    The user's own browser has sessions there, and devices of a home network act on a
    request without one.
    """
    inner = call.service == OPEN_URL and is_inner_host(call.host or "")
    return inner and not rule.match.host


def _device_fails(rule: Rule, device: DeviceFacts | None) -> str:
    """Return the first device condition that does not hold, or nothing.

    A grant is never about a HID or hub interface that it does not name, also
    if it has no condition about devices at all.
    """
    wanted = rule.match.device
    if device is None:
        # guard: a grant needs a device
        if rule.action == "deny" or not wanted.conditions:
            return ""
        return wanted.conditions[0][0]
    failed = wanted.fails(device)
    if failed or rule.action == "deny":
        return failed
    # guard: HID interfaces in rules
    return "with-interface" if wanted.unnamed(device, any_hid=True) else ""


# Service and argument -> key of the source -> key of the target -> numbers.
_ByTarget = dict[str, list[int]]
_Bucket = dict[str, _ByTarget]


class Engine:
    """A set of rules with its index.  It is never changed."""

    def __init__(self, rules: RuleSet) -> None:
        """Index the rules by service, source and target."""
        self.digest = rules.digest
        self.rules = rules.rules
        self._plain = [
            rule.unconditional
            and (rule.argument is not None or rule.service not in {None, NETWORK})
            for rule in self.rules
        ]
        self._index: dict[tuple[str | None, str | None], _Bucket] = {}
        for number, rule in enumerate(self.rules):
            bucket = self._index.setdefault((rule.service, rule.argument), {})
            by_target = bucket.setdefault(rule.source.key, {})
            by_target.setdefault(rule.target.key, []).append(number)

    @cached_property
    def _numbers(self) -> dict[Rule, int]:
        """The number of each rule: the first one, where a file is read twice."""
        return {rule: n for n, rule in reversed(list(enumerate(self.rules)))}

    def number_of(self, rule: Rule) -> int:
        """Return the number of a rule."""
        return self._numbers[rule]

    # -- which rule ------------------------------------------------------------

    def _buckets(self, call: PolicyCall) -> list[_Bucket]:
        """Return the index's buckets for a call's service and argument."""
        get, service = self._index.get, call.service
        arguments: tuple[str, ...] = (call.argument,)
        if service == NETWORK:
            arguments = matching_arguments(call.argument)
        found = (
            *(get((service, one)) for one in arguments),
            get((service, None)),
            get((None, None)),
        )
        return [bucket for bucket in found if bucket is not None]

    def _lists(self, call: PolicyCall, target: str, world: World) -> list[list[int]]:
        """Return the lists of rules that match in all four columns."""
        sources = world.source_keys(call.source)
        targets = world.target_keys(target, call.source)
        found: list[list[int]] = []
        for bucket in self._buckets(call):
            for source in sources:
                by_target = bucket.get(source)
                if by_target is not None:
                    for key in targets:
                        if key in by_target:
                            found.append(by_target[key])  # noqa: PERF401 -- 1 µs
        return found

    def _first(
        self, call: PolicyCall, target: str, world: World
    ) -> tuple[int, tuple[Rule, ...]]:
        """Return the deciding rule's number (-1: none), and the observed rules."""
        lists = self._lists(call, target, world)
        if not lists:
            return -1, ()
        first = min(numbers[0] for numbers in lists)
        if self._plain[first] and call.device is None:
            return first, ()
        observed: list[Rule] = []
        # Each rule is in one list only, and the first rule that holds ends it.
        for number in lists[0] if len(lists) == 1 else heapq.merge(*lists):
            rule = self.rules[number]
            if holds(rule, call):
                continue
            if not rule.observe:
                return number, tuple(observed)
            observed.append(rule)
        return -1, tuple(observed)

    def matching(self, call: PolicyCall, world: World) -> list[Rule]:
        """Return the rules that match in all but the target, in order.

        No observing ones.
        """
        numbers: set[int] = set()
        for bucket in self._buckets(call):
            for source in world.source_keys(call.source):
                for some in bucket.get(source, {}).values():
                    numbers.update(some)
        rules = [self.rules[number] for number in sorted(numbers)]
        return [rule for rule in rules if not rule.observe and not holds(rule, call)]

    def about(self, service: str, source: str, world: World) -> list[Rule]:
        """Return the rules about a service and a source, in order; observing ones not."""
        keys = world.source_keys(source)
        numbers = {
            number
            for (named, _), bucket in self._index.items()
            if named in {None, service}
            for key in keys
            for some in bucket.get(key, {}).values()
            for number in some
        }
        rules = (self.rules[number] for number in sorted(numbers))
        return [rule for rule in rules if not rule.observe]

    # -- the answer -------------------------------------------------------------

    def answer(self, call: PolicyCall, world: World) -> PolicyAnswer:
        """Return the answer; never raises, whatever the call holds."""
        if call.source.startswith("uuid:"):
            # Rules about the name must not be passed by under the uuid.
            call = call._replace(source=world.name_of(call.source))
        target = intended(call.target, world)
        if target is None:
            return _no(None, f"'{visible(call.target)}' is not a valid target")
        # guard: only a flow leads outside
        if (target == NET) != (call.service == NETWORK):
            return _no(None, f"'{visible(target)}' is not a valid target")
        if not call.argument.startswith("+"):
            return _no(None, "an argument must begin with '+'")
        number, observed = self._first(call, target, world)
        if number < 0:
            return _no(None, "no rule matches, so the answer is deny", observed)
        rule = self.rules[number]
        if rule.broken is not None:
            reason = f"{rule.where} has an error, so its effect is unknown: {visible(rule.broken.message)}"
            return _no(rule, reason, observed)
        if rule.action == "deny":
            return _no(rule, f"denied by {rule.where}", observed)
        size, most = call.size, rule.limits.max_size
        if most is not None and size is not None and size > most:
            reason = f"{size} bytes; {rule.where} allows {most}"
            return _no(rule, reason, observed)
        if rule.action == "ask":
            return self._ask(call, number, world, observed)
        return self._allow(call, target, number, world, observed)

    def _allow(
        self,
        call: PolicyCall,
        target: str,
        number: int,
        world: World,
        observed: tuple[Rule, ...],
    ) -> PolicyAnswer:
        """Return an allow rule's answer: its final target, after a redirect.

        Deny where that one does not exist or must not be started, or where an earlier
        rule denies it.
        """
        rule = self.rules[number]
        wanted = rule.redirect.text if rule.redirect else target
        final, reason = final_target(wanted, call.source, world)
        trace: tuple[EngineStep, ...] = (EngineStep("target", final, rule.where),)
        if rule.redirect:
            trace = (EngineStep("redirect", wanted, rule.where), *trace)
            other = self.denied_before(call, wanted, number, world)
            if not reason and other:
                reason = f"it redirects to '{wanted}', which {other.where} denies"
        fresh = self._denied_fresh(call, final, number, world)
        if not reason and fresh:
            reason = (
                f"a call to '{final}' starts a new sandbox, which {fresh.where} denies"
            )
        # guard: an inner address is opened on this machine by a rule that names its host
        if not reason and final in ADMIN_NAMES and _opens_inner(rule, call):
            reason = (
                f"'{visible(call.host or '')}' is an address of this machine or its "
                "network, which only a rule with host= opens"
            )
        if not reason and not rule.autostart and not _runs(final, world):
            reason = f"'{final}' is not running, and autostart=no"
        if reason:
            text = f"{rule.where} allows, but {reason}"
            return _no(rule, text, observed, notify=rule.notify)
        return PolicyAnswer(
            "allow",
            f"allowed by {rule.where}",
            rule,
            final,
            (),
            None,
            rule.user,
            rule.autostart,
            rule.notify,
            rule.limits,
            trace,
            observed,
        )

    def denied_before(
        self, call: PolicyCall, target: str, number: int, world: World
    ) -> Rule | None:
        """Return the earlier rule that denies the target of a redirect, if any."""
        before, _ = self._first(call, target, world)
        if 0 <= before < number and self.rules[before].action == "deny":
            return self.rules[before]
        return None

    def _denied_fresh(
        self, call: PolicyCall, target: str, number: int, world: World
    ) -> Rule | None:
        """Return the earlier rule that denies fresh sandboxes of a disposable record.

        A call that names the record leads to a fresh one, as ``@dispvm:NAME`` does.
        """
        domain = world.domains.get(target)
        if domain is None or domain.type != DISPOSABLE or domain.record is not None:
            return None
        # guard: a record's name means a fresh disposable
        return self.denied_before(call, DISPVM_OF + target, number, world)

    def _ask(
        self, call: PolicyCall, number: int, world: World, observed: tuple[Rule, ...]
    ) -> PolicyAnswer:
        """Return an ask rule's answer: its targets; deny where none is left."""
        rule = self.rules[number]
        targets = self.offered(call, rule, world, number)
        if not rule.autostart:
            targets = {target for target in targets if _runs(target, world)}
        if not targets:
            reason = f"{rule.where} asks, but there is no target to choose from"
            return _no(rule, reason, observed, notify=rule.notify)
        default = None
        if rule.default_target:
            default, _ = final_target(rule.default_target.text, call.source, world)
        return PolicyAnswer(
            "ask",
            f"asked by {rule.where}",
            rule,
            None,
            tuple(sorted(targets)),
            default if default in targets else None,
            rule.user,
            rule.autostart,
            rule.notify,
            rule.limits,
            (EngineStep("targets", f"{len(targets)} to choose from", rule.where),),
            observed,
        )

    def offered(
        self, call: PolicyCall, asking: Rule, world: World, number: int | None = None
    ) -> set[str]:
        """Return the targets that a user may choose from when this rule asks.

        ``number`` is the rule's, if it is known.
        """
        at = self.number_of(asking) if number is None else number
        return {
            target
            for target, reason in (
                final_target(text, call.source, world)
                for text in self._found(call, asking, world, at)
            )
            if not reason
            and not is_internal(target, world)
            and self._denied_fresh(call, target, at, world) is None
        }

    def _found(
        self, call: PolicyCall, asking: Rule, world: World, number: int | None
    ) -> set[str]:
        """Return the offered targets, in the rules' own spelling."""
        if asking.redirect is None:
            return self._granted(call, world)
        text = asking.redirect.text
        at = self.number_of(asking) if number is None else number
        return set() if self.denied_before(call, text, at, world) else {text}

    def _granted(self, call: PolicyCall, world: World) -> set[str]:
        """Return the targets that rules for a call's service and source offer a user.

        Of the rules about a target the first one counts, as anywhere.
        """
        granted: set[str] = set()
        denied: set[str] = set()
        keys: list[str] = []
        known = world.matched("*")
        for rule in self.matching(call, world):
            key = rule.target.key
            if rule.action == "deny":
                if key == "*":
                    break
                denied |= world.matched(key)
                keys.append(key)
                continue
            more = set(expand(rule.redirect or rule.target, world))
            if rule.redirect is None:
                # A rule that names a disposable record is about its sandboxes too.
                more.update(world.running_of(rule.target.text))
            for target in more - known if keys else ():
                # By meaning, not by name: a deny for @dispvm:x takes away a
                # @dispvm that means the same.
                meant = world.target_keys(target, call.source)
                if any(one in meant for one in keys):
                    more.discard(target)
            granted |= more - denied
        return granted


def expand(token: Token, world: World) -> Iterable[str]:
    """Return every target that a token of a rule offers to a user."""
    if not token.prefix and token.key not in {"*", "@anyvm"}:
        return (token.text,)
    if token.prefix in {ADMIN, DISPVM, DISPVM_OF, NET}:
        return (token.text,)
    return world.members(token.key)


def _no(
    rule: Rule | None,
    reason: str,
    observed: tuple[Rule, ...] = (),
    *,
    notify: bool | None = None,
) -> PolicyAnswer:
    """Return a deny with its reason; by default the rule says whether it notifies."""
    if notify is None:
        notify = rule.notify if rule else True
    return PolicyAnswer("deny", reason, rule, notify=notify, observed=observed)


def intended(target: str, world: World) -> str | None:
    """Return the target as it is matched; None when no caller may name it."""
    if target in world.domains and not target.startswith("uuid:"):
        return target
    if not target:
        return DEFAULT
    if target in ADMIN_NAMES:
        return target if target in world.domains else ADMIN
    try:
        token = parse_token(target, Place.CALL, compat=True)
    except TokenError:
        return None
    if token.literal:
        name = world.name_of(target)
        # An unknown name is not a target, as with Qubes: rules for
        # '@default' decide what happens then.
        return name if name in world.domains else DEFAULT
    if token.prefix == DISPVM_OF:
        name = world.name_of(token.value)
        return DISPVM_OF + name if world.is_template(name) else None
    return target


def final_target(target: str, source: str, world: World) -> tuple[str, str]:
    """Return where a call goes in the end, and why it cannot go there (or nothing)."""
    if target == DEFAULT:
        return target, "neither the call nor the rule names a target"
    if target == NET:
        return target, ""
    if target in ADMIN_NAMES:
        return (
            "dom0",
            "" if source not in ADMIN_NAMES else "the target is the caller itself",
        )
    if target == DISPVM:
        template = world.template(source)
        if template is None:
            return target, f"'{visible(source)}' has no default disposable"
        target = template
    if target.startswith(DISPVM_OF):
        name = world.name_of(target.removeprefix(DISPVM_OF))
        if not world.is_template(name):
            return target, f"'{visible(name)}' is not a template for disposables"
        return DISPVM_OF + name, ""
    target = world.name_of(target)
    if target not in world.domains:
        return target, f"no sandbox is named '{visible(target)}'"
    if target == world.name_of(source):
        return target, "the target is the caller itself"
    return target, ""


def _runs(target: str, world: World) -> bool:
    if target in ADMIN_NAMES:
        return True
    domain = world.domains.get(target)
    return domain is not None and domain.power_state == "Running"


def is_internal(target: str, world: World) -> bool:
    """Return whether no user is offered a target: its sandbox is an internal one."""
    domain = world.domains.get(target.removeprefix(DISPVM_OF))
    return domain is not None and domain.internal


@lru_cache(maxsize=4096)
def matching_arguments(argument: str) -> tuple[str, ...]:
    """Return the rule arguments that match a network destination; all begin with ``+``.

    For a host name: itself, and ``*.`` with each parent domain.  For an address or a
    network: each network that contains it, and those of an embedded IPv4 address.
    """
    name = argument[1:]
    try:
        network = ip_network(name)
    except ValueError:
        labels = name.split(".")
        above = (f"+*.{'.'.join(labels[at:])}" for at in range(1, len(labels)))
        return tuple(dict.fromkeys((argument, *above)))
    found = tuple(
        f"+{network.supernet(new_prefix=bits)}"
        for bits in range(network.prefixlen, -1, -1)
    )
    inside = embedded_ipv4(network.network_address.packed)
    # guard: a rule about an IPv4 address is one about those that lead to it
    return found + matching_arguments(f"+{ip_address(inside)}") if inside else found
