"""A sandbox's place on the clipboard, and the orders to its worker.

A worker's report is an event of the crossing as it is.  An action has the content of
its items; the order on the channel names no sandbox, and its content is a sealed file
beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from broker.core.clipboard.types import names_of
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


async def order(worker: Orders, action: words.Order) -> None:
    """Send the worker the order for an action.

    Raises UpstreamError when it has ended.
    """
    match action:
        case words.AskTypes(_, transfer, host, primary, drag, drop):
            ask = messages.AskTypesMessage(transfer, host, primary, drag, drop)
            await worker.send(ask)
        case words.Read(_, transfer, name, most, host):
            await worker.send(messages.ReadType(transfer, name, most, host))
        case words.Rewrite(_, transfer, item, clean):
            rewrite = messages.RewriteMessage(
                transfer, item.kind, len(item.data), sorted(clean)
            )
            await _with_content(worker, rewrite, [item])
        case words.Offer():
            pieces = pieces_of(action.items)
            offer = messages.OfferMessage(
                action.transfer, pieces, action.primary, action.drop
            )
            await _with_content(worker, offer, action.items)
        case words.Export(_, transfer, press, items, mark):
            export = messages.ExportMessage(transfer, press, pieces_of(items), mark)
            await _with_content(worker, export, items)
        case words.Serve(_, number, item):
            serve = messages.ServeMessage(number, len(item.data))
            await _with_content(worker, serve, [item])
        case _:
            await worker.send(_plain(action))


def _plain(
    action: words.StopTransfer | words.Withdraw | words.AcceptDrag | words.EndDrag,
) -> ToWorker:
    """Return the order for an action that carries no content."""
    match action:
        case words.StopTransfer(_, transfer):
            return messages.StopRead(transfer)
        case words.Withdraw(_, transfer):
            return messages.WithdrawMessage(transfer)
        case words.AcceptDrag(_, number):
            return messages.AcceptDragMessage(number)
        case words.EndDrag(_, number, finished):
            return messages.EndDragMessage(number, finished)


def pieces_of(items: Sequence[words.Item]) -> list[messages.Piece]:
    """The place of each item, and the types under which it is offered."""
    return [messages.Piece(list(names_of(i.kind)), len(i.data)) for i in items]


async def _with_content(
    worker: Orders, message: ToWorker, items: Sequence[words.Item]
) -> None:
    """Send the worker a message with content in a sealed memory file."""
    fd = sealed(item.data for item in items)
    try:
        await worker.send(message, [fd])
    finally:
        os.close(fd)
