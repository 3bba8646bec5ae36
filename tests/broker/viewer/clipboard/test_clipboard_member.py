"""Orders for a worker, from actions of the crossing."""

from __future__ import annotations

import os

from broker.core.clipboard.types import TEXT_NAMES
from broker.ipc import clipboard as c
from broker.ipc import sealed_memfd
from broker.viewer.clipboard import clipboard_member
from broker.viewer.clipboard.exchange import messages


class Told:
    """A worker that keeps its orders and their descriptors."""

    def __init__(self):
        self.orders, self.contents = [], []

    async def send(self, message, fds=()):
        self.orders.append(message)
        for fd in fds:
            self.contents.append(await sealed_memfd.take(fd, os.fstat(fd).st_size))


async def test_orders_and_their_descriptors():
    told = Told()
    items = (messages.Item("text/plain", b"hello"), messages.Item("image/png", b"png"))
    await clipboard_member.order(told, messages.AskTypes("work", 1, host=True))
    await clipboard_member.order(told, messages.Read("work", 2, "TEXT", 9))
    await clipboard_member.order(told, messages.StopTransfer("work", 2))
    await clipboard_member.order(told, messages.Offer("work", 3, "red", items, 9.0))
    await clipboard_member.order(told, messages.Withdraw("work", 3))
    mark = "application/x-mark"
    await clipboard_member.order(told, messages.Export("work", 4, 7, items, mark))
    clean = frozenset({"images", "controls"})
    await clipboard_member.order(told, messages.Rewrite("work", 5, items[1], clean))
    pieces = [c.Piece(list(TEXT_NAMES), 5), c.Piece(["image/png"], 3)]
    assert told.orders == [
        c.AskTypesMessage(1, host=True),
        c.ReadType(2, "TEXT", 9),
        c.StopRead(2),
        c.OfferMessage(3, pieces),
        c.WithdrawMessage(3),
        c.ExportMessage(4, 7, pieces, mark),
        c.RewriteMessage(5, "image/png", 3, ["controls", "images"]),
    ]
    assert told.contents == [b"hellopng", b"hellopng", b"png"]


def test_content_is_in_no_text():
    assert "hello" not in repr(messages.CheckedContent(2, b"hello"))
