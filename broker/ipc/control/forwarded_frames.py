"""Frames between the processes that forward calls of the control socket.

The authority and the owner of a method (host, viewer) encode and decode them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from broker.core.framing import FrameReader
from broker.ipc.control.forwarded import FRAME_BYTES
from broker.wire.memory import PAUSE_SECONDS, is_short_of_memory

_READ_BYTES = 65536
_PIECE = 4096
"""Bytes that a UNIX socket takes whole or not at all, so that they can be sent again."""
_LAST_SECONDS = 1.0
"""A far end that does not read delays the end of its channel no longer than this."""
_T = TypeVar("_T")
_R = TypeVar("_R")


class ForwardedFrames:
    """Frames on a stream; sending never waits, one task writes."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._queue, self._waiting = trio.open_memory_channel[bytes](math.inf)
        self._writing = trio.CancelScope(shield=True)

    def send(self, frame: bytes) -> None:
        """Queue a frame; the queue is bounded by the calls that are open."""
        with contextlib.suppress(trio.ClosedResourceError):  # after end()
            self._queue.send_nowait(frame)

    async def write(self) -> None:
        """Write the queue for as long as the far end takes it, until ``end``.

        No other cancellation ends it.
        """
        with (
            self._writing,
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):  # where it broke, reading ends, too
            async for frame in self._waiting:
                for at in range(0, len(frame), _PIECE):
                    await _patiently(self._stream.send_all, frame[at : at + _PIECE])

    def end(self) -> None:
        """Take no more frames; write those that wait, as many as are read in a second."""
        self._queue.close()
        self._writing.deadline = trio.current_time() + _LAST_SECONDS

    async def read(self, take: Callable[[bytes], None]) -> None:
        """Call ``take`` with each frame until the far end closes.  Raises PeerError."""
        reader = FrameReader(FRAME_BYTES)
        while True:
            try:
                data = await _patiently(self._stream.receive_some, _READ_BYTES)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            for frame in reader.feed(bytes(data)):
                take(frame)


async def _patiently(call: Callable[[_T], Awaitable[_R]], argument: _T) -> _R:
    """Call, and again after a pause as long as the kernel has no memory for it."""
    while True:
        try:
            return await call(argument)
        except trio.BrokenResourceError as error:
            # guard: a moment without memory does not end the control socket's channel
            cause = error.__cause__
            if not (isinstance(cause, OSError) and is_short_of_memory(cause)):
                raise
            await trio.sleep(PAUSE_SECONDS)
