"""A far end that sends what no honest process sends: its connection ends, with a reason.

No other call of this process is affected, no descriptor is left, and nothing hangs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

import msgspec
import pytest
import trio
import trio.testing

from broker.core.errors import PeerError, UpstreamError
from broker.wire import fdpass
from broker.wire.call_messages import CallMessage, encode_message
from broker.wire.calls import PING
from broker.wire.row import Row
from tests.conformance.peer.carriers import (
    ASK,
    CARRIERS,
    COUNT,
    ECHO,
    FETCH,
    FEW,
    HOST,
    LENGTH,
    LOOK,
    MESSAGE_BYTES,
    OTHER,
    PASS,
    READ,
    SLEEP,
    TELL,
    VIEWER,
    WATCH,
    WITH_DESCRIPTORS,
    Text,
    connected,
)

carriers = pytest.mark.parametrize("carrier", CARRIERS)
with_descriptors = pytest.mark.parametrize("carrier", WITH_DESCRIPTORS)


async def ended_with(connection):
    """Run the near end; return the text of the PeerError that ends it."""
    with trio.fail_after(5), pytest.raises(PeerError) as caught:
        await connection.peer.run()
    assert not connection.peer.live
    assert connection.peer.over.is_set()
    return str(caught.value)


@carriers
@pytest.mark.parametrize("row", ["Unknown", OTHER, ASK, TELL])
async def test_call_of_a_row_that_the_near_end_does_not_serve_ends_it(carrier, row):
    """Also a row of the far end itself, and a notice that is sent as a call."""
    async with connected(carrier) as connection:
        await connection.far.call(row, 1)
        assert "may not call" in await ended_with(connection)


@carriers
async def test_notice_of_a_row_with_an_answer_ends_it(carrier):
    async with connected(carrier) as connection:
        await connection.far.notice(ECHO)
        assert "may not call 'Echo'" in await ended_with(connection)


@carriers
@pytest.mark.parametrize("number", [1, 2])
async def test_repeated_call_number_ends_it(carrier, number):
    async with connected(carrier) as connection:
        await connection.far.call(ECHO, 2)
        await connection.far.call(ECHO, number)
        assert f"sent call {number} after call 2" in await ended_with(connection)


@carriers
@pytest.mark.parametrize("kind", ["answer", "fail", "item"])
async def test_answer_to_no_call_ends_it(carrier, kind):
    async with connected(carrier) as connection:
        await getattr(connection.far, kind)(1)
        assert "answered a call that is not open: 1" in await ended_with(connection)


@carriers
@pytest.mark.parametrize("kind", ["answer", "fail", "item"])
async def test_second_answer_ends_it(carrier, kind, nursery):
    async with connected(carrier) as connection:
        nursery.start_soon(connection.peer.call, ASK, Text("question"))
        await trio.testing.wait_all_tasks_blocked()
        await connection.far.answer(1, "one")
        await getattr(connection.far, kind)(1)
        assert "answered a call that is not open: 1" in await ended_with(connection)


@carriers
async def test_item_of_a_row_without_items_ends_it(carrier):
    async with connected(carrier) as connection:
        pending = await connection.peer.begin(ASK, Text("question"))
        await connection.far.item(pending.number)
        assert "an item that was not requested" in await ended_with(connection)


@carriers
async def test_item_before_the_last_one_was_taken_ends_it(carrier):
    async with connected(carrier) as connection:
        pending = await connection.peer.begin(READ, Text(""), on_item=lambda _: None)
        for _ in range(2):
            await connection.far.item(pending.number)
        assert "an item that was not requested" in await ended_with(connection)


@carriers
async def test_items_of_a_row_without_pace_may_come_together(carrier, nursery):
    async with connected(carrier) as connection:
        await nursery.start(connection.peer.run)
        items = []
        pending = await connection.peer.begin(WATCH, Text(""), on_item=items.append)
        for number in range(3):
            await connection.far.item(pending.number, str(number))
        await connection.far.answer(pending.number)
        await connection.peer.finish(pending)
        assert [item.text for item in items] == ["0", "1", "2"]


@carriers
@pytest.mark.parametrize("row", [SLEEP, ECHO])
async def test_taken_item_that_was_not_sent_ends_it(carrier, row):
    async with connected(carrier) as connection:
        await connection.far.call(row, 1)
        await connection.far.take(1 if row is SLEEP else 2)
        assert "takes an item" in await ended_with(connection)


@carriers
async def test_cancel_of_a_call_that_is_to_be_finished_ends_it(carrier):
    async with connected(carrier) as connection:
        await connection.far.call(COUNT, 1, "9")
        await connection.far.cancel(1)
        assert "cancels Count, which is finished" in await ended_with(connection)


@carriers
async def test_cancel_where_no_call_is_cancelled_ends_it(carrier):
    async with connected(carrier, sends_cancels=False) as connection:
        await connection.far.call(SLEEP, 1)
        await connection.far.cancel(1)
        assert "here none is cancelled" in await ended_with(connection)


@carriers
async def test_cancel_of_a_call_that_was_not_made_ends_it(carrier):
    async with connected(carrier) as connection:
        await connection.far.cancel(1)
        assert "cancels a call that it has not made" in await ended_with(connection)


@carriers
@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"not a message",
        msgspec.msgpack.encode([99, 1]),
        msgspec.msgpack.encode([1, 0, "Echo", {}, b""]),
        msgspec.msgpack.encode([1, -1, "Echo", {}, b""]),
        msgspec.msgpack.encode([1, 1, "x" * 65, {}, b""]),
        b"\x91" * 20_000 + b"\x01",
        encode_message(CallMessage(1, "Echo", msgspec.Raw(b"\x91" * 20_000 + b"\x01"))),
        encode_message(CallMessage(1, "Echo", msgspec.Raw(b"\x81\xa4text\x01"))),
        encode_message(CallMessage(1, "Echo", msgspec.Raw(b"\x81\xa4text\xa1\xff"))),
        encode_message(CallMessage(1, "Echo", msgspec.Raw(b"\x81\xa5other\xa1x"))),
    ],
    ids=[
        "no msgpack",
        "text",
        "unknown kind",
        "call 0",
        "call -1",
        "long name",
        "nested message",
        "nested request",
        "other type",
        "no UTF-8",
        "unknown field",
    ],
)
async def test_bytes_that_are_no_message_end_it(carrier, data):
    async with connected(carrier) as connection:
        await connection.far.send(data)
        await ended_with(connection)


@carriers
async def test_oversized_message_ends_it(carrier, nursery):
    async with connected(carrier) as connection:
        data = connection.far.frame(bytes(MESSAGE_BYTES + 1))

        async def send():
            with contextlib.suppress(OSError):  # the near end has closed
                await connection.far.send_raw(data)

        nursery.start_soon(send)
        await ended_with(connection)


@pytest.mark.parametrize("carrier", ["frames", "one-way"])
@pytest.mark.parametrize("length", [0, MESSAGE_BYTES + 1, (1 << 32) - 1])
async def test_frame_of_a_forbidden_length_ends_it(carrier, length):
    async with connected(carrier) as connection:
        await connection.far.send_raw(LENGTH.pack(length) + b"x")
        await ended_with(connection)


@pytest.mark.parametrize("carrier", ["frames", "one-way"])
async def test_truncated_frame_is_an_end_without_a_call(carrier):
    async with connected(carrier) as connection:
        await connection.far.send_raw(LENGTH.pack(10) + b"x")
        connection.far.close()
        with trio.fail_after(5):
            await connection.peer.run()
        assert connection.served.order == []


@with_descriptors
@pytest.mark.parametrize(("row", "count"), [(ECHO, 1), (PASS, 0), (PASS, 1), (PASS, 3)])
async def test_wrong_number_of_descriptors_ends_it(carrier, row, count):
    async with connected(carrier) as connection:
        await connection.far.call(row, 1, fds=[0] * count)
        await ended_with(connection)


@with_descriptors
@pytest.mark.parametrize("count", [0, 2])
async def test_answer_with_other_descriptors_ends_it(carrier, count):
    async with connected(carrier) as connection:
        pending = await connection.peer.begin(FETCH, Text(""))
        await connection.far.answer(pending.number, fds=[0] * count)
        await ended_with(connection)


@with_descriptors
@pytest.mark.parametrize("kind", ["item", "fail", "cancel", "take"])
async def test_descriptor_with_a_message_that_has_none_ends_it(carrier, kind):
    async with connected(carrier) as connection:
        send = connection.far.send
        connection.far.send = lambda data: send(data, [0])
        await getattr(connection.far, kind)(1)
        assert "with a message that has none" in await ended_with(connection)


@carriers
@pytest.mark.parametrize(("row", "limit"), [(SLEEP, 4), (FEW, 2)])
async def test_more_calls_than_the_limit_end_it(carrier, row, limit):
    async with connected(carrier, most_calls=4) as connection:
        for number in range(limit + 1):
            await connection.far.call(row, number + 1)
        assert "too many calls" in await ended_with(connection)


@carriers
async def test_row_with_a_limit_of_its_own_leaves_room_for_others(carrier, nursery):
    async with connected(carrier, most_calls=2) as connection:
        await nursery.start(connection.peer.run)
        for number in (1, 2):
            await connection.far.call(FEW, number)
        await connection.far.call(ECHO, 3, "word")
        assert (await connection.far.receive()).call == 3


@carriers
async def test_calls_that_wait_fail_when_the_far_end_breaks_a_rule(carrier):
    async with connected(carrier) as connection:
        errors = []

        async def ask():
            with pytest.raises(UpstreamError, match="the host has ended"):
                await connection.peer.call(ASK, Text(""))
            errors.append(1)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await connection.far.send(b"\xc1")
            await ended_with(connection)
        assert errors == [1, 1, 1]


@carriers
async def test_silent_far_end_is_reported(carrier, autojump_clock):
    async with connected(carrier) as connection, trio.open_nursery() as nursery:
        await nursery.start(connection.peer.run)
        began = trio.current_time()
        await connection.peer.watch(5, 20)
        assert 24 <= trio.current_time() - began <= 27
        nursery.cancel_scope.cancel()


@with_descriptors
async def test_call_without_room_for_its_descriptors_fails_alone(carrier, nursery):
    """The near end may open no more files: this call fails, and the next one works."""
    async with connected(carrier) as connection:
        await nursery.start(connection.peer.run)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        read, write = os.pipe()
        await connection.far.call(PASS, 1, fds=[read, write])
        free = os.dup(read)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            await trio.testing.wait_all_tasks_blocked()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        message = await connection.far.receive()
        assert "descriptor of a message was lost" in message.message
        await connection.far.call(PASS, 2, "word", fds=[read, write])
        assert (await connection.far.receive()).call == 2
        assert len(connection.far.fds) == 2
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("carrier", ["packets"])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS])
@pytest.mark.parametrize("name", ["send", "receive"])
async def test_moment_without_memory_ends_no_call(
    carrier, number, name, monkeypatch, nursery, autojump_clock
):
    real, failures = getattr(fdpass, name), [2]

    def fail_twice(*args):
        if failures[0]:
            failures[0] -= 1
            raise OSError(number, "no memory")
        return real(*args)

    async with connected(carrier) as connection:
        await nursery.start(connection.peer.run)
        monkeypatch.setattr(fdpass, name, fail_twice)
        await connection.far.call(ECHO, 1, "word")
        with trio.fail_after(60):
            assert (await connection.far.receive()).call == 1


async def test_answer_whose_descriptors_are_not_taken_is_an_error(monkeypatch, nursery):
    """Too many descriptors of the user are in flight (unix(7), ETOOMANYREFS)."""
    real = fdpass.send

    def refuse(sock, data, fds=(), more=0):
        if fds:
            raise OSError(errno.ETOOMANYREFS, "too many references")
        return real(sock, data, fds, more)

    async with connected("packets") as connection:
        await nursery.start(connection.peer.run)
        read, write = os.pipe()
        await connection.far.call(PASS, 1, "word", fds=[read, write])
        monkeypatch.setattr(fdpass, "send", refuse)
        message = await connection.far.receive()
        assert "too many references" in message.message
        os.close(read)
        os.close(write)


async def test_pings_of_a_far_end_that_does_not_read_start_one_task(nursery):
    async with connected("packets") as connection:
        await nursery.start(connection.peer.run)
        for _ in range(5000):
            await connection.far.send(PING)
        await trio.testing.wait_all_tasks_blocked()
        tasks = connection.peer._nursery.child_tasks
        assert len(tasks) <= 2


def test_rows_of_one_name_are_refused():
    from broker.core.errors import InternalError
    from broker.wire.row import rows_of

    twice = Row("Echo", Text, Text, VIEWER, HOST)
    with pytest.raises(InternalError, match="two rows have the name Echo"):
        rows_of({"one": ECHO, "two": twice})


@carriers
async def test_look_that_is_left_is_cancelled_at_the_far_end(carrier, autojump_clock):
    """And the caller returns once the far end has answered."""
    async with connected(carrier) as connection, trio.open_nursery() as nursery:
        await nursery.start(connection.peer.run)

        async def far():
            call = await connection.far.receive()
            cancel = await connection.far.receive()
            assert type(cancel).__name__ == "CancelMessage"
            await connection.far.fail(call.call)

        nursery.start_soon(far)
        with trio.move_on_after(1) as scope:
            await connection.peer.call(LOOK, Text(""))
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
