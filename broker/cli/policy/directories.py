"""The meaning of a DIRECTORY on the command lines of ``brokerctl policy``.

Every verb reads a named directory in the same way: a settings directory, as
``~/.config/vitrail``, has its rules in ``policy.d`` and its records in
``sandboxes.d``; any other directory has them itself.  A directory in which there is
nothing to read is an error, because an answer about no rules looks like a good one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import RefusedError
from policy.records.loader import FOLDER as RECORDS
from policy.records.loader import SUFFIX as RECORD
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.ruleset import SUFFIX as RULE
from policy.tools.record_files import CASES_SUFFIX as CASES


@dataclass(frozen=True)
class Contents:
    """The directories with rules, and those with records, in the order of their names.

    One directory may be in both.
    """

    rules: tuple[Path, ...] = ()
    records: tuple[Path, ...] = ()


def contents(directories: Iterable[Path]) -> Contents:
    """Return the rules and records in the named directories.

    Raises RefusedError for a directory that has neither rules nor records.
    """
    rules: list[Path] = []
    records: list[Path] = []
    for directory in directories:
        inside = parts(directory)
        rules += [part for part in inside if holds(part, RULE)]
        records += [part for part in inside if holds(part, RECORD)]
    return Contents(tuple(rules), tuple(records))


def parts(directory: Path) -> tuple[Path, ...]:
    """Return the directories whose files are read where this one is named.

    Raises RefusedError for a directory that has neither rules nor records.
    """
    below = [directory / name for name in (RECORDS, RULES)]
    found = tuple(
        part
        for part in (directory, *(part for part in below if part.is_dir()))
        if holds(part, RULE, RECORD)
    )
    if not found:
        raise RefusedError(
            f"{directory} contains neither records (*{RECORD}) nor rules (*{RULE})",
            hint=f"specify the directory that contains {RECORDS} and {RULES}, or one "
            "of these",
        )
    return found


def beside(directories: Iterable[Path]) -> tuple[Path, ...]:
    """Return the files of expectations in these directories and their parts."""
    places = [
        place
        for directory in directories
        for place in (directory, directory / RULES)
        if place.is_dir()
    ]
    found = (file for place in places for file in sorted(place.glob(f"*{CASES}")))
    return tuple(dict.fromkeys(found))


def holds(directory: Path, *suffixes: str) -> bool:
    """Return whether a directory has such files; True if it cannot be listed.

    Its reader reports why it cannot.
    """
    try:
        return any(entry.name.endswith(suffixes) for entry in directory.iterdir())
    except OSError:
        return True
