"""The output of one program, on its way to the client of its run.

The guest sends no more than a window of it before the client has taken some
(``agent.Run.window``), so a program waits for a slow reader as it does at a pipe.
A guest that sends more all the same, because it is hostile or its connection was
renewed, loses the excess: nothing more than the window is held here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from broker.core import limits
from broker.ipc.control import api

_REPORTED = limits.AGENT_OUTPUT_WINDOW // 4
"""So much is taken before the guest is notified: not one message for each."""


class ProgramOutput:
    """A bounded queue; ``put`` by the guest's messages, ``pass_on`` to the client.

    ``taken`` is called with the part of the window that is free again.
    """

    def __init__(self, taken: Callable[[int], Awaitable[None]]) -> None:
        self._taken = taken
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._size = 0
        self._unreported = 0
        self._changed = trio.Event()
        self._ended = False
        self.lost = 0
        """Bytes beyond the window; the program's log has them."""

    def put(self, untrusted_data: bytes, stderr: bool) -> None:  # noqa: FBT001 -- a listener
        """Queue output of the guest's program; count it as lost over the window."""
        size = _counted(untrusted_data)
        # guard: a guest that exceeds the window fills no memory
        if self._ended or self._size + size > limits.AGENT_OUTPUT_WINDOW:
            self.lost += len(untrusted_data)
            return
        self._waiting.append((untrusted_data, stderr))
        self._size += size
        self._changed.set()

    def end(self) -> None:
        """Nothing follows; ``pass_on`` returns when all is passed on."""
        self._ended = True
        self._changed.set()

    async def pass_on(self, emit: api.Emit[api.RunItem]) -> None:
        """Send output as it arrives, at the client's pace, until ``end``."""
        while True:
            self._changed = trio.Event()
            await self.drain(emit)
            if self._ended:
                return
            await self._changed.wait()

    async def drain(self, emit: api.Emit[api.RunItem]) -> None:
        """Send queued output to the client, and report the taken bytes to the guest."""
        while self._waiting:
            data, stderr = self._waiting.popleft()
            # Counted until the client has taken the item before it.
            item = api.RunItem(stderr=data) if stderr else api.RunItem(output=data)
            await emit(item)
            self._size -= _counted(data)
            self._unreported += _counted(data)
            if self._unreported >= _REPORTED and not self._ended:
                count, self._unreported = self._unreported, 0
                await self._taken(count)


def _counted(data: bytes) -> int:
    return len(data) + limits.AGENT_OUTPUT_OVERHEAD
