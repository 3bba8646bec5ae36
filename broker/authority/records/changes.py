"""Whether files of some directories may have changed since they were read.

The kernel's times of a file are as coarse as its clock tick: a second edit within one
tick leaves no trace in them.  So files that changed a moment before they were looked at
count as changed the next time, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from broker.authority.file_watch import look
from broker.core import limits

_SETTLED_NS = 2_000_000_000
"""Nanoseconds after which a change shows in a file's times, on any file system."""


class Stamp:
    """The state of all files in some directories, at one moment."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.files = look(directories)
        newest = max((facts[-1] for _, facts in self.files if facts), default=0)
        # guard: files beyond the limit of a look count as changed
        known = len(self.files) < limits.RULES_LOOKED_AT
        self.settled = known and time.time_ns() - newest > _SETTLED_NS

    def same(self, before: Stamp | None) -> bool:
        """Return whether nothing has changed since ``before``, for certain."""
        # guard: a change within a clock tick is read
        if before is None or not before.settled:
            return False
        return self.files == before.files
