"""Messages about the clipboard: what a worker may say, and no more."""

from __future__ import annotations

import msgspec
import pytest

from broker.core.errors import PeerError
from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as limits
from broker.ipc import clipboard as c
from broker.ipc import worker

PIECE = c.Piece(["text/plain"], 5)
FROM_WORKER = [
    c.ClipboardFocus(taken=True),
    c.ChordPressed(3, paste=False),
    c.ChordTroubleMessage("no keymap"),
    c.ClipboardTypes(1, ["text/plain", "TEXT"]),
    c.ClipboardData(1, 5),
    c.ClipboardLarge(1),
    c.ClipboardFailed(1, "it died"),
    c.OfferEnded(2),
    c.OfferRefused(2, "no picture"),
    c.Exported(3, "not taken"),
    c.ExportEnded(3),
    c.ForeignDrag(),
]
TO_WORKER = [
    c.ChordsMessage("Super+Shift+C", "Super+Shift+V"),
    c.AskTypes(1, host=True),
    c.ReadType(1, "text/plain", 64_000),
    c.StopRead(1),
    c.Rewrite(2, "image/png", 9, ["images"]),
    c.Offer(2, [PIECE], primary=True),
    c.Withdraw(2),
    c.Export(3, 9, [PIECE], "application/x-mark"),
]


LONG = "t" * limits.WAYLAND_MIME_BYTES
MOST = clipboard_limits.CLIPBOARD_BYTES_MOST


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (
            c.ClipboardTypes(1, ["t"] * limits.WAYLAND_MIMES),
            c.ClipboardTypes(1, ["t"] * (limits.WAYLAND_MIMES + 1)),
        ),
        (c.ClipboardTypes(1, [LONG]), c.ClipboardTypes(1, [LONG + "t"])),
        (c.ClipboardData(1, MOST), c.ClipboardData(1, MOST + 1)),
        (c.ClipboardFailed(1, "r" * 4000), c.ClipboardFailed(1, "r" * 4001)),
        (c.ChordPressed(0, paste=True), c.ChordPressed(-1, paste=True)),
    ],
    ids=["types", "length of a type", "size", "reason", "number"],
)
def test_a_worker_may_say_so_much_and_no_more(good, bad):
    assert worker.decode_from_worker(worker.encode(good)) == good
    with pytest.raises(PeerError):
        worker.decode_from_worker(msgspec.msgpack.encode(bad))


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda m: type(m).__name__)
def test_a_worker_gives_no_orders(message):
    with pytest.raises(PeerError):
        worker.decode_from_worker(worker.encode(message))


def test_the_largest_list_of_types_fits_into_a_message():
    every = ["\u20ac" * limits.WAYLAND_MIME_BYTES] * limits.WAYLAND_MIMES
    worker.encode(c.ClipboardTypes(1 << 62, every))
