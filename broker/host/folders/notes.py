"""The folders that are mounted in sandboxes, on disk for the broker after a crash."""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError
from broker.core.files.replace_file import replace_file
from broker.core.stderr_log import log_exception
from broker.helpers.process.identity import start_time

Numbers = dict[str, int | None]
"""Each folder's name, and the kernel's number of its mount, once it is there."""


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """What one sandbox has.  A later sandbox of its name has another first process."""

    pid: int
    start: int
    mounts: Numbers


class FolderNotes:
    """A file for each sandbox that has folders."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._notes: dict[str, _Note] = {}

    def write(self, sandbox: str, pid: int, name: str, number: int | None) -> None:
        """Write a note about a folder to disk, before it is mounted and after.

        ``pid``: the sandbox's first process.  Raises OSError, and RefusedError where it
        has ended.
        """
        note = self._notes.get(sandbox)
        start = _start(pid)
        if note is None or (note.pid, note.start) != (pid, start):
            note = self._notes[sandbox] = _Note(pid, start, {})
        note.mounts[name] = number
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._save(sandbox, note)

    def remove(self, sandbox: str, name: str) -> None:
        """Remove the note about a folder that is no longer mounted."""
        note = self._notes.get(sandbox)
        if note is None:
            return
        note.mounts.pop(name, None)
        try:
            if note.mounts:
                self._save(sandbox, note)
            else:
                self.clear(sandbox)
        except OSError as error:  # a folder too many in it makes nothing worse
            log_exception(error)

    def _save(self, sandbox: str, note: _Note) -> None:
        replace_file(self._directory / sandbox, msgspec.json.encode(note))

    def left(self, sandbox: str, pid: int) -> Numbers | None:
        """Return the folders that an earlier broker has left in this very sandbox.

        None if that is not known, because the file was cut off.
        """
        try:
            data = (self._directory / sandbox).read_bytes()
            note = msgspec.json.decode(data, type=_Note)
        except FileNotFoundError:
            return {}
        except (OSError, *UNREADABLE) as error:
            log_exception(error)
            return None
        # guard: a sandbox answers for its own folders
        return note.mounts if (note.pid, note.start) == (pid, _start(pid)) else {}

    def clear(self, sandbox: str) -> None:
        """Forget all of a sandbox's folders.  Raises OSError."""
        self._notes.pop(sandbox, None)
        (self._directory / sandbox).unlink(missing_ok=True)


def _start(pid: int) -> int:
    try:
        return start_time(pid)
    except OSError as error:
        raise RefusedError("the sandbox is no longer running") from error
