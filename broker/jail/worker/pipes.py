"""In the worker: pipes, of transfers between sandboxes and of pastes.

Bytes that need not be looked at go from the connection to the pipe, and from the
pipe to the connection, by splice(2): a page is moved, not copied into Python.
"""

from __future__ import annotations

import os
import socket
import stat

import trio

from broker.core.errors import PeerError, RefusedError
from broker.core.limits import transfer as limits
from broker.jail.transfer.entry_reader import EntryReader


async def write_pipe(pipe: int, data: bytes) -> None:
    """Write all bytes to a pipe.  Raises RefusedError when the receiver has gone."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(pipe, view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(pipe)
        except BrokenPipeError:
            raise RefusedError("the receiver cancelled the transfer") from None


async def read_pipe(pipe: int) -> bytes:
    """Read the available bytes, waiting for the first; empty at the end."""
    while True:
        try:
            return os.read(pipe, limits.TRANSFER_READ_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(pipe)


async def splice_file(reader: EntryReader, source: int, target: int, why: str) -> int:
    """Splice bytes of the current file between descriptors; return how many.

    Raises PeerError with ``why`` at the end of the source, RefusedError when the target
    has gone.
    """
    moved = await _splice(source, target, reader.left)
    if not moved:
        raise PeerError(why)
    reader.skip(moved)
    return moved


# Pasted content is spliced into the client's own descriptor. O_NONBLOCK is of the open
# file, which the client shares and may change at any time; a write could then wait, and
# with it the worker of its sandbox. So pipes are filled by splice(2) with
# SPLICE_F_NONBLOCK, and sockets by MSG_DONTWAIT, which hold for one call. The worker's
# jail allows splice(2) with exactly that flag; a thread for each paste would need
# system calls that it kills for.
async def _splice(source: int, target: int, size: int) -> int:
    """Move bytes between pipes in the kernel; return their number."""
    size = min(size, limits.TRANSFER_PIPE_BYTES)
    await trio.lowlevel.checkpoint()  # both ends may be ready for as long as it takes
    while True:
        for ready in (trio.lowlevel.wait_readable, trio.lowlevel.wait_writable):
            try:
                # guard: no more than the file has
                return os.splice(source, target, size, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                # EAGAIN does not tell which end is not ready: first wait for bytes,
                # then, if it still does not go, for room.
                readable = ready is trio.lowlevel.wait_readable
                await ready(source if readable else target)
            except BrokenPipeError:
                raise RefusedError("the receiver cancelled the transfer") from None


_PIECE_BYTES = 65536
"""The capacity of a new pipe (pipe(7))."""


class PipeWriter:
    """Writes to ``fd``, which another program shares, and never blocks.

    O_NONBLOCK belongs to the open file, not to the descriptor: a program that has
    the same end of a pipe switches it off whenever it likes, and a write(2) behind
    a poll(2) would wait for as long as it likes; chords and focus would be heard
    late.  splice(2) and send(2) have flags of their own for each call.  ``fd`` stays
    the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._out, self._in = -1, -1
        self.staged = 0
        """Bytes that were taken and are not in the pipe yet: call ``push``."""

    def take(self, data: bytes) -> int:
        """Write some of the bytes, at least one; return how many.

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
        """Close our descriptors."""
        if self._out >= 0:
            os.close(self._out)
            os.close(self._in)
            self._out = self._in = -1
