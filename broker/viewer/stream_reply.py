"""What the opener of a stream at the viewer is told, and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from typing_extensions import override

from broker.core.errors import VitrailError
from broker.ipc.host_viewer import TaskStatus

Answer = Callable[[VitrailError | None], Awaitable[None]]
"""The result of an opening: None, it is taken; or why not.  Over a link
the other end waits for it, and sends nothing before; only the first one counts."""


async def no_waiter(answer: VitrailError | None) -> None:
    """Ignore the answer: if host and viewer are one, payload waits in the socket."""


class OpeningReply(trio.TaskStatus[None]):
    """The replies to a stream's opener, each sent once."""

    def __init__(self, outer: TaskStatus, answer: Answer) -> None:
        self._outer = outer
        self._answer = answer
        self._said = False
        self.taken = False

    @override
    def started(self, value: None = None) -> None:
        if not self.taken:
            self.taken = True
            self._outer.started(value)

    async def say(self) -> None:
        """Tell the opener, once, that the stream is accepted and that it may send."""
        if not self._said:
            self._said = True
            await self._answer(None)

    async def take(self) -> None:
        """Accept the stream before it is decided, and report it as started."""
        await self.say()
        self.started()
