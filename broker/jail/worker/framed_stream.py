"""In the worker: the messages of a connection of the sandbox, read and written in time."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from broker.core.errors import PeerError
from broker.core.framing import FrameReader

_READ_BYTES = 1 << 14


class FramedStream:
    """A socket that is read, and written, by one task at a time."""

    def __init__(
        self,
        sock: trio.socket.SocketType,
        frames: FrameReader,
        seconds: float,
        moved: Callable[[int, int], None],
    ) -> None:
        """``seconds``: within which a begun message ends, and one of ours is read.

        ``moved`` counts bytes in and out.
        """
        self._sock = sock
        self._frames = frames
        self._seconds = seconds
        self._moved = moved
        self._ready: list[bytes] = []

    async def receive(self) -> bytes:
        """Return the next message.  Raises PeerError at the end, or where it stalls."""
        while not self._ready:
            # guard: a message of a sandbox's program is sent whole in time
            within = self._seconds if self._frames.in_frame else math.inf
            with trio.move_on_after(within) as patience:
                untrusted_data = await self._sock.recv(_READ_BYTES)
            if patience.cancelled_caught:
                raise PeerError("a message of it does not end")
            if not untrusted_data:
                raise PeerError("it has closed the connection")
            self._moved(len(untrusted_data), 0)
            self._ready = self._frames.feed(untrusted_data)
        return self._ready.pop(0)

    async def send(self, data: bytes) -> None:
        """Write a message.  Raises PeerError where the program does not read it."""
        left = memoryview(data)
        with trio.move_on_after(self._seconds) as patience:
            while left:
                sent = await self._sock.send(left)
                self._moved(0, sent)
                left = left[sent:]
        if patience.cancelled_caught:
            raise PeerError("it does not read")
