"""Checks of the directories: their writers, and files that are not read.

``loader`` and ``rulefiles`` refuse files and directories that others may
write.  A user who may write a directory above them can put another one in their
place; and a file with a slip in its name says nothing, without a word.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from policy.errors import WHOLE_FILE, Problem
from policy.records.loader import FOLDER as RECORDS
from policy.records.loader import SUFFIX as RECORD
from policy.rules.checks import CHECKS
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.ruleset import SUFFIX as RULE
from policy.tools.linting.sarif import LintFinding

_READ = {RECORDS: (RECORD,), RULES: (RULE, ".policytest")}
_BESIDE = (".json", ".md", ".txt")
"""Suffixes of other files that may lie there: worlds, notes."""


def look_at(directories: Iterable[Path], read: Iterable[str] = ()) -> list[LintFinding]:
    """Find parents of these directories that others may write, and files that nothing reads.

    ``read`` are the files in use.
    """
    found: list[LintFinding] = []
    used = {os.path.normpath(path) for path in read}
    above: dict[Path, Path] = {}
    for directory in directories:
        if directory.is_dir():
            found += _unread(directory, used)
            for place in (directory.absolute(), directory.resolve()):
                above |= dict.fromkeys(place.parents, directory)
    for parent, directory in sorted(above.items()):
        found += _open_to_others(parent, directory)
    return found


def _finding(check: str, path: Path, message: str, hint: str) -> LintFinding:
    problem = Problem(str(path), WHOLE_FILE, message, hint=hint)
    return LintFinding(check, CHECKS[check][0], problem)


def _unread(directory: Path, used: set[str]) -> Iterator[LintFinding]:
    """Yield a finding for each file of a directory that no reader reads."""
    suffixes = _READ.get(directory.name, (RECORD, RULE, ".policytest"))
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return  # the reader of the directory reports the error
    for path in entries:
        name = path.name
        known = name.endswith((*suffixes, *_BESIDE)) or name.upper() == "README"
        if known or name.startswith(".") or os.path.normpath(path) in used:
            continue
        if path.is_dir():
            continue
        text = f"'{name}' is not read: its name does not end in '{suffixes[0]}'"
        yield _finding("unread-file", path, text, "rename or move the file")


def _open_to_others(parent: Path, directory: Path) -> Iterator[LintFinding]:
    """Yield a finding where others may replace a directory."""
    try:
        info = parent.stat()
    except OSError:
        return
    text = ""
    if info.st_uid not in {0, os.geteuid()}:
        text = f"is owned by user {info.st_uid}"
    elif info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (
        info.st_mode & stat.S_ISVTX
    ):
        text = f"is writable by others (mode {stat.S_IMODE(info.st_mode):04o})"
    if text:
        words = f"{text}, who can replace {directory}"
        yield _finding("open-to-others", parent, words, f"chmod go-w {parent}")
