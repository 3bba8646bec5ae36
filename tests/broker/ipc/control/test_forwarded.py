"""Forwarded calls: what an owner that was taken over may send, and what ends it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import PeerError, RefusedError
from broker.core.framing import HEADER
from broker.ipc.control import forwarded as forward
from broker.ipc.control.forwarded import (
    Begin,
    CallItem,
    CallItemTaken,
    Cancel,
    Done,
)
from broker.ipc.control.forwarder import ForwardedCalls
from broker.ipc.session.warrant import SIGNATURE_BYTES

EMPTY = msgspec.Raw(b"{}")
CALLER = (7, 1000)


def body(message):
    return forward.encode_answer(message)[HEADER.size :]


class Stage:
    """The end of the process with the socket, and the orders that it sent."""

    def __init__(self):
        self.frames = []
        self.calls = ForwardedCalls("viewer", self.frames.append)

    def begin(self, *, more=False):
        return self.calls.begin("io.x.Y", EMPTY, more=more, caller=CALLER)

    def orders(self):
        return [
            forward.decode_order(frame[HEADER.size + SIGNATURE_BYTES :])
            for frame in self.frames
        ]

    def receive(self, message):
        return self.calls.receive(body(message))


def test_a_call_with_items_and_its_end():
    stage = Stage()
    number = stage.begin(more=True)
    item = stage.receive(CallItem(number, msgspec.Raw(b'{"a": [1]}')))
    assert bytes(item.parameters) == b'{"a": [1]}'
    stage.calls.taken(number)
    stage.calls.cancel(number)
    stage.receive(CallItem(number, EMPTY))
    done = stage.receive(Done(number, EMPTY, "io.x.Refused"))
    assert done.error == "io.x.Refused"
    begin, *rest = stage.orders()
    assert (begin.method, begin.pid, begin.uid) == ("io.x.Y", 7, 1000)
    assert isinstance(begin, Begin)
    assert rest == [CallItemTaken(number), Cancel(number)]


def test_orders_about_a_call_that_is_done_are_not_sent():
    stage = Stage()
    number = stage.begin(more=True)
    stage.receive(Done(number, EMPTY))
    stage.calls.taken(number)
    stage.calls.cancel(number)
    assert len(stage.frames) == 1


@pytest.mark.parametrize("again", [Done(1, EMPTY), CallItem(1, EMPTY)])
def test_an_answer_to_an_answered_call_ends_the_channel(again):
    stage = Stage()
    stage.begin(more=True)
    stage.receive(Done(1, EMPTY))
    with pytest.raises(PeerError, match="unknown call"):
        stage.receive(again)


def test_an_answer_to_no_call_ends_the_channel():
    with pytest.raises(PeerError, match="unknown call"):
        Stage().receive(Done(1, EMPTY))


def test_an_item_for_a_caller_of_one_answer_ends_the_channel():
    stage = Stage()
    number = stage.begin(more=False)
    with pytest.raises(PeerError, match="not requested"):
        stage.receive(CallItem(number, EMPTY))


def test_items_faster_than_they_are_taken_end_the_channel():
    stage = Stage()
    number = stage.begin(more=True)
    stage.receive(CallItem(number, EMPTY))
    with pytest.raises(PeerError, match="not requested"):
        stage.receive(CallItem(number, EMPTY))


@pytest.mark.parametrize(
    "parameters",
    [
        b'{"a": "\0"}',
        b"{}\0{}",
        b"{} {}",
        b"",
        b"{",
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_an_answer_that_would_be_two_messages_ends_the_channel(parameters):
    """Its client reads up to a NUL byte: the rest would be another's answer."""
    stage = Stage()
    number = stage.begin()
    frame = b'{"type":"done","call":%d,"error":"","parameters":%s}'
    with pytest.raises(PeerError, match="sent a bad answer"):
        stage.calls.receive(frame % (number, parameters))


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_end_the_channel(data):
    stage = Stage()
    stage.begin(more=True)
    try:
        answer = stage.calls.receive(data)
    except PeerError:
        return
    assert answer.call == 1


def test_a_process_that_never_answers_leaves_room_for_others():
    stage = Stage()
    for _ in range(limits.CONTROL_FORWARDED):
        stage.begin()
    with pytest.raises(
        RefusedError, match="64 calls are already waiting for the viewer"
    ):
        stage.begin()
    assert 2 * limits.CONTROL_FORWARDED < limits.CONTROL_CLIENTS
    stage.receive(Done(5, EMPTY))
    assert stage.begin() == limits.CONTROL_FORWARDED + 1


@pytest.mark.parametrize("frame", [b"", b"{}", b"[]", body(Done(1, EMPTY))])
def test_what_is_no_order_is_an_error(frame):
    with pytest.raises(PeerError, match="invalid order"):
        forward.decode_order(frame)
