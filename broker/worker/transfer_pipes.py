"""In the worker: the pipe between the workers of a transfer's two sandboxes.

Bytes that need not be looked at go from the connection to the pipe, and from the
pipe to the connection, by splice(2): a page is moved, not copied into Python.
"""

from __future__ import annotations

import os

import trio

from broker.core import limits
from broker.core.errors import PeerError, RefusedError
from broker.transfer.entries import EntryReader


async def write_pipe(pipe: int, data: bytes) -> None:
    """Write all of it.  Raises RefusedError when the receiver has gone."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(pipe, view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(pipe)
        except BrokenPipeError:
            raise RefusedError("the receiver broke it off") from None


async def read_pipe(pipe: int) -> bytes:
    """Read what is there, waiting for the first byte; empty at the end."""
    while True:
        try:
            return os.read(pipe, limits.TRANSFER_READ_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(pipe)


async def splice_file(reader: EntryReader, source: int, target: int, why: str) -> int:
    """Pass bytes of the current file from one descriptor to another; returns how many.

    Raises PeerError with ``why`` at the end of the source, RefusedError when the target
    has gone.
    """
    moved = await _splice(source, target, reader.left)
    if not moved:
        raise PeerError(why)
    reader.skip(moved)
    return moved


async def _splice(source: int, target: int, size: int) -> int:
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
                raise RefusedError("the receiver broke it off") from None
