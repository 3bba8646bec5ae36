"""A device that represents all that a rule is about, for tools that compare rules."""

from __future__ import annotations

from policy.records.device import (
    NONE_OF,
    Condition,
    DeviceFacts,
    DevicePattern,
    DeviceRule,
    Interface,
)


def example(rule: DeviceRule) -> DeviceFacts | None:
    """Return a device that a rule matches; None if none was found.

    For tools that compare what rules decide: one device represents all that
    the rule is about.
    """
    asked = dict(rule.conditions)
    interfaces: list[Interface] = []
    for name in ("with-interface", "class"):
        wanted = asked.get(name)
        if wanted is not None and wanted.op != NONE_OF and not interfaces:
            few = (
                wanted.patterns[:1] if wanted.op in _ONE_IS_ENOUGH else wanted.patterns
            )
            interfaces = [Interface(*_filled(pattern)) for pattern in few]
    texts = {name: _first(asked.get(name)) for name in ("serial", "port", "hash")}
    wanted = asked.get("id")
    if wanted is not None and wanted.op != NONE_OF:
        vendor, product = _filled(wanted.patterns[0])
        texts["id"] = f"{vendor:04x}:{product:04x}"
    made = DeviceFacts(**texts, interfaces=tuple(interfaces))
    return None if rule.fails(made) else made


_ONE_IS_ENOUGH = frozenset({"one-of", "match-all"})


def _filled(pattern: DevicePattern) -> list[int]:
    return [part if isinstance(part, int) else 0 for part in pattern.parts]


def _first(wanted: Condition | None) -> str:
    if wanted is None or wanted.op == NONE_OF:
        return ""
    return wanted.patterns[0].text
