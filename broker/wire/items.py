"""The items of a call, read one by one.

Each process with a ``peer.Peer`` runs this.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from broker.wire.pending_call import PendingCall

if TYPE_CHECKING:
    from broker.wire.peer import Peer

_A = TypeVar("_A")


class ItemStream(Generic[_A]):
    """Iterates over a call's items; of a paced row one is on its way at a time."""

    pending: PendingCall

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sender, self._receiver = trio.open_memory_channel[Any](math.inf)
        self._is_due = False

    def take(self, item: object) -> None:
        """Keep an item that has come."""
        self._sender.send_nowait(item)

    def end(self) -> None:
        """Note that no item will come."""
        self._sender.close()

    def __aiter__(self) -> ItemStream[_A]:
        """Return the items."""
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 -- of the row's type
        """Return the next item, having asked for it once the one before was handled."""
        if self._is_due:
            self._peer.take_item(self.pending)
        self._is_due = True
        try:
            return await self._receiver.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def answer(self) -> _A:
        """Wait for the call's answer, and return it.  Raises as ``Peer.call``."""
        answer: _A = (await self._peer.finish(self.pending)).value
        return answer
