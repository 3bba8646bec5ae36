"""Messages out of one end of a connection, on a carrier that waits or one that queues.

Each process with a ``peer.Peer`` runs this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from broker.core.errors import InternalError, UpstreamError
from broker.wire.carrier import Carrier, QueueingCarrier
from broker.wire.row import ProcessKind


class Sender:
    """Sends the messages of both directions' calls; one at a time."""

    def __init__(
        self,
        carrier: Carrier,
        far: ProcessKind,
        lost_error: Callable[[], UpstreamError],
    ) -> None:
        """``lost_error`` returns the error of calls whose connection has ended."""
        self._carrier = carrier
        self._far = far
        self.lost_error = lost_error
        self.queue = carrier if isinstance(carrier, QueueingCarrier) else None
        self.turn = trio.Lock()
        """Held while a message is sent on a carrier that waits."""
        self.live = True
        """Whether calls can be made."""

    async def send_in_turn(self, data: bytes, fds: Sequence[int]) -> None:
        """Send a message; its caller holds ``turn``.  Raises UpstreamError."""
        try:
            await self._carrier.send(data, fds)
        except OSError as error:
            raise self.unsent(error) from error
        except trio.ClosedResourceError:
            raise self.lost_error() from None

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message that no caller waits for."""
        try:
            await self.send_or_fail(data, fds)
        except (OSError, UpstreamError):
            self.give_up_far_end()

    async def send_or_fail(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message.  Raises OSError and UpstreamError."""
        if self.queue is not None:
            self.queue.put(data)
            return
        try:
            async with self.turn:
                await self._carrier.send(data, fds)
        except trio.ClosedResourceError:
            # guard: this end's close is an error that its callers expect
            raise self.lost_error() from None

    def put(self, data: bytes) -> None:
        """Send or queue a message, on a carrier that queues.  Raises UpstreamError."""
        if self.queue is None:
            raise InternalError("a message is sent at once by a carrier that waits")
        self.queue.put(data)

    def give_up_far_end(self) -> None:
        """End a connection whose far end takes no messages."""
        # On a carrier that waits, the task that reads sees the far end's end.
        # guard: a far end that does not read its answers is given up
        if self.queue is not None:
            self.queue.close()

    def unsent(self, error: OSError) -> UpstreamError:
        """Return the error of a message that the kernel did not take."""
        return UpstreamError(
            f"cannot send to the {self._far}'s process: {error.strerror}",
            hint="check whether your programs keep too many descriptors in flight (docs/jails.md)",
        )
