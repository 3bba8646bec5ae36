"""A sandbox's place on the clipboard, and the orders to its worker.

A worker's report is an event of the crossing as it is, and an order of the crossing is
the worker's message.  Content is beside it: items there, a sealed file on the channel.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from broker.ipc import clipboard as messages
from broker.ipc.sealed_memfd import sealed
from broker.ipc.worker import ToWorker
from broker.viewer.clipboard.exchange import messages as words

DEFAULT_CHORDS = messages.ChordsMessage("Super+Shift+C", "Super+Shift+V")


Said: TypeAlias = messages.Report | words.CheckedContent
"""A worker's messages about the clipboard, as its owner receives them."""


class Orders(Protocol):
    """A worker, as far as this needs it."""

    async def send(self, message: ToWorker, fds: Sequence[int] = ()) -> None:
        """Give an order."""


class ClipboardMember:
    """A sandbox's connection to the clipboard.  This base class ignores everything."""

    def chords(self) -> messages.ChordsMessage:
        """Return the chords that its windows recognise: by these, nothing happens."""
        return DEFAULT_CHORDS

    async def tell_drags(self, worker: Orders) -> None:
        """Tell a worker that has begun which of its drags may cross: none."""
        await worker.send(messages.DragsMessage(cross=False, outward=[]))

    async def take(self, said: Said) -> None:
        """Its worker says something, to no listener."""

    async def gone(self) -> None:
        """Its worker has ended."""


async def send_order(worker: Orders, order: words.WorkerOrder) -> None:
    """Send the worker an order, with its content in a sealed memory file.

    Raises UpstreamError when it has ended.
    """
    if not order.items:
        await worker.send(order.message)
        return
    fd = sealed(item.data for item in order.items)
    try:
        await worker.send(order.message, [fd])
    finally:
        os.close(fd)
