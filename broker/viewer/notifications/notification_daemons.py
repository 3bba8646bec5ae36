"""The connections of a sandbox's notification daemons, sorted by their numbers."""

from __future__ import annotations

import trio

from broker.core.errors import RefusedError
from broker.core.limits import notifications as limits
from broker.ipc.desktop import notification as messages


class NotificationStreams:
    """The connections of one sandbox's daemons, as its worker reports about them."""

    def __init__(self) -> None:
        self._put: dict[int, trio.MemorySendChannel[messages.FromWorker]] = {}
        self.lost = 0
        """Messages that came faster than they were decided."""

    def begin(self, stream: int) -> trio.MemoryReceiveChannel[messages.FromWorker]:
        """Take a connection's messages.  Raises RefusedError where there are many."""
        # guard: few notification daemons of a sandbox
        if len(self._put) >= limits.CONNECTIONS:
            raise RefusedError(f"{limits.CONNECTIONS} notification daemons are served")
        self._put[stream], taken = trio.open_memory_channel[messages.FromWorker](
            limits.QUEUE
        )
        return taken

    def end(self, stream: int) -> None:
        """Take no more of them."""
        if (put := self._put.pop(stream, None)) is not None:
            put.close()

    def take(self, message: messages.FromWorker) -> None:
        """Take a message of the worker; one about an ended connection is ignored."""
        put = self._put.get(message.stream)
        if put is None:
            return
        try:
            put.send_nowait(message)
        except trio.WouldBlock:
            self.lost += 1
        if isinstance(message, messages.NotificationStreamClosed):
            self.end(message.stream)

    def worker_gone(self) -> None:
        """All of its connections are over."""
        for stream in list(self._put):
            self.end(stream)
