"""A copy of the records in force, for a process that neither decides nor records.

The authority says which records are in force, by their digest; the files are read
here, with the last good content of those that have a mistake.
"""

from __future__ import annotations

from pathlib import Path

from broker.authority.records.kept import folder_of, mended
from broker.core.paths import Paths
from broker.core.stderr_log import log_stderr
from policy.records.loader import RecordSet, load_records, search_path, with_last_good


class RecordFiles:
    """See the head of this module."""

    def __init__(self, paths: Paths, shipped: Path | None) -> None:
        self._paths = paths
        self._shipped = shipped
        self.now = mended(self._read(), paths)
        """The copy."""

    def _read(self) -> RecordSet:
        directories = search_path(self._paths.runtime, self._paths.config)
        return load_records(directories, shipped=self._shipped)

    def follow(self, digest: str) -> None:
        """Read the files again; take the set that has this digest.

        Where there is none, as a file has changed again since, the copy stays as it
        is until the authority has read that too.
        """
        read = self._read()
        for last_good in (self.now, load_records([folder_of(self._paths)])):
            found = with_last_good(read, last_good)
            # guard: a copy of the records is the set in force
            if found.digest == digest:
                self.now = found
                return
        if self.now.digest != digest:
            log_stderr("vitrail: the records have changed again; the old copy is used")
