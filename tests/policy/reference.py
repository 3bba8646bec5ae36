"""A second engine, for tests: slow, and plain enough to be read as the rules.

It shares no code with ``policy.rules.engine`` but the parsed rules and the world's
data: matching is written out column by column, the answer in order.
"""

from __future__ import annotations

ADMINS = {"@adminvm", "dom0", "uuid:00000000-0000-0000-0000-000000000000"}


def decide(rules, call, world):
    """(verdict, rule or None, target, targets, default target)."""
    for name, domain in world.domains.items():
        if call.source == f"uuid:{domain.uuid}":
            call = call._replace(source=name)
    target = intended(call.target, world)
    first = None
    for rule in rules if target else ():
        if not rule.observe and matches(rule, call, target, world):
            first = rule
            break
    if first is None or first.broken or first.action == "deny":
        return ("deny", first, None, (), None)
    if (
        None not in (first.limits.max_size, call.size)
        and call.size > first.limits.max_size
    ):
        return ("deny", first, None, (), None)
    if first.action == "allow":
        wanted = first.redirect.text if first.redirect else target
        final = resolve(wanted, call.source, world)
        bad = final is None or (
            first.redirect and denied_before(rules, first, wanted, call, world)
        )
        bad = bad or not (first.autostart or runs(final, world))
        return ("deny" if bad else "allow", first, None if bad else final, (), None)
    offered = offers(rules, first, call, world)
    if not first.autostart:
        offered = {name for name in offered if runs(name, world)}
    if not offered:
        return ("deny", first, None, (), None)
    default = (
        resolve(first.default_target.text, call.source, world)
        if first.default_target
        else None
    )
    return (
        "ask",
        first,
        None,
        tuple(sorted(offered)),
        default if default in offered else None,
    )


def offers(rules, asking, call, world):
    if asking.redirect:
        wanted = asking.redirect.text
        found = set() if denied_before(rules, asking, wanted, call, world) else {wanted}
    else:
        found = set()
        for one in candidates(world):
            # Granted by a rule, and no deny before that rule.
            for rule in rules:
                if rule.observe or not columns(rule, call, world):
                    continue
                if rule.action == "deny":
                    if target_matches(rule.target, one, call.source, world):
                        break
                elif grants(rule, one, world):
                    found.add(one)
                    break
    named = {resolve(one, call.source, world) for one in found} - {None}
    return {
        n
        for n in named
        if not (d := world.domains.get(n.removeprefix("@dispvm:"))) or not d.internal
    }


def candidates(world):
    names = list(world.domains)
    return [
        *names,
        *(f"@dispvm:{n}" for n in names),
        "@dispvm",
        "@adminvm",
        *(f"uuid:{d.uuid}" for d in world.domains.values()),
    ]


def grants(rule, one, world):
    """Whether a rule offers a target, by the words of its (re)target."""
    token = rule.redirect or rule.target
    text = token.text
    if one.startswith("uuid:") or one in {"@adminvm", "@dispvm"}:
        return one == text or (one == "@dispvm" and text in {"*", "@anyvm"})
    if one.startswith("@dispvm:"):
        domain = world.domains[one.removeprefix("@dispvm:")]
        if text.startswith("@dispvm:@tag:"):
            return domain.template_for_dispvms and token.value in domain.tags
        return text == one or (text in {"*", "@anyvm"} and domain.template_for_dispvms)
    domain = world.domains[one]
    if text == "*" or (text == "@anyvm" and one != "dom0"):
        return True
    if text.startswith("@tag:"):
        return token.value in domain.tags
    return text == f"@type:{domain.type}" or text == one


def denied_before(rules, rule, target, call, world):
    for other in rules:
        if other is rule:
            return False
        if not other.observe and matches(other, call, target, world):
            return other.action == "deny"
    raise AssertionError


def intended(text, world):
    if text in {"", "@default"}:
        return "@default"
    if text in {"@adminvm", "@dispvm"}:
        return text
    if text in ADMINS:
        return text if text in world.domains else "@adminvm"
    if text.startswith("@dispvm:"):
        domain = world.domains.get(text.removeprefix("@dispvm:"))
        return text if domain and domain.template_for_dispvms else None
    if text.startswith("@"):
        return None
    for name, domain in world.domains.items():
        if text in {name, f"uuid:{domain.uuid}"}:
            return name
    return "@default"


def resolve(text, source, world):
    if text in ADMINS:
        return "dom0" if source not in ADMINS else None
    if text == "@dispvm":
        domain = world.domains.get(source)
        text = (
            f"@dispvm:{domain.default_dispvm}"
            if domain and domain.default_dispvm
            else "@dispvm:"
        )
    if text.startswith("@dispvm:"):
        domain = world.domains.get(text.removeprefix("@dispvm:"))
        return text if domain and domain.template_for_dispvms else None
    for name, domain in world.domains.items():
        if text in {name, f"uuid:{domain.uuid}"}:
            return name if name != source else None
    return None


def runs(name, world):
    if name in ADMINS:
        return True
    return not name.startswith("@") and world.domains[name].power_state == "Running"


def matches(rule, call, target, world):
    return columns(rule, call, world) and target_matches(
        rule.target, target, call.source, world
    )


def columns(rule, call, world):
    if rule.service is not None and rule.service != call.service:
        return False
    if rule.argument is not None and rule.argument != call.argument:
        return False
    return name_matches(rule.source, call.source, world) and conditions(rule, call)


def name_matches(token, name, world):
    text, domain = token.text, world.domains.get(name)
    if text == "*":
        return True
    if text == "@anyvm":
        return name not in ADMINS
    if text in ADMINS:
        return name in ADMINS
    if text.startswith("@tag:"):
        return domain is not None and token.value in domain.tags
    if text.startswith("@type:"):
        return domain is not None and token.value == domain.type
    if text.startswith("@"):
        return False
    return text == name or (domain is not None and text == f"uuid:{domain.uuid}")


def target_matches(token, target, source, world):
    text = token.text
    if text in {"@default", "@dispvm"}:
        return target == text
    if not text.startswith("@dispvm:"):
        return name_matches(token, target, world)
    if target == "@dispvm":
        caller = world.domains.get(source)
        target = (
            f"@dispvm:{caller.default_dispvm}"
            if caller and caller.default_dispvm
            else ""
        )
    if not target.startswith("@dispvm:"):
        return False
    if text == target:
        return True
    domain = world.domains.get(target.removeprefix("@dispvm:"))
    tagged = text.startswith("@dispvm:@tag:")
    return (
        tagged
        and domain is not None
        and domain.template_for_dispvms
        and token.value in domain.tags
    )


def conditions(rule, call):
    deny = rule.action == "deny"
    for wanted, told, good in (
        (rule.match.mime, call.mime, lambda m: call.mime == m or call.mime.split("/")[0] + "/*" == m),
        (rule.match.scheme, call.scheme, lambda s: call.scheme == s),
        (rule.match.host, call.host, lambda h: call.host.endswith(h[1:]) if h[0] == "*" else call.host == h),
    ):  # fmt: skip
        if not wanted:
            continue
        if told is None:
            if not deny:
                return False
        elif told == "" or not any(good(one) for one in wanted):
            return False
    return True
