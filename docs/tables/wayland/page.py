"""Print ``docs/wayland-messages.md`` from the tables of handlers and policies.

``python -m docs.tables.wayland.page FILE`` writes, with ``--check``
compares and returns 1 when the file is older than the tables.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from broker.jail.wayland import handler_table
from broker.jail.wayland.protocol.dispatch import Action, Raw, Rule, Rules
from broker.jail.wayland.protocol.signatures import (
    MessageSignature,
    events_of,
    requests_of,
)
from broker.jail.wayland.protocol.tables import INTERFACES
from docs.tables import wayland as policies
from docs.tables.wayland.needs import NEEDS, Needs
from docs.tables.wayland.terms import (
    MEASURED,
    Cost,
    Descriptors,
    Policies,
    Sender,
    Serial,
)

_HEAD = """# Wayland messages

<!-- printed by python -m docs.tables.wayland.page; do not edit -->

Every request and event of the protocols that the [filter](wayland.md) knows, what the filter does with it, and what the message is worth to a sandbox.
A message that is not on this page does not exist for a sandbox: the filter ends the connection.
Messages of an interface that are equal in all else share a line.
A part that is left out says: any client, or the client of the object; no serial; for a request, one message; no descriptor; nothing needed.
A message without any text ends its object, and gives nothing else.

| part of a line | meaning |
| --- | --- |
| message | its name, and what happens to it: *forwarded*: checked, given the ids of the other side, passed on; `module.function`: handled there; *dropped*, *never received*: not passed on |
| who | who may send a request so that it has an effect; who receives an event |
| serial | which serial a request must name to have an effect; what the serial of an event allows |
| cost | what the compositor does for a request, by the [names below](#costs) |
| descriptors | which descriptors the message carries, by the [names below](#descriptors) |
| needs | which of the objects that a request names must be alive, mapped or shown, and what happens otherwise |
| last | what a sandbox gains whose windows do not have the focus |
"""

_USUAL_GAIN = "Nothing: it ends its object."
"""Printed once, above, if there is nothing else to say of a message."""
_COLUMNS = ("who", "serial", "cost", "descriptors", "needs")
"""Names of what is printed before the gain of a message in the background."""
_DEFAULTS = {
    Sender.ANYBODY,
    Sender.COMPOSITOR,
    Serial.NONE,
    Cost.MESSAGE,
    Cost.EVENT,
    Descriptors.NONE,
}
"""Values of columns that most messages have, which are not printed."""


def happens(rule: Rule) -> str:
    """Return the treatment of a message: a word, or the handler's name."""
    if isinstance(rule, Action):
        return rule.value
    function = rule.function if isinstance(rule, Raw) else rule
    module = function.__module__.rpartition(".")[2]
    return f"`{module}.{function.__qualname__.partition('.')[0]}`"


def _rows(
    title: str,
    messages: Callable[[str], tuple[MessageSignature, ...]],
    rules: Rules,
    rows: Policies,
    needs: Mapping[tuple[str, str], Needs] | None = None,
) -> list[str]:
    """Return one list; only that of requests has ``needs``.

    Messages of one interface that are equal in all else have one line.
    """
    lines = [f"## {title}", ""]
    for interface in INTERFACES:
        names: dict[tuple[str, ...], list[str]] = {}
        for message in messages(interface):
            row = rows[interface, message.name]
            values = (row.sender, row.serial, row.cost, row.descriptors)
            columns = (
                *map(_cell, values),
                *_needed(needs, interface, message.name),
            )
            named = zip(_COLUMNS, columns, strict=False)
            shown = (f"*{column}* {text}" for column, text in named if text)
            name = f"`{message}` {happens(rules[interface, message.name])}"
            names.setdefault((*shown, row.gain), []).append(name)
        for (*parts, gain), equal in names.items():
            bounds = f"{'; '.join(parts)}. " if parts else ""
            text = "" if not bounds and gain == _USUAL_GAIN else f": {bounds}{gain}"
            lines.append(f"* {', '.join(equal)}{text}")
    return [*lines, ""]


def _cell(value: enum.Enum) -> str:
    """Return a column's text: empty for its default, a name for what is explained above."""
    if value in _DEFAULTS:
        return ""
    return _name(value) if isinstance(value, Cost | Descriptors) else value.value


def _name(value: Cost | Descriptors) -> str:
    return value.name.lower().replace("_", " ")


def _needed(
    needs: Mapping[tuple[str, str], Needs] | None, interface: str, name: str
) -> list[str]:
    if needs is None:
        return []
    need = needs.get((interface, name), Needs.NONE)
    return ["" if need is Needs.NONE else need.value]


def _costs() -> list[str]:
    """The table of costs: measurements, and the filter's charges."""
    return [
        "## Costs",
        "",
        "Microseconds of a compositor's CPU time for one request, through the filter, by `python -m tests.bench.wayland.costs` (sway 1.7 that draws with pixman, two busy cores), and what the filter charges a sandbox for it.",
        "A sandbox has 90,000 messages and 4,000 million pixels a second ([budgets](resource-limits.md#windows)): with any of these requests alone the compositor needs less than half a core for it.",
        "",
        "| cost | µs | charged |",
        "| --- | --- | --- |",
        *(
            f"| {_name(cost)}: {cost.value} | {' | '.join(MEASURED[cost])} |"
            for cost in Cost
            if cost is not Cost.EVENT
        ),
        "",
        "## Descriptors",
        "",
        *(
            f"* {_name(kind)}: {kind.value};"
            for kind in Descriptors
            if kind is not Descriptors.NONE
        ),
        "",
    ]


def document() -> str:
    """The whole page."""
    lines = [
        _HEAD,
        *_costs(),
        *_rows(
            "Requests",
            requests_of,
            handler_table.REQUESTS,
            policies.REQUESTS,
            NEEDS,
        ),
        *_rows("Events", events_of, handler_table.EVENTS, policies.EVENTS),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> int:
    """Entry point; returns the exit code."""
    path, text = Path(sys.argv[1]), document()
    if "--check" not in sys.argv[2:]:
        path.write_text(text)
    elif path.read_text() != text:
        sys.stderr.write(f"{path} is older than the tables of messages\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
