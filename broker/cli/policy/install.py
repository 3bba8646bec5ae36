"""Preview and installation of a changed set, for ``edit`` and ``set``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.cli import render
from broker.cli.policy.load import record_directories, rule_directories
from broker.cli.policy.show import print_change
from broker.cli.transfer.named_path import opened_target
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.replace_file import replace_file
from policy.errors import Problem
from policy.records.loader import load_records
from policy.records.model import RecordSet
from policy.rules.rulefiles import SHIPPED, load_rules
from policy.rules.ruleset import RuleSet
from policy.rules.world import world_of
from policy.tools.diff import Change, TooManyError, diff

_SHOWN = 20
"""Changes that are printed one by one."""


@dataclass(frozen=True)
class Sets:
    """All rules and records of a broker, as they are or would be."""

    rules: RuleSet
    records: RecordSet

    @property
    def problems(self) -> list[Problem]:
        """All problems of rules and records."""
        return [*self.rules.problems, *self.records.problems]


def sets_with(base: Path, overlay: Mapping[str, bytes | None]) -> Sets:
    """Return the sets that a broker would read with these files in place.

    ``base`` is the directory that they go to; if it is not among those that
    the broker reads, it is read alone.
    """
    rules, records = rule_directories(), record_directories()
    if base not in {folder.parent for folder in rules}:
        rules, records = (base / rules[0].name,), (base / records[0].name,)
    return Sets(
        load_rules(rules, shipped=SHIPPED, overlay=overlay),
        load_records(records, overlay=overlay),
    )


def new_problems(old: Sets, new: Sets) -> list[Problem]:
    """Return the problems that were not there before, wherever they are."""
    before = {(p.file, p.message, p.source_line) for p in old.problems}
    return [p for p in new.problems if (p.file, p.message, p.source_line) not in before]


def show_changes(old: Sets, new: Sets) -> int:
    """Print which decisions and records change; return how many."""
    found = changed_records(old.records, new.records)
    for line in found:
        render.note(printable(line, 500))
    if old.rules.problems or new.rules.problems:
        render.note("the rules have errors, so their decisions are not compared")
        return len(found)
    changes: list[Change] = []
    try:
        changes = diff(old.rules, new.rules, world_of(new.records))
    except TooManyError as error:
        render.note(f"decisions were not compared: {error}")
        return len(found)
    for change in changes[:_SHOWN]:
        print_change(change)
    if len(changes) > _SHOWN:
        render.note(f"and {len(changes) - _SHOWN} more")
    count = render.count(len(changes), "kind")
    if changes:
        render.note(f"decisions about {count} of calls change")
    elif not found:
        render.note("no decisions change")
    return len(found) + len(changes)


def changed_records(old: RecordSet, new: RecordSet) -> list[str]:
    """Return a line for each value of a record that changes."""
    lines = []
    for name in sorted({*old.records, *new.records, *old.broken, *new.broken}):
        before, after = old.records.get(name), new.records.get(name)
        if before is None or after is None:
            if (before, name in old.broken) != (after, name in new.broken):
                lines.append(
                    f"record {name}: {_state(old, name)} → {_state(new, name)}"
                )
            continue
        for key in dict.fromkeys([*before.values, *after.values]):
            was, now = before.values.get(key), after.values.get(key)
            if was != now:
                lines.append(f"record {name}: {key}: {_shown(was)} → {_shown(now)}")
    return lines


def _state(records: RecordSet, name: str) -> str:
    if name in records.records:
        return "can be used"
    return "has an error" if name in records.broken else "none"


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def put(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all, over whatever is there.

    Raises RefusedError.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with opened_target(path) as target:
            replace_file(target, content, mode=mode)
    except OSError as error:
        raise RefusedError(f"cannot write {path}: {error.strerror}") from error


def open_lock(path: Path, *, doing: str) -> int:
    """Open a file for flock(2) in a directory of policy files, made where missing.

    ``doing`` is what the user asked for, in the message.  The caller closes the
    descriptor.  Raises RefusedError.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError as error:
        raise RefusedError(
            f"cannot {doing} in {path.parent}: {error.strerror}"
        ) from error
