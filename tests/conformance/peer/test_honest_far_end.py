"""Calls between honest ends: order, limits, slow readers, cancellation and hang-up."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from broker.core.errors import (
    InternalError,
    RefusedError,
    UpstreamError,
)
from broker.wire.row import ProcessKind
from tests.conformance.peer.carriers import (
    ASK,
    CARRIERS,
    COUNT,
    ECHO,
    FETCH,
    LOOK,
    MESSAGE_BYTES,
    OTHER,
    PASS,
    READ,
    SLEEP,
    TELL,
    WITH_DESCRIPTORS,
    Text,
    connected,
)

carriers = pytest.mark.parametrize("carrier", CARRIERS)
with_descriptors = pytest.mark.parametrize("carrier", WITH_DESCRIPTORS)


@pytest.fixture
async def connection(request, nursery):
    async with connected(request.param) as connection:
        await nursery.start(connection.peer.run)
        yield connection


running = pytest.mark.parametrize("connection", CARRIERS, indirect=True)
running_with_descriptors = pytest.mark.parametrize(
    "connection", WITH_DESCRIPTORS, indirect=True
)


@running
async def test_ten_thousand_calls_in_a_row(connection):
    answers = set()

    async def read():
        for _ in range(10_000):
            answers.add((await connection.far.receive()).call)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for number in range(10_000):
            await connection.far.call(ECHO, number + 1, "x")
            if number % 32 == 0:
                await trio.testing.wait_all_tasks_blocked()
    assert answers == set(range(1, 10_001))


@running
async def test_errors_reach_the_caller_with_their_hint(connection):
    await connection.far.call(ECHO, 1, "refused")
    message = await connection.far.receive()
    assert (message.fault, message.message, message.hint) == (
        "refused",
        "the near end refuses",
        "a hint",
    )


@running
async def test_mistake_in_a_handler_ends_no_other_call(connection, capfd):
    await connection.far.call(ECHO, 1, "mistake")
    message = await connection.far.receive()
    assert message.fault == "internal"
    assert "ZeroDivisionError" not in message.message
    assert "ZeroDivisionError" in capfd.readouterr().err
    await connection.far.call(ECHO, 2, "word")
    assert (await connection.far.receive()).call == 2


@running
async def test_notices_are_handled_in_order_and_before_a_later_call(connection):
    for number in range(5):
        await connection.far.notice(TELL, str(number))
    await connection.far.call(ECHO, 1)
    await connection.far.receive()
    assert connection.served.notices == ["0", "1", "2", "3", "4"]


@running
async def test_slow_reader_delays_items_of_its_call_only(connection):
    await connection.far.call(COUNT, 1, "3")
    assert (await connection.far.receive()).call == 1
    await connection.far.call(ECHO, 2, "word")
    assert (await connection.far.receive()).call == 2
    for _ in range(2):
        await connection.far.take(1)
        assert type(await connection.far.receive()).__name__ == "ItemMessage"
    await connection.far.take(1)
    assert type(await connection.far.receive()).__name__ == "AnswerMessage"


@pytest.mark.parametrize("connection", ["packets", "one-way"], indirect=True)
async def test_far_end_that_never_reads_stops_senders_and_not_readers(connection):
    """A full socket holds calls back; messages of the far end are still handled."""
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(connection.peer.notify, *_large_notice(connection))
        await trio.testing.wait_all_tasks_blocked()
        await connection.far.notice(TELL, "read")
        await trio.testing.wait_all_tasks_blocked()
        assert connection.served.notices == ["read"]
        nursery.cancel_scope.cancel()


def _large_notice(connection):
    from broker.wire.row import Row

    row = Row(
        "Large",
        Text,
        None,
        frozenset({ProcessKind.HOST}),
        frozenset({ProcessKind.VIEWER}),
    )
    connection.peer._calls._callable.add(row.name)
    return row, Text("x" * (MESSAGE_BYTES - 1000))


@pytest.mark.parametrize("connection", ["frames"], indirect=True)
async def test_far_end_that_never_reads_frames_is_noticed(connection):
    row, request = _large_notice(connection)
    with pytest.raises(UpstreamError, match="does not read"):  # noqa: PT012
        for _ in range(100):
            connection.peer.put_notice(row, request)


@running
async def test_callers_are_served_fairly(connection):
    """A call that takes long delays no later one."""
    await connection.far.call(SLEEP, 1)
    for number in range(2, 12):
        await connection.far.call(ECHO, number, str(number))
    answers = [(await connection.far.receive()).call for _ in range(10)]
    assert sorted(answers) == list(range(2, 12))


@running
async def test_cancelled_call_is_answered(connection):
    await connection.far.call(SLEEP, 1)
    await trio.testing.wait_all_tasks_blocked()
    await connection.far.cancel(1)
    message = await connection.far.receive()
    assert (message.call, message.message) == (1, "the call was cancelled")
    assert connection.served.cancelled == 1


@running
async def test_cancel_after_the_answer_changes_nothing(connection):
    await connection.far.call(ECHO, 1)
    await connection.far.receive()
    await connection.far.cancel(1)
    await connection.far.call(ECHO, 2)
    assert (await connection.far.receive()).call == 2


@pytest.mark.parametrize("row", [ASK, LOOK, READ])
@pytest.mark.parametrize("connection", ["packets", "one-way"], indirect=True)
async def test_call_that_is_cancelled_before_it_is_sent_is_not_sent(connection, row):
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.cancel()
        nursery.start_soon(connection.peer.call, row, Text(""))
    await connection.far.call(ECHO, 1)
    assert type(await connection.far.receive()).__name__ == "AnswerMessage"


@pytest.mark.parametrize("row", [ASK, READ])
@pytest.mark.parametrize("connection", ["frames"], indirect=True)
async def test_call_on_a_carrier_that_queues_is_sent_before_a_cancel(connection, row):
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.cancel()
        nursery.start_soon(connection.peer.call, row, Text(""))
    assert (await connection.far.receive()).row == row.name


@running
async def test_answer_that_comes_in_spite_of_a_cancel_is_returned(
    connection, autojump_clock
):
    """So that the caller can undo what was carried out."""
    answers = []

    async def ask():
        with trio.move_on_after(1):
            answers.append(await connection.peer.call(LOOK, Text("")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        call = await connection.far.receive()
        assert type(await connection.far.receive()).__name__ == "CancelMessage"
        await connection.far.answer(call.call, "done")
    assert answers == [Text("done")]


@running_with_descriptors
async def test_descriptors_of_an_abandoned_answer_are_closed(
    connection, autojump_clock
):
    with trio.move_on_after(1):
        await connection.peer.call_with_fds(FETCH, Text(""))
    call = await connection.far.receive()
    read, write = os.pipe()
    await connection.far.answer(call.call, fds=[write])
    os.close(write)
    await trio.testing.wait_all_tasks_blocked()
    assert os.read(read, 1) == b"", "nobody has the other end"
    os.close(read)


@running_with_descriptors
async def test_descriptors_cross_in_both_directions(connection):
    read, write = os.pipe()
    await connection.far.call(PASS, 1, fds=[read, write])
    os.close(write)
    await connection.far.receive()
    os.write(connection.far.fds[1], b"x")
    assert os.read(read, 1) == b"x"
    os.close(read)


@carriers
@pytest.mark.parametrize("point", ["before", "asked", "item", "sleeping"])
async def test_far_end_that_hangs_up_ends_what_waits(carrier, point):
    async with connected(carrier) as connection:
        failures = []

        async def ask():
            with pytest.raises(UpstreamError):
                await connection.peer.call(ASK, Text(""))
            failures.append("ask")

        async with trio.open_nursery() as nursery:
            await nursery.start(connection.peer.run)
            if point == "item":
                await connection.far.call(COUNT, 1, "2")
            if point == "sleeping":
                await connection.far.call(SLEEP, 1)
            if point != "before":
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            connection.far.close()
            with trio.fail_after(5):
                await connection.peer.over.wait()
        assert failures == ([] if point == "before" else ["ask"])
        with pytest.raises(UpstreamError):
            await connection.peer.call(ASK, Text(""))


@carriers
async def test_too_many_calls_of_the_near_end_are_refused(carrier):
    async with connected(carrier, most_calls=2) as connection:
        for _ in range(2):
            await connection.peer.begin(ASK, Text(""))
        with pytest.raises(RefusedError, match="too many calls"):
            await connection.peer.begin(ASK, Text(""))


@carriers
async def test_too_many_calls_wait_where_the_near_end_waits_for_room(carrier, nursery):
    async with connected(carrier, most_calls=1, waits_for_room=True) as connection:
        await nursery.start(connection.peer.run)
        answers = []

        async def ask(text):
            answers.append((await connection.peer.call(ASK, Text(text))).text)

        async with trio.open_nursery() as inner:
            for text in ("one", "two"):
                inner.start_soon(ask, text)
            for _ in range(2):
                call = await connection.far.receive()
                await connection.far.answer(call.call, str(call.call))
        assert answers == ["1", "2"]


@carriers
async def test_call_of_a_row_that_the_far_end_does_not_serve_is_not_sent(carrier):
    async with connected(carrier) as connection:
        for row in (OTHER, ECHO):
            with pytest.raises(InternalError, match="may not call"):
                await connection.peer.call(row, Text(""))


@carriers
async def test_invalid_request_is_not_sent(carrier):
    """The far end would end the connection for it."""
    async with connected(carrier) as connection:
        with pytest.raises(InternalError, match="is invalid"):
            await connection.peer.call(ASK, Text("\ud800"))
        with pytest.raises(InternalError, match="is too long"):
            await connection.peer.call(ASK, Text("x" * MESSAGE_BYTES))
        pending = await connection.peer.begin(ASK, Text(""))
        assert pending.number == 1
