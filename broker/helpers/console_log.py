"""Output of guests in two bounded files: a machine's console, what programs print.

The host keeps consoles, from QEMU's socket; the viewer what programs and services say.

The bytes are stored as they came; the code that shows them escapes them
(``core.escape``).  A guest that floods its console is held back: we read at a
bounded rate, the socket fills, and QEMU makes the guest wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from broker.core import limits


class ConsoleLog:
    """``NAME`` and, once that is full, ``NAME.1``, in a directory.

    A disk that is full loses console bytes, counted in ``lost``, and nothing
    else: a machine must not end because its log cannot be kept.
    """

    def __init__(
        self,
        directory: Path,
        limit: int = limits.LOG_BYTES,
        *,
        name: str = "console.log",
    ) -> None:
        self.path = directory / name
        self._limit = limit
        self._file: FileIO | None = None
        self._size = 0
        self._closed = False
        self.lost = 0
        with suppress(OSError):  # the next write tries again, and counts
            self._open()

    @property
    def older(self) -> Path:
        """The file before the last rotation, where there was one."""
        return self.path.with_name(f"{self.path.name}.1")

    def write(self, untrusted_data: bytes) -> None:
        """Append bytes to the bounded log files; counts lost ones, never raises."""
        left = len(untrusted_data)
        try:
            if not self._closed:
                for kept in self._keep(untrusted_data):
                    left -= kept
        except OSError:
            self._shut()  # a file half rotated is looked for again
        self.lost += left

    def _keep(self, untrusted_data: bytes) -> Iterator[int]:
        """Write and say how much, piece by piece."""
        while untrusted_data:
            file = self._file or self._open()
            if self._size >= self._limit:
                self._shut()
                self.path.replace(self.older)
                file = self._open()
            room = self._limit - self._size
            done = file.write(untrusted_data[:room]) or 0
            self._size += done
            untrusted_data = untrusted_data[done:]
            yield done

    def _open(self) -> FileIO:
        """Open the log's file, which is created if it is absent."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = _append(self.path)
        self._size = self._file.tell()
        return self._file

    def _shut(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def move(self, directory: Path) -> None:
        """Continue the log in another directory, with the bytes kept so far.

        Never raises.
        """
        old = self.path
        self._shut()
        self.path = directory / old.name
        try:
            data = old.read_bytes()
            old.unlink()
        except OSError:
            data = b""  # nothing was kept, which ``lost`` counts
        self.write(data)

    def close(self) -> None:
        """Close the file; it stays.  Later output is lost."""
        self._closed = True
        self._shut()


def _append(path: Path) -> FileIO:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = FileIO(os.open(path, flags, 0o600), "ab")
    file.seek(0, os.SEEK_END)
    return file
