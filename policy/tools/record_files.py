"""Records in files that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policy.errors import Problem
from policy.records.loader import CollectedRecords
from policy.records.model import Record, RecordSet


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
