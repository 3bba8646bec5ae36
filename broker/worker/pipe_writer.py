"""Writing to a descriptor that another program shares, without ever blocking.

O_NONBLOCK belongs to the open file, not to the descriptor: a program that holds
the same end of a pipe switches it off whenever it likes, and a write(2) behind a
poll(2) then waits for as long as it likes.  The worker hears nothing meanwhile,
so chords and focus would come late.  splice(2) and send(2) have flags of their
own for each call.
"""

from __future__ import annotations

import os
import socket
import stat

_PIECE_BYTES = 65536
"""The capacity of a new pipe (pipe(7))."""


class PipeWriter:
    """Writes to ``fd``, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._out, self._in = -1, -1
        self.staged = 0
        """Bytes that were taken and are not in the pipe yet: call ``push``."""

    def take(self, data: bytes) -> int:
        """Take some of the bytes, at least one; returns how many.

        Only with nothing staged.  Raises BlockingIOError when the far end takes
        none, OSError when it has gone.
        """
        if not self._pipe:
            with socket.socket(fileno=os.dup(self._fd)) as out:
                return out.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._out < 0:
            self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        count = os.write(self._in, data[:_PIECE_BYTES])
        self.staged = count
        return count

    def push(self) -> None:
        """Move staged bytes on.  Raises BlockingIOError, OSError as ``take``."""
        # guard: a shared pipe cannot block the worker
        done = os.splice(self._out, self._fd, self.staged, flags=os.SPLICE_F_NONBLOCK)
        self.staged -= done

    def close(self) -> None:
        """Close what is ours."""
        if self._out >= 0:
            os.close(self._out)
            os.close(self._in)
            self._out = self._in = -1
