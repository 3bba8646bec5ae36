"""Two ends of a connection call each other: answers, items, errors, cancellation."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest
import trio

from broker.core.errors import InternalError, PeerError, RefusedError, UpstreamError
from broker.wire.calls import Calls
from broker.wire.exchange import ServedCall
from broker.wire.frame_carrier import Frames
from broker.wire.habits import Habits
from broker.wire.packets import Packets
from broker.wire.peer import Peer
from broker.wire.row import (
    Empty,
    NeededPermit,
    ProcessKind,
    Row,
    handlers,
    rows_of,
    serves,
)

HOST, VIEWER = ProcessKind.HOST, ProcessKind.VIEWER


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str


def of_host(name, answer=Text, **columns):
    by = frozenset({VIEWER})
    return Row(name, Text, answer, frozenset({HOST}), by, **columns)


ECHO = of_host("Echo")
REFUSE = of_host("Refuse")
WAIT = of_host("Wait", droppable=True)
COUNT = of_host("Count", item=Text, paced=True)
OPEN = of_host("Open", takes=1, gives=1)
NOTE = of_host("Note", answer=None)
ROWS = rows_of(globals())


class Host:
    """Serves all rows."""

    def __init__(self):
        self.notes = []
        self.ended = trio.Event()
        self.emitted = 0

    @serves(ECHO)
    async def echo(self, _: ServedCall, request: Text) -> Text:
        return request

    @serves(REFUSE)
    async def refuse(self, _: ServedCall, request: Text) -> Text:
        raise RefusedError(request.text, hint="a hint")

    @serves(WAIT)
    async def wait(self, _: ServedCall, request: Text) -> Text:
        try:
            await trio.sleep_forever()
        finally:
            self.ended.set()
        return request

    @serves(COUNT)
    async def count(self, exchange: ServedCall, request: Text) -> Text:
        for number in range(int(request.text)):
            await exchange.emit(Text(str(number)))
            self.emitted += 1
        return Text("end")

    @serves(OPEN)
    async def open(self, exchange: ServedCall, request: Text) -> Text:
        exchange.give_fd(exchange.take_fd())
        return request

    @serves(NOTE)
    async def note(self, _: ServedCall, request: Text) -> None:
        self.notes.append(request.text)


def packets(sock):
    return Packets(sock, 1 << 16)


def frames(sock):
    size = 1 << 16
    return Frames(sock, receive_bytes=size, send_bytes=size, waiting=1 << 20)


CARRIERS = {
    "packets": (packets, socket.SOCK_SEQPACKET),
    "frames": (frames, socket.SOCK_STREAM),
}


@pytest.fixture(params=CARRIERS)
def ends(request):
    """The viewer's peer, the host's, and the host's part."""
    carrier, kind = CARRIERS[request.param]
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    part = Host()
    viewer = Peer(
        carrier(near), VIEWER, HOST, ROWS, habits=Habits(follows_cancelled=True)
    )
    yield viewer, Peer(carrier(far), HOST, VIEWER, ROWS, [part]), part
    near.close()
    far.close()


@pytest.fixture
async def viewer(ends, nursery):
    for peer in ends[:2]:
        await nursery.start(peer.run)
    return ends[0]


async def test_call_returns_the_answer(viewer):
    assert await viewer.call(ECHO, Text("word")) == Text("word")


async def test_call_raises_the_error_of_the_far_end(viewer):
    with pytest.raises(RefusedError, match="no") as caught:
        await viewer.call(REFUSE, Text("no"))
    assert caught.value.hint == "a hint"


async def test_cancelled_call_ends_at_the_far_end(viewer, ends, autojump_clock):
    with trio.move_on_after(1) as scope:
        await viewer.call(WAIT, Text(""))
    assert scope.cancelled_caught
    await ends[2].ended.wait()
    assert await viewer.call(ECHO, Text("later")) == Text("later")


async def test_paced_items_come_as_they_are_taken(viewer, ends):
    received = []
    async with viewer.items(COUNT, Text("5")) as stream:
        async for item in stream:
            received.append(item.text)
            assert ends[2].emitted <= len(received)
        assert await stream.answer() == Text("end")
    assert received == list("01234")


@pytest.mark.parametrize("ends", ["packets"], indirect=True)
async def test_descriptors_cross_both_ways(ends, nursery):
    for peer in ends[:2]:
        await nursery.start(peer.run)
    read, write = os.pipe()
    answer = await ends[0].call_with_fds(OPEN, Text(""), [write])
    os.close(write)
    (write_copy,) = answer.fds
    os.write(write_copy, b"x")
    assert os.read(read, 1) == b"x"
    for fd in (write_copy, read):
        os.close(fd)


async def test_notice_is_handled_in_order(viewer, ends):
    for number in range(10):
        await viewer.notify(NOTE, Text(str(number)))
    await viewer.call(ECHO, Text(""))
    assert ends[2].notes == list("0123456789")


async def test_calls_fail_when_the_far_end_has_ended(ends, nursery):
    ends[1]._carrier.close()
    await nursery.start(ends[0].run)
    await ends[0].over.wait()
    with pytest.raises(UpstreamError, match="the host has ended"):
        await ends[0].call(ECHO, Text(""))


async def test_call_of_a_row_of_nobody_ends_the_connection(ends, nursery):
    message = msgspec.msgpack.encode((1, 1, "Unknown", msgspec.Raw(b"\x80"), b""))
    await ends[0]._carrier.send(message)
    with pytest.raises(PeerError, match="may not call 'Unknown'"):
        await ends[1].run()


def test_peer_with_a_missing_handler_is_refused(ends):
    with pytest.raises(InternalError, match="no handler serves"):
        Peer(ends[1]._carrier, HOST, VIEWER, ROWS)


def test_notice_without_its_descriptors_ends_the_connection():
    """It has no answer that could say that the kernel did not deliver them."""
    row = of_host("Give", answer=None, takes=1)
    near = Calls(VIEWER, HOST, {row.name: row})
    far = Calls(HOST, VIEWER, {row.name: row})
    data = near.notify(row, Text("x"), 1)
    with pytest.raises(PeerError, match="descriptor of a message was lost"):
        far.receive(data, is_lost=True)


def test_row_with_two_handlers_is_refused():
    row = of_host("Twice")

    class Part:
        @serves(row)
        async def once(self, _: ServedCall, request: Text) -> Empty:
            raise AssertionError

    with pytest.raises(InternalError, match="Twice has two handlers"):
        handlers([row], [Part(), Part()])


def test_row_with_a_permit_is_refused_without_a_check(ends):
    row = of_host("Permitted", permit=NeededPermit(frozenset({"camera"})))

    class Part:
        @serves(row)
        async def permitted(self, _: ServedCall, request: Text) -> Empty:
            raise AssertionError

    with pytest.raises(InternalError, match="nobody checks the permits of Permitted"):
        Peer(ends[1]._carrier, HOST, VIEWER, {row.name: row}, [Part()])


def test_row_with_a_permit_has_no_handler_that_runs_as_it_is_read(ends):
    row = of_host("Permitted", permit=NeededPermit(frozenset({"camera"})))

    class Part:
        @serves(row)
        def permitted(self, _: ServedCall, request: Text):
            raise AssertionError

    rows = {row.name: row}
    with pytest.raises(InternalError, match="the handler of Permitted has to wait"):
        Peer(ends[1]._carrier, HOST, VIEWER, rows, [Part()], check=lambda _: None)


class InOrder(Host):
    """Notes each call as it is read."""

    @serves(ECHO)
    def echo(self, _: ServedCall, request: Text):
        self.notes.append(request.text)
        if request.text == "refused":
            raise RefusedError("as it was read")
        if request.text == "broken":
            raise PeerError("this ends it")
        return self._answer(request)

    async def _answer(self, request):
        return request


@pytest.fixture
async def in_order(ends, nursery):
    """A viewer's peer, and the part and the peer of a host that handles calls at once."""
    viewer, far, _ = ends
    part = InOrder()
    habits = Habits(ends_by_handler=True)
    host = Peer(far._carrier, HOST, VIEWER, ROWS, [part], habits=habits)
    await nursery.start(viewer.run)
    return viewer, part, host


async def test_calls_are_handled_in_the_order_in_which_they_are_read(in_order, nursery):
    viewer, part, host = in_order
    texts = [str(number) for number in range(50)]
    calls = [await viewer.begin(ECHO, Text(text)) for text in texts]
    await nursery.start(host.run)
    with trio.fail_after(10):
        answers = [(await viewer.finish(call)).value.text for call in calls]
    assert answers == part.notes == texts


async def test_error_of_a_handler_as_it_reads_is_the_error_of_its_call(
    in_order, nursery
):
    viewer, _, host = in_order
    await nursery.start(host.run)
    with trio.fail_after(10):
        with pytest.raises(RefusedError, match="as it was read"):
            await viewer.call(ECHO, Text("refused"))
        assert (await viewer.call(ECHO, Text("word"))).text == "word"


async def test_peer_error_of_a_handler_as_it_reads_ends_the_connection(in_order):
    viewer, _, host = in_order
    call = await viewer.begin(ECHO, Text("broken"))
    with trio.fail_after(10):
        with pytest.raises(PeerError, match="this ends it"):
            await host.run()
        with pytest.raises(UpstreamError):
            await viewer.finish(call)
