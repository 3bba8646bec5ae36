"""Whether a rule offers one target, without collecting all."""

from __future__ import annotations

from policy.names import ADMIN_NAMES
from policy.rules.engine import Engine, PolicyCall, final_target, is_internal
from policy.rules.rule import Rule
from policy.rules.world import DISPVM, DISPVM_OF, World


class OfferingEngine(Engine):
    """The engine as the linter asks it, about one target at a time."""

    def offers(self, call: PolicyCall, asking: Rule, target: str, world: World) -> bool:
        """Return whether a target (as ``offered`` names it) is offered."""
        names = {target}
        if target == world.template(call.source):
            names.add(DISPVM)
        if target == "dom0":
            names |= ADMIN_NAMES
        prefix = DISPVM_OF if target.startswith(DISPVM_OF) else ""
        domain = world.domains.get(target.removeprefix(prefix))
        if domain is not None and domain.uuid is not None:
            names.add(f"{prefix}uuid:{domain.uuid}")
        at = self.number_of(asking)
        if self._denied_fresh(call, target, at, world) is not None:
            return False
        return any(
            final_target(text, call.source, world) == (target, "")
            and not is_internal(target, world)
            for text in names.intersection(self._found(call, asking, world, None))
        )

    def surely_offered(
        self, call: PolicyCall, target: str, asking: Rule, world: World
    ) -> bool:
        """Return whether a target is offered, where that is quickly seen.

        Else False.
        """
        final, reason = final_target(target, call.source, world)
        if reason or is_internal(final, world):
            return False
        at = self.number_of(asking)
        if self._denied_fresh(call, final, at, world) is not None:
            return False
        number, _ = self._first(call, target, world)
        if number < 0 or self.rules[number].action == "deny":
            return number < 0 and asking.redirect is not None
        first = self.rules[number]
        return first is asking or first.redirect is None or bool(asking.redirect)
