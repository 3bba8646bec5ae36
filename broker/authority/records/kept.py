"""Copies of the last good records, for a broker that starts while one has a mistake.

A running sandbox outlives a broker that was killed; a typo in its record must not
cost it its windows then either.  A copy is the text that is in force, under its own
name; a record that inherits finds its base beside it.  (A user who may write
here may write the records too.)
"""

from __future__ import annotations

from pathlib import Path

from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths
from policy.records.loader import SUFFIX, load_records, with_last_good
from policy.records.model import RecordSet


def folder_of(paths: Paths) -> Path:
    """Where the copies are."""
    return paths.state / "policy" / "records"


def mended(read: RecordSet, paths: Paths) -> RecordSet:
    """Return the read records, with the kept record where one is broken."""
    if not read.broken:
        return read
    return with_last_good(read, load_records([folder_of(paths)]))


def keep_records(found: RecordSet, paths: Paths) -> None:
    """Copy the good records, and remove copies of removed ones.  Raises OSError."""
    folder = folder_of(paths)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, record in found.records.items():
        if record.source.parent == folder:
            continue  # this is a copy
        # guard: a kept record is the one in force
        _write(folder / f"{name}{SUFFIX}", record.text.encode())
    for path in folder.glob(f"*{SUFFIX}"):
        if path.name.removesuffix(SUFFIX) not in found.records:
            path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    """Replace a file, unless it has this content already."""
    if path.is_file() and path.read_bytes() == content:
        return
    replace_file(path, content)
