"""Orders for a worker, from actions of the crossing."""

from __future__ import annotations

import os

from broker.core.clipboard.types import TEXT_NAMES
from broker.ipc import clipboard as c
from broker.ipc import sealed_memfd
from broker.viewer.clipboard import clipboard_member
from broker.viewer.clipboard.exchange import messages
from broker.viewer.clipboard.exchange.content import pieces_of


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
    pieces = pieces_of(items)
    assert pieces == [c.Piece(list(TEXT_NAMES), 5), c.Piece(["image/png"], 3)]
    for order in (
        messages.WorkerOrder("work", c.ReadType(2, "TEXT", 9)),
        messages.WorkerOrder("work", c.Offer(3, pieces), items),
        messages.WorkerOrder(
            "work", c.Rewrite(5, "image/png", 3, ["images"]), items[1:]
        ),
    ):
        await clipboard_member.send_order(told, order)
    assert told.orders == [
        c.ReadType(2, "TEXT", 9),
        c.Offer(3, pieces),
        c.Rewrite(5, "image/png", 3, ["images"]),
    ]
    assert told.contents == [b"hellopng", b"png"]


def test_content_is_in_no_text():
    assert "hello" not in repr(messages.CheckedContent(2, b"hello"))
