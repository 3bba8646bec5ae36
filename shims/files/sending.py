"""Files on their way out: which are sent, their bytes, a progress bar."""

from __future__ import annotations

import os
import stat
from typing import (
    Any,
    BinaryIO,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Tuple,
    Union,
)

from shims.files.connection import Connection
from shims.files.progress import Bar
from shims.files.protocol import COPY_BYTES, DEPTH, TransferError, frame


class Walk:
    """Files and directories to be sent, in order; links and devices are left out."""

    def __init__(self, paths: List[str]) -> None:
        self.found: List[Tuple[List[str], str, int]] = []
        """Path in the transfer, path here, size; size -1 for a directory."""
        self.left_out = 0
        for path in paths:
            name = os.path.basename(os.path.abspath(path))
            if not os.path.lexists(path):
                raise TransferError(f"there is no {path}")
            # A named path may be a link; an entry found below it may not.
            self._add([name], os.path.realpath(path))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(max(size, 0) for _, _, size in self.found)

    def _add(self, inside: List[str], path: str) -> None:
        try:
            facts = os.lstat(path)
        except OSError:
            self.left_out += 1
            return
        if stat.S_ISREG(facts.st_mode):
            self.found.append((inside, path, facts.st_size))
        elif stat.S_ISDIR(facts.st_mode) and len(inside) < DEPTH:
            self.found.append((inside, path, -1))
            for name in sorted(os.listdir(path)):
                self._add([*inside, name], os.path.join(path, name))
        else:
            self.left_out += 1


class Content(NamedTuple):
    """The content of a file that follows its entry."""

    fd: int
    """Open until the next part is asked for."""
    path: str
    size: int

    def take(self, step: Callable[[int, int], int]) -> Iterator[int]:
        """Pass it on by ``step``; yields each number of bytes.

        ``step`` takes the descriptor and a maximum, and returns the number of bytes
        that it has taken, 0 at the file's end.  A file that has become shorter breaks
        the transfer off, as its size was announced; one that has grown is cut there.
        """
        left = self.size
        while left:
            taken = step(self.fd, left)
            if not taken:
                raise TransferError(f"{self.path} has become shorter while it was read")
            left -= taken
            yield taken


def _parts(walk: Walk) -> Iterator[Union[bytes, Content]]:
    for inside, path, size in walk.found:
        if size < 0:
            yield frame({"type": "dir", "path": inside})
            continue
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield frame({"type": "file", "path": inside, "size": size})
            yield Content(fd, path, size)
        finally:
            os.close(fd)
    yield frame({"type": "end"})


def write_entries(walk: Walk, out: BinaryIO) -> None:
    """Write all entries to a file or a pipe.  Raises OSError, TransferError."""

    def step(fd: int, most: int) -> int:
        data = os.read(fd, min(most, COPY_BYTES))
        out.write(data)
        return len(data)

    for part in _parts(walk):
        if isinstance(part, bytes):
            out.write(part)
        else:
            for _ in part.take(step):
                pass
    out.flush()


def send_entries(connection: Connection, walk: Walk, *also: str) -> Dict[str, Any]:
    """Send all entries; returns the message at the end, ``done`` or one of these."""
    bar = Bar(walk.size)
    for part in _parts(walk):
        if isinstance(part, bytes):
            connection.send(part)
        else:
            for sent in part.take(connection.send_file):
                bar.add(sent)
    bar.end()
    return connection.wait("done", *also)
