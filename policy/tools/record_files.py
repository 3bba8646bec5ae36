"""Records in files that a user names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from policy.errors import Problem
from policy.records.loader import FOLDER as RECORDS
from policy.records.loader import CollectedRecords
from policy.records.model import Record, RecordSet
from policy.rules.rulefiles import FOLDER as RULES

CASES_SUFFIX = ".policytest"
"""Of files of expectations, which lie beside rules and records (``policy.tools.cases``)."""
_RULE_FILE = re.compile(
    rf"{RULES}/[0-9a-z_-][0-9a-z_.-]{{0,99}}\.(?:policy|policytest)"
)
_RECORD_FILE = re.compile(rf"{RECORDS}/[a-z][a-z0-9-]{{0,30}}\.toml")


def is_policy_path(path: str) -> bool:
    """Return whether a path below the configuration is of a record or of rules."""
    return bool(_RULE_FILE.fullmatch(path) or _RECORD_FILE.fullmatch(path))


def load_files(files: Sequence[Path], *, around: Sequence[Path] = ()) -> RecordSet:
    """Read these files alone, with any owner (``brokerctl policy check``).

    Inherited records are looked for among them, then in the directories
    ``around`` them.
    """
    behind = CollectedRecords()
    for directory in around:
        behind.add_directory(directory, check_owner=False)
    collected = CollectedRecords(behind)
    for file in files:
        collected.add_file(file, check_owner=False)
    return collected.finish()


def parse_record(
    name: str, source: Path, content: bytes
) -> tuple[Record | None, list[Problem]]:
    """Return the record in a file's content, and its problems.

    Exactly one of the two is empty.  Pure: ``source`` only names the file.
    There are no others here that it could inherit from.
    """
    alone = CollectedRecords()
    alone.add_content(name, source, content)
    found = alone.finish()
    return found.records.get(name), list(found.problems)
