"""Files on their way out: which are sent, their bytes, a progress bar."""

from __future__ import annotations

import os
import stat
from typing import Any, Dict, Iterator, List, Tuple

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


def entries(walk: Walk) -> Iterator[bytes]:
    """Yield the bytes of all entries.

    A file that has become shorter breaks the transfer off, as its size was announced;
    one that has grown is cut there.
    """
    for inside, path, size in walk.found:
        if size < 0:
            yield frame({"type": "dir", "path": inside})
            continue
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as source:
            yield frame({"type": "file", "path": inside, "size": size})
            left = size
            while left:
                data = source.read(min(left, COPY_BYTES))
                if not data:
                    raise TransferError(f"{path} has become shorter while it was read")
                left -= len(data)
                yield data
    yield frame({"type": "end"})


def send_entries(connection: Connection, walk: Walk, *also: str) -> Dict[str, Any]:
    """Send all entries; returns the message at the end, ``done`` or one of these."""
    bar = Bar(walk.size)
    for data in entries(walk):
        connection.send(data)
        bar.add(len(data))
    bar.end()
    return connection.wait("done", *also)
