"""For brokerctl: the answer of Qubes' own parser, with its surprises.

A plain walk over all rules, in that parser's order and with its errors: a
target that does not exist makes it fail with an exception instead of an
answer (its caller then denies); here that is the verdict ``error``.  It never
decides anything in the broker; people who come from Qubes compare with it.

Source: QubesOS/qubes-core-qrexec, qrexec/policy/parser.py, read at b2822df and
held to it by recorded cases (tests/corpus/policy/qubes.jsonl.gz).
"""

from __future__ import annotations

from policy.names import ADMIN, ADMIN_NAMES
from policy.rules.engine import PolicyAnswer, PolicyCall, Verdict
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.tokens import Place, Token, TokenError, parse_token
from policy.rules.world import DEFAULT, DISPVM, DISPVM_OF, RUNNING, Domain, World


class _Stop(Exception):  # noqa: N818 -- an answer, not an error
    """Ends the walk with a verdict."""

    def __init__(self, verdict: Verdict, reason: str, *, notify: bool = True) -> None:
        super().__init__(reason)
        self.verdict: Verdict = verdict
        self.notify = notify


def answer(rules: RuleSet, call: PolicyCall, world: World) -> PolicyAnswer:
    """Evaluate a call as Qubes' own parser does; errors are answers, never raised."""
    if rules.problems:
        problem = rules.problems[0]
        broken = next((r for r in rules.rules if r.broken is problem), None)
        return PolicyAnswer("error", problem.message, broken, notify=True)
    walk = _Walk(rules.rules, call, world)
    try:
        return walk.run()
    except _Stop as stop:
        return PolicyAnswer(stop.verdict, str(stop), walk.rule, notify=stop.notify)


class _Walk:
    """One evaluation; ``rule`` is the first match, once it is known."""

    def __init__(self, rules: tuple[Rule, ...], call: PolicyCall, world: World) -> None:
        self._rules = rules
        self._call = call
        self._source = call.source
        self._domains = world.domains
        self.rule: Rule | None = None

    def run(self) -> PolicyAnswer:
        """Return the answer of the first matching rule; raises _Stop."""
        target = self._verified(self._call.target or DEFAULT)
        for rule in self._rules:
            if self._matches_but_target(rule) and self._target(rule.target, target):
                self.rule = rule
                break
        else:
            raise _Stop("deny", "no matching rule found")
        if self.rule.action == "deny":
            reason = f"denied by policy {self.rule.where}"
            raise _Stop("deny", reason, notify=self.rule.notify)
        if self.rule.action == "ask":
            return self._ask(self.rule)
        return self._allow(self.rule, target)

    def _verified(self, text: str) -> str:
        """Validate a caller's or redirect's target; unknown names are ``@default``."""
        try:
            token = parse_token(text, Place.CALL, compat=True)
        except TokenError as error:
            raise _Stop("error", str(error)) from None
        if token.prefix == DISPVM_OF:
            domain = self._domains.get(token.value)
            if domain is None or not domain.template_for_dispvms:
                raise _Stop("deny", f"not a template for dispvm: {token.value}")
        elif token.literal and text not in self._domains:
            return DEFAULT
        return text

    def _template(self) -> str | None:
        domain = self._domains.get(self._source)
        if domain is None or domain.default_dispvm is None:
            return None
        return DISPVM_OF + domain.default_dispvm

    # -- matching ----------------------------------------------------------------

    def _matches_but_target(self, rule: Rule) -> bool:
        return (
            rule.service in {None, self._call.service}
            and rule.argument in {None, self._call.argument}
            and self._name(rule.source, self._source)
        )

    def _same(self, mine: str, other: str) -> bool:
        """Return whether two names mean one domain, by name or uuid."""
        if mine.startswith("uuid:") and not other.startswith("uuid:"):
            domain = self._domains.get(other)
            return domain is not None and f"uuid:{domain.uuid}" == mine
        if other.startswith("uuid:") and not mine.startswith("uuid:"):
            return self._same(other, mine)
        return mine == other

    def _name(self, token: Token, other: str) -> bool:
        """Return whether a token of a rule matches a sandbox's name."""
        if token.key == "*":
            return True
        if token.key == "@anyvm":
            return other not in ADMIN_NAMES
        if token.key == ADMIN:
            return other in ADMIN_NAMES
        domain = self._domains.get(other)
        if token.prefix == "@type:":
            return domain is not None and domain.type == token.value
        if token.prefix == "@tag:":
            return domain is not None and token.value in domain.tags
        return token.literal and self._same(token.text, other)

    def _target(self, token: Token, other: str) -> bool:
        """Return whether a token of the target's column matches a target."""
        if not token.prefix.startswith(DISPVM_OF):
            if token.text in {DEFAULT, DISPVM}:
                return token.text == other
            return self._name(token, other)
        tagged = token.prefix != DISPVM_OF
        if other == DISPVM:
            template = self._template()
            if template is None and not tagged:
                raise _Stop("error", "the caller has no default disposable")
            other = template or ""
            if not tagged:
                return token.text == other
        if not other.startswith(DISPVM_OF):
            return False
        if not tagged:
            return self._same(token.value, other.removeprefix(DISPVM_OF))
        domain = self._domain(other.removeprefix(DISPVM_OF))
        return domain.template_for_dispvms and token.value in domain.tags

    def _domain(self, name: str) -> Domain:
        domain = self._domains.get(name)
        if domain is None:
            raise _Stop("error", f"there is no domain '{name}'")
        return domain

    # -- verdicts -------------------------------------------------------------------

    def _without_start(self, target: str) -> bool:
        if target in ADMIN_NAMES:
            return True
        if target.startswith(DISPVM):
            return False
        return self._domain(target).power_state == RUNNING

    def _allow(self, rule: Rule, target: str) -> PolicyAnswer:
        """Return the answer of an allow; raises _Stop for its reasons to deny."""
        final = self._verified(rule.redirect.text if rule.redirect else target)
        if final == DEFAULT:
            raise _Stop("deny", f"{rule.where} allows, but no target is named")
        if final == DISPVM:
            template = self._template()
            if template is None:
                raise _Stop("deny", f"{rule.where}: no default disposable")
            final = template
        elif final == ADMIN:
            final = "dom0"
        if not rule.autostart and not self._without_start(final):
            reason = f"target {final} would have to be started"
            raise _Stop("deny", reason, notify=rule.notify)
        return PolicyAnswer(
            "allow",
            f"allowed by {rule.where}",
            rule,
            final,
            user=rule.user,
            autostart=rule.autostart,
            notify=rule.notify,
        )

    def _ask(self, rule: Rule) -> PolicyAnswer:
        """Return the answer of an ask; raises _Stop without targets."""
        if rule.redirect is None:
            targets = self._targets()
        else:
            text = rule.redirect.text
            targets = {"dom0" if text in ADMIN_NAMES else text}
        if not rule.autostart:
            targets = {target for target in targets if self._without_start(target)}
        if not targets:
            raise _Stop("deny", f"{rule.where} asks, but there is no target")
        default = rule.default_target.text if rule.default_target else None
        if default == DISPVM:
            default = self._template()
        elif default in ADMIN_NAMES:
            default = "dom0"
        return PolicyAnswer(
            "ask",
            f"asked by {rule.where}",
            rule,
            targets=tuple(sorted(targets)),
            default_target=default if default in targets else None,
            user=rule.user,
            autostart=rule.autostart,
            notify=rule.notify,
        )

    def _targets(self) -> set[str]:
        """Return the targets that the rules for a call offer, as Qubes does."""
        me = self._domain(self._source)
        if not self._source.startswith("uuid:") and me.uuid is None:
            raise _Stop("error", f"'{self._source}' has no uuid")
        targets: set[str] = set()
        for rule in reversed(self._rules):
            if not self._matches_but_target(rule):
                continue
            expansion = self._expand(rule.redirect or rule.target)
            if rule.action == "deny":
                targets -= expansion
            else:
                targets |= expansion
        if DISPVM in targets:
            targets.remove(DISPVM)
            template = self._template()
            if template is not None:
                targets.add(template)
        if ADMIN in targets:
            targets.remove(ADMIN)
            targets.add("dom0")
        targets -= {self._source, me.name, f"uuid:{me.uuid}"}
        return {
            target
            for target in targets
            if not self._domain(target.removeprefix(DISPVM_OF)).internal
        }

    def _expand(self, token: Token) -> set[str]:
        """Return all names that a token lists."""
        if token.key in {"*", "@anyvm"}:
            names = {DISPVM}
        elif token.text in {ADMIN, DISPVM}:
            return {token.text}
        elif token.text == DEFAULT:
            return set()
        elif token.prefix == DISPVM_OF:
            made = self._domain(token.value)
            return {DISPVM_OF + made.name} if made.template_for_dispvms else set()
        elif token.literal:
            domain = self._domains.get(token.text)
            return {domain.name} if domain else set()
        else:
            names = set()
        for name, domain in self._domains.items():
            if name.startswith("uuid:"):
                continue
            names |= self._expand_one(token, name, domain)
        return names

    def _expand_one(self, token: Token, name: str, domain: Domain) -> set[str]:
        """Return what a token lists of a domain: it, a disposable of it, both, none."""
        made = {DISPVM_OF + name} if domain.template_for_dispvms else set()
        if token.key == "*":
            return {name} | made
        if token.key == "@anyvm":
            return made if name in ADMIN_NAMES else {name} | made
        if token.prefix == "@dispvm:@tag:":
            return made if token.value in domain.tags else set()
        if token.prefix == "@tag:":
            return {name} if token.value in domain.tags else set()
        return {name} if domain.type == token.value else set()
