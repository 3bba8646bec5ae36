"""Between ``clipboard.messages`` and ``ipc.clipboard``, the messages of a worker.

A worker's message becomes an event of its sandbox, by whose channel it
came; an action becomes an order.

The two sets have structs of similar names and differ on purpose.  A message on the
channel names no sandbox, so that a worker cannot speak for another, and its content
is a sealed file beside it.  An event names the sandbox, and has the terms of the
record and bytes that were checked.  Here is the one place between them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from broker.core.clipboard.types import names_of
from broker.core.escape import printable
from broker.ipc import clipboard as messages
from broker.ipc.sealed_memfd import sealed
from broker.ipc.worker import ToWorker
from broker.viewer.clipboard.exchange import messages as words

DEFAULT_CHORDS = messages.ChordsMessage("Super+Shift+C", "Super+Shift+V")


@dataclass(frozen=True, slots=True)
class CheckedContent:
    """ClipboardData whose file was checked and read.  Not in ``repr``."""

    transfer: int
    untrusted_data: bytes = field(repr=False)


Said: TypeAlias = messages.Report | CheckedContent
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


def event_of(sandbox: str, said: Said) -> words.Event | None:
    """Return the message's event for the crossing.

    None for what carries the session's terms (``words.CopyTerms``): a chord,
    a drag over a window, or one that is dropped or asked for; and for what the crossing has
    no word for.
    """
    match said:
        case messages.ClipboardFocus(taken):
            return words.FocusTaken(sandbox) if taken else words.FocusGone(sandbox)
        case messages.ClipboardTypes(transfer, types):
            return words.TypesTold(sandbox, transfer, tuple(types))
        case CheckedContent(transfer, data):
            return words.DataCame(sandbox, transfer, data)
        case messages.ClipboardLarge(transfer):
            return words.DataTooLarge(sandbox, transfer)
        case messages.ClipboardFailed(transfer, reason):
            return words.SourceFailed(sandbox, transfer, printable(reason, 200))
        case _:
            return _later(sandbox, said)


def _later(sandbox: str, said: Said) -> words.Event | None:
    """Convert a worker's message on offers, exports and drags to an event."""
    match said:
        case messages.OfferEndedMessage(transfer):
            return words.OfferEnded(sandbox, transfer)
        case messages.OfferRefusedMessage(transfer, reason):
            return words.OfferRefused(sandbox, transfer, printable(reason, 200))
        case messages.ExportedMessage(transfer, problem):
            return words.Exported(sandbox, transfer, printable(problem, 200))
        case messages.ExportEndedMessage(transfer):
            return words.ExportEnded(sandbox, transfer)
        case messages.ForeignDragMessage():
            return words.ForeignDrag(sandbox)
        case messages.DragStartedMessage(mark):
            return words.DragStarted(sandbox, mark)
        case messages.DragPerformedMessage(mark):
            return words.DragPerformed(sandbox, mark)
        case messages.DragEndedMessage(mark):
            return words.DragEnded(sandbox, mark)
        case _:
            return None


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
