"""Format answers and changes as text."""

from __future__ import annotations

import json

from rich.text import Text

from broker.cli import render
from broker.cli.audit.events import shown_target
from broker.core.escape import printable
from policy.records.device_json import device_json
from policy.rules.engine import PolicyAnswer
from policy.tools.diff import Change
from policy.tools.effective import told_facts

_SHOWN = 8
"""Sandboxes of one side of a class."""


def print_change(change: Change) -> None:
    """Print a class of calls with both answers."""
    call = change.call
    told = told_facts(call)
    if call.device is not None:
        told.append(f"device={json.dumps(device_json(call.device))}")
    sources = _listed(change.sources)
    targets = "itself" if call.source == call.target else _listed(change.targets)
    head = " ".join([call.service + call.argument, sources, "→", targets, *told])
    out = render.plain_console(soft_wrap=True)
    out.print(Text(printable(head, 2000), style="bold"))
    for sign, answer in (("-", change.old), ("+", change.new)):
        out.print(Text(f"  {sign} {printable(short_answer(answer), 1000)}"))


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(shown_target(name) for name in names[:_SHOWN])
    beyond = len(names) - _SHOWN
    return f"{shown} and {beyond} more" if beyond > 0 else shown


def short_answer(answer: PolicyAnswer) -> str:
    """Return a policy answer as one line of text."""
    words: list[str] = [answer.verdict]
    if answer.target:
        words.append(f"to {shown_target(answer.target)}")
    if answer.verdict == "deny" and not answer.notify:
        words.append("without a notification")
    if answer.verdict == "ask":
        words.append("offering " + ", ".join(map(shown_target, answer.targets[:12])))
    words += [f"{key}={value}" for key, value in answer.limits.as_json().items()]
    return f"{' '.join(words)}   [{answer.where}]"
