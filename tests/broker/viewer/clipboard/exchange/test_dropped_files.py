"""The user's own files, dragged over a sandbox's window: the worker reads a key alone."""

from __future__ import annotations

import pytest

from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from tests.broker.viewer.clipboard.exchange.test_drags import Desk

KEY = "application/vnd.portal.filetransfer"
TERMS = w.CopyTerms((), limits.CLIPBOARD_FILE_KEY_BYTES, files=True)
NAMES = ("text/uri-list", "text/plain;charset=utf-8")


def drop(*types: str) -> Desk:
    """Files of these types are dropped on a window of "work"."""
    desk = Desk()
    desk.say(("work", w.DragOver(1, "", TERMS)), ("work", ipc.DragDropped(1)))
    (ask,) = desk.last(ipc.AskTypes)
    assert ask == w.WorkerOrder("work", ipc.AskTypes(1, host=True, drop=1))
    desk.say(("work", ipc.ClipboardTypes(1, types)))
    return desk


def read(desk: Desk, data: bytes) -> None:
    """The worker has read the key."""
    (order,) = desk.last(ipc.ReadType)
    desk.say(("work", w.CheckedContent(order.message.transfer, data)))


def test_of_dropped_files_the_key_is_read_and_carried_once():
    desk = drop(*NAMES, KEY)
    (order,) = desk.last(ipc.ReadType)
    assert order.message.name == KEY
    assert order.message.max_bytes == limits.CLIPBOARD_FILE_KEY_BYTES
    read(desk, b"123456789\0")
    assert desk.last(w.CarryDropped) == [w.CarryDropped("work", "123456789")]
    assert desk.last(ipc.EndDrag) == [w.WorkerOrder("work", ipc.EndDrag(1, True))]
    assert desk.reasons == []
    desk.say(("work", ipc.DragDropped(1)))
    desk.say(("work", w.CheckedContent(order.message.transfer, b"987654321")))
    assert len(desk.last(w.CarryDropped)) == 1
    assert desk.last(w.AskPolicy) == desk.last(ipc.Offer) == []


def test_without_a_key_nothing_is_read():
    desk = drop(*NAMES)
    assert desk.last(ipc.ReadType) == []
    assert desk.reasons == [reasons.DRAG_NAMES]
    assert desk.last(ipc.EndDrag) == [w.WorkerOrder("work", ipc.EndDrag(1))]


@pytest.mark.parametrize("data", [b"", b"\0", b"a b", b"a\nb", b"\xffab", b"a\0b"])
def test_what_is_no_key_is_not_passed_on(data):
    desk = drop(KEY)
    read(desk, data)
    assert desk.last(w.CarryDropped) == []
    assert desk.reasons == [reasons.DRAG_KEY]


def test_a_key_that_is_too_long_is_not_passed_on():
    desk = drop(KEY)
    read(desk, b"x" * (limits.CLIPBOARD_FILE_KEY_BYTES + 1))
    assert desk.last(w.CarryDropped) == []
    assert desk.reasons == [reasons.LARGE]


def test_a_source_that_gives_no_key_is_given_up():
    desk = drop(KEY)
    desk.now += limits.CLIPBOARD_COPY_SECONDS
    desk.say(("", w.Ticked()))
    assert desk.reasons == [reasons.SLOW]


def test_a_drag_that_no_rule_lets_in_is_refused_in_words():
    desk = Desk()
    desk.say(("work", w.DragOver(1, "", None, reasons.DRAG_NO_FILES)))
    assert desk.reasons == [reasons.DRAG_NO_FILES]
    desk.say(("work", ipc.DragDropped(1)))
    assert desk.last(ipc.AcceptDrag) == desk.last(ipc.AskTypes) == []


@pytest.mark.parametrize(
    "reason",
    [
        reasons.DRAG_NAMES,
        reasons.DRAG_NO_FILES,
        reasons.DRAG_KEY,
        reasons.DRAG_BOX,
    ],
)
def test_a_refused_drag_of_files_begins_with_the_next_step(reason):
    """GNOME Shell shows the first line of a notification, of some 55 characters."""
    assert "'brokerctl " in reason[:30]
    assert reason[:55].count("'") == 2
