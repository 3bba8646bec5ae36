"""A pipe between two of our processes, and its ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from broker.core.limits import transfer as limits


class PipeEnd:
    """A descriptor that is closed once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor; -1 when it is closed."""
        return self._fd

    def detach(self) -> int:
        """Give it away."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the pipe, if it is still ours."""
        if self._fd >= 0:
            os.close(self.detach())


@contextmanager
def pipe() -> Iterator[tuple[PipeEnd, PipeEnd]]:
    """Make a pipe; yields the end to read from and the one to write to."""
    read, write = os.pipe2(os.O_CLOEXEC)
    ends = PipeEnd(read), PipeEnd(write)
    # Beyond the user's allowance (pipe(7)) it stays as small as it is.
    with suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, limits.TRANSFER_PIPE_BYTES)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()
