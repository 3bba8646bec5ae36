"""Whether files of some directories may have changed since they were read.

The kernel's times of a file are as coarse as its clock tick: a second edit within one
tick leaves no trace in them.  So files that changed a moment before they were looked at
count as changed the next time, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

_SETTLED_NS = 2_000_000_000
"""Nanoseconds after which a change shows in a file's times, on any file system."""

_File = tuple[str, tuple[int, ...]]


def _facts(info: os.stat_result) -> tuple[int, ...]:
    return (
        *(info.st_dev, info.st_ino, info.st_mode, info.st_uid, info.st_gid),
        *(info.st_size, info.st_mtime_ns, info.st_ctime_ns),
    )


def _listed(directory: Path) -> list[_File]:
    """A directory and its files, as the kernel has them; an error is a fact, too."""
    try:
        found = [(str(directory), _facts(directory.stat()))]
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    found.append((entry.name, _facts(entry.stat())))
                except OSError as error:
                    found.append((entry.name, (error.errno or 0,)))
    except OSError as error:
        return [(str(directory), (error.errno or 0,))]
    return sorted(found)


class Stamp:
    """The state of all files in some directories, at one moment."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.files = [_listed(each) for each in directories]
        newest = max(
            (facts[-1] for files in self.files for _, facts in files), default=0
        )
        self.settled = time.time_ns() - newest > _SETTLED_NS

    def same(self, before: Stamp | None) -> bool:
        """Whether nothing has changed since ``before``, for certain."""
        # guard: a change within a clock tick is read
        if before is None or not before.settled:
            return False
        return self.files == before.files
