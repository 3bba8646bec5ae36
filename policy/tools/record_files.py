"""Records in files that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policy.records.loader import CollectedRecords
from policy.records.model import RecordSet


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
