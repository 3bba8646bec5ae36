"""Groups of rows about homes: snapshots, backups, and what can be done with them."""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.cli.manager.details import HomeFacts, SandboxDetails
from broker.cli.manager.sandbox_actions import SandboxActions
from broker.cli.manager.widgets import action_row, button, group, memory_words
from broker.cli.manager.words import tr


def copies(record: str, details: SandboxDetails, actions: SandboxActions) -> list[Any]:
    """Return the group of a sandbox's home; nothing if it has none."""
    if details.home_problem:
        row = action_row(tr("Its home cannot be read"), details.home_problem)
        return [group(tr("Home"), [row])]
    if details.home is None:
        return []
    return [group(tr("Home"), home_rows(record, details.home, actions))]


def home_rows(record: str, home: HomeFacts, actions: SandboxActions) -> list[Any]:
    """Return the rows of a home, and of its snapshots, newest first."""
    kept = action_row(
        tr("Copies"),
        memory_words(home.used) or tr("a directory"),
        button(tr("Snapshot…"), partial(actions.snapshot, record), about=record),
        button(tr("Back up…"), partial(actions.back_up, record), about=record),
    )
    changed = action_row(
        tr("Name and content"),
        "",
        button(tr("Rename…"), partial(actions.rename, record), about=record),
        button(tr("Empty…"), partial(actions.empty, record), about=record),
    )
    return [
        kept,
        changed,
        *(_snapshot(record, label, actions) for label in reversed(home.snapshots)),
    ]


def _snapshot(record: str, label: str, actions: SandboxActions) -> Any:
    about = tr("{label} of {name}", label=label, name=record)
    return action_row(
        tr("Snapshot {label}", label=label),
        "",
        button(tr("Restore…"), partial(actions.restore, record, label), about=about),
        button(
            tr("Remove…"), partial(actions.remove_snapshot, record, label), about=about
        ),
    )
