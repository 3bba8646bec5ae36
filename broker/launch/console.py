"""A guest's serial console: from QEMU's socket into two bounded files.

The bytes are stored as they came; whoever shows them escapes them
(``core.escape``).  A guest that floods its console is held back: we read at a
bounded rate, the socket fills, and QEMU makes the guest wait.
"""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

import trio

from broker.core import limits

_CHUNK = 4096


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
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / name
        self._limit = limit
        self._file = _append(self.path)
        self._size = self._file.tell()
        self._tail = b""
        self._grown = trio.Event()
        self.lost = 0

    @property
    def older(self) -> Path:
        """The file before the last rotation, where there was one."""
        return self.path.with_name(f"{self.path.name}.1")

    def write(self, untrusted_data: bytes) -> None:
        """Keep these bytes; never raises."""
        self._tail = (self._tail + untrusted_data)[-_CHUNK:]
        try:
            self._keep(untrusted_data)
        except OSError:
            self.lost += len(untrusted_data)
        self._grown.set()
        self._grown = trio.Event()

    def _keep(self, untrusted_data: bytes) -> None:
        while untrusted_data:
            if self._size >= self._limit:
                self._rotate()
            room = self._limit - self._size
            done = self._file.write(untrusted_data[:room]) or 0
            self._size += done
            untrusted_data = untrusted_data[done:]

    def _rotate(self) -> None:
        self.path.replace(self.older)
        fresh = _append(self.path)
        self._file.close()
        self._file = fresh
        self._size = fresh.tell()

    async def wait_for(self, needle: bytes) -> None:
        """Wait until the last 4 KiB hold ``needle`` (no proof of anything)."""
        while needle not in self._tail:
            await self._grown.wait()

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()


def _append(path: Path) -> FileIO:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = FileIO(os.open(path, flags, 0o600), "ab")
    file.seek(0, os.SEEK_END)
    return file


async def pump_console(stream: trio.abc.ReceiveStream, log: ConsoleLog) -> None:
    """Copy the console into the log until QEMU closes it."""
    async with stream:
        while True:
            try:
                untrusted_data = await stream.receive_some(_CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not untrusted_data:
                return
            log.write(bytes(untrusted_data))
            await trio.sleep(len(untrusted_data) / limits.CONSOLE_BYTES_PER_SECOND)
