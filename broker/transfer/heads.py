"""Looks at the beginning of each file of a transfer before any of it goes on.

Sans-IO: what ``EntryReader`` yields goes in, frames to pass on come out.
"""

from __future__ import annotations

from broker.transfer.contents import refuse_contents, refuse_disguise
from broker.transfer.entries import Entry, FileEntry, entry_frame

HEAD_BYTES = 512
"""The type is seen by then."""


class HeadCheck:
    """Checks names against contents.

    ``single``: the file is to be opened, which asks for more than a copy does.
    """

    def __init__(self, *, single: bool) -> None:
        self.single = single
        self._file: FileEntry | None = None
        self._head = b""

    @property
    def looking(self) -> bool:
        """Whether the rest of a head is awaited."""
        return self._file is not None

    def take(self, item: Entry | bytes) -> list[bytes]:
        """Return the frames to pass on now.  Raises RefusedError for a false name."""
        if isinstance(item, FileEntry):
            self._file, self._head = item, b""
        elif not isinstance(item, bytes):
            return [entry_frame(item)]
        elif self._file is None:
            return [item]
        else:
            self._head += item
        return self._passed(self._file)

    def _passed(self, file: FileEntry) -> list[bytes]:
        if len(self._head) < min(HEAD_BYTES, file.size):
            return []
        check = refuse_contents if self.single else refuse_disguise
        # guard: content looked at first
        check(file.path[-1], self._head)
        self._file = None
        return [entry_frame(file), self._head] if self._head else [entry_frame(file)]
