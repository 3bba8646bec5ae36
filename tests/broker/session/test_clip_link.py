"""Words of the crossing and messages of a worker mean the same."""

from __future__ import annotations

import os

import pytest

from broker.clipboard import words
from broker.clipboard.types import TEXT_NAMES
from broker.core import worker_clipboard as c
from broker.session import clip_link, sealed


class Told:
    """A worker that keeps its orders, and what came with them."""

    def __init__(self):
        self.orders, self.contents = [], []

    async def send(self, message, fds=()):
        self.orders.append(message)
        for fd in fds:
            self.contents.append(await sealed.take(fd, os.fstat(fd).st_size))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (c.ClipboardFocus(taken=True), [words.FocusTaken("work")]),
        (c.ClipboardFocus(taken=False), [words.FocusGone("work")]),
        (c.ClipboardTypes(1, ["a/b"]), [words.TypesTold("work", 1, ("a/b",))]),
        (
            clip_link.Content(2, b"hello"),
            [words.DataCame("work", 2, b"hello"), words.DataEnded("work", 2)],
        ),
        (c.ClipboardLarge(2), [words.DataTooLarge("work", 2)]),
        (c.ClipboardFailed(2, "it died"), [words.SourceFailed("work", 2, "it died")]),
        (c.OfferEnded(3), [words.OfferEnded("work", 3)]),
        (
            c.OfferRefused(3, "no\x1bpicture"),
            [words.OfferRefused("work", 3, "no\\x1bpicture")],
        ),
        (c.Exported(4, "no echo"), [words.Exported("work", 4, "no echo")]),
        (c.ExportEnded(4), [words.ExportEnded("work", 4)]),
        (c.ForeignDrag(), [words.ForeignDrag("work")]),
        (c.ChordPressed(1, paste=True), []),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_a_worker_says_is_about_its_own_sandbox(said, meant):
    assert list(clip_link.events_of("work", said)) == meant


async def test_orders_and_what_comes_with_them():
    told = Told()
    items = (words.Item("text/plain", b"hello"), words.Item("image/png", b"png"))
    await clip_link.order(told, words.AskTypes("work", 1, host=True))
    await clip_link.order(told, words.Read("work", 2, "TEXT", 9))
    await clip_link.order(told, words.Stop("work", 2))
    await clip_link.order(told, words.Offer("work", 3, "red", items, 9.0))
    await clip_link.order(told, words.Withdraw("work", 3))
    mark = "application/x-mark"
    await clip_link.order(told, words.Export("work", 4, 7, items, mark))
    clean = frozenset({"images", "controls"})
    await clip_link.order(told, words.Rewrite("work", 5, items[1], clean))
    pieces = [c.Piece(list(TEXT_NAMES), 5), c.Piece(["image/png"], 3)]
    assert told.orders == [
        c.AskTypes(1, host=True),
        c.ReadType(2, "TEXT", 9),
        c.StopRead(2),
        c.Offer(3, pieces),
        c.Withdraw(3),
        c.Export(4, 7, pieces, mark),
        c.Rewrite(5, "image/png", 3, ["controls", "images"]),
    ]
    assert told.contents == [b"hellopng", b"hellopng", b"png"]


def test_content_is_in_no_text():
    assert "hello" not in repr(clip_link.Content(2, b"hello"))
