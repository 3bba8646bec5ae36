"""The control socket with its methods in another process that dies, hangs or lies."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from broker.authority.control.server import serve
from broker.core import limits
from broker.core.errors import InternalError, RefusedError, UpstreamError
from broker.ipc.control import forwarding
from broker.ipc.control.api import (
    Nothing,
    Progress,
    RunItem,
    RunRequest,
    Started,
    StopRequest,
)
from broker.ipc.control.client import open_client
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.forward import serve_forwarded
from broker.ipc.control.forwarder import Forwarder
from broker.ipc.control.forwarding import forwarding_carrier
from broker.ipc.control.method import Owner, serves
from broker.ipc.control.methods import GET_VERSION, RUN, SHUTDOWN, STOP, TABLE
from broker.ipc.control.varlink import Call
from broker.wire.call_messages import (
    AnswerMessage,
    CancelMessage,
    ItemMessage,
    decode_message,
    encode_message,
)
from broker.wire.row import ProcessKind
from tests.kit.control import EXCHANGE, ScriptedBroker, partly
from tests.kit.eventually import eventually


class TakenOver:
    """The far end of a forwarder: it sends what a test tells it."""

    def __init__(self, sock):
        self._carrier = forwarding_carrier(sock)

    async def order(self):
        """Return the next message of the authority."""
        data = (await self._carrier.receive()).data
        assert data, "the socket's process has closed"
        return decode_message(data)

    async def send(self, message):
        self._carrier.put(encode_message(message))

    async def closed(self):
        with trio.fail_after(20):
            while (await self._carrier.receive()).data:
                pass

    def die(self):
        self._carrier.close()


def reply(call, parameters=b"{}"):
    """A reply, whatever its parameters are."""
    value = {"parameters": parameters, "error": ""}
    return AnswerMessage(call, msgspec.Raw(msgspec.msgpack.encode(value)))


def item(call):
    value = {"parameters": b"{}"}
    return ItemMessage(call, msgspec.Raw(msgspec.msgpack.encode(value)))


@asynccontextmanager
async def world(path):
    """A broker whose viewer was taken over, and whose other parts were not."""
    ours, theirs = socket.socketpair()
    viewer = Forwarder(ProcessKind.VIEWER, ours)
    api = ScriptedBroker()

    async def host(call, exchange):
        return await api.dispatcher().reply(call, exchange)

    forwards = {Owner.VIEWER: viewer, Owner.HOST: host, Owner.AUTHORITY: host}
    async with trio.open_nursery() as nursery:
        await nursery.start(viewer.run)
        await nursery.start(
            serve, path, Dispatcher("local", [], TABLE, forwards=forwards)
        )
        taken_over = TakenOver(theirs)
        yield taken_over, nursery
        nursery.cancel_scope.cancel()
    taken_over.die()


async def stop(path, outcome):
    async with open_client(path) as client:
        try:
            outcome.append(await client.call(STOP, StopRequest()))
        except Exception as error:
            outcome.append(error)


async def answers(path):
    """Whether a method of another process is answered."""
    async with open_client(path) as client:
        return bool(await client.call(GET_VERSION, Nothing()))


async def test_a_process_that_dies_ends_its_calls_and_no_others(tmp_path):
    path = tmp_path / "control"
    async with world(path) as (viewer, nursery):
        outcome = []
        nursery.start_soon(stop, path, outcome)
        await viewer.order()
        viewer.die()
        (error,) = await eventually(lambda: outcome)
        assert isinstance(error, UpstreamError)
        assert "viewer of this broker has ended" in error.message
        outcome.clear()
        await stop(path, outcome)
        assert isinstance(outcome[0], UpstreamError)
        assert await answers(path)


@pytest.mark.parametrize(
    "lie",
    [
        lambda call: [reply(call + 1)],
        lambda call: [item(call)],
        lambda call: [reply(call), reply(call)],
        # Its client reads up to a NUL byte: the rest would be another's answer.
        lambda call: [reply(call, b'{"a": "\0"}')],
        lambda call: [reply(call, b"{}\0{}")],
        lambda call: [reply(call, b"{} {}")],
        lambda call: [reply(call, b"")],
        lambda call: [reply(call, b"{")],
        lambda call: [reply(call, b"[" * 100_000 + b"]" * 100_000)],
    ],
    ids=[
        "another's",
        "unasked",
        "twice",
        "NUL",
        "NUL between",
        "two",
        "none",
        "half",
        "deep",
    ],
)
async def test_a_process_that_lies_is_asked_no_more(tmp_path, lie):
    path = tmp_path / "control"
    async with world(path) as (viewer, nursery):
        nursery.start_soon(stop, path, [])
        order = await viewer.order()
        for message in lie(order.call):
            await viewer.send(message)
        await viewer.closed()
        outcome = []
        await stop(path, outcome)
        assert isinstance(outcome[0], UpstreamError)
        assert await answers(path)


async def test_what_a_process_answers_is_not_read_by_the_one_with_the_socket(tmp_path):
    path = tmp_path / "control"
    async with world(path) as (viewer, nursery):
        outcome = []
        nursery.start_soon(stop, path, outcome)
        order = await viewer.order()
        await viewer.send(reply(order.call, b'{"stopped": 5}'))
        (error,) = await eventually(lambda: outcome)
        assert isinstance(error, UpstreamError)
        assert "cannot decode" in error.message


async def test_a_process_that_hangs_leaves_room_for_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CONTROL_FORWARDED", 3)
    path = tmp_path / "control"
    async with world(path) as (viewer, nursery):
        for _ in range(limits.CONTROL_FORWARDED):
            nursery.start_soon(stop, path, [])
            await viewer.order()
        outcome = []
        await stop(path, outcome)
        assert isinstance(outcome[0], RefusedError)
        assert await answers(path)


async def test_a_call_whose_client_goes_is_given_up_when_its_process_hangs(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(limits, "CONTROL_CANCEL_SECONDS", 0.1)
    path = tmp_path / "control"
    async with world(path) as (viewer, _nursery):
        async with open_client(path) as client:
            async with trio.open_nursery() as calls:

                async def run():
                    await client.call(RUN, RunRequest(record="web"), print)

                calls.start_soon(run)
                begin = await viewer.order()
                assert begin.row == "ForwardedCallWithItems"
                calls.cancel_scope.cancel()
            with trio.fail_after(20):
                await client.hang_up()  # returns when the call was given up
        assert await viewer.order() == CancelMessage(begin.call)
        # A late answer is none of a lie.
        await viewer.send(reply(begin.call))
        assert await answers(path)


async def test_a_process_answers_its_own_methods_only():
    api = ScriptedBroker()
    dispatcher = Dispatcher(
        "local",
        [api],
        {name: row for name, row in TABLE.items() if row.owner is Owner.VIEWER},
        forwards={Owner.VIEWER: None},
    )
    ours, theirs = socket.socketpair()
    forwarder = Forwarder(ProcessKind.VIEWER, ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_forwarded, theirs, ProcessKind.VIEWER, dispatcher)
        await nursery.start(forwarder.run)
        everything = Dispatcher(
            "local", [], TABLE, forwards=dict.fromkeys(Owner, forwarder)
        )
        for name in ("Status", "LeaseList"):
            call = forward_call(name)
            reply = await everything.reply(call, EXCHANGE)
            assert reply.error.endswith(".Failed")
            assert (
                f"{name} is not a method of this process"
                in bytes(reply.parameters).decode()
            )
        reply = await everything.reply(forward_call("Clipboard"), EXCHANGE)
        assert reply.error == ""
        nursery.cancel_scope.cancel()


def forward_call(name):
    return Call(f"io.vitrail.Broker.{name}")


async def test_an_answer_that_is_too_long_is_an_error(monkeypatch):
    monkeypatch.setattr(forwarding, "forwarded_bytes", lambda: 900)
    api = ScriptedBroker()
    ours, theirs = socket.socketpair()
    forwarder = Forwarder(ProcessKind.VIEWER, ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_forwarded, theirs, ProcessKind.VIEWER, partly([api]))
        await nursery.start(forwarder.run)
        api.silent = ["x" * 1000]
        with pytest.raises(
            InternalError, match="an internal error occurred in the viewer"
        ):
            await forwarder(forward_call("Windows"), EXCHANGE)
        reply = await forwarder(forward_call("GetVersion"), EXCHANGE)
        assert reply.error == ""
        nursery.cancel_scope.cancel()


class _Impatient:
    """An owner that does not wait until the client has taken an item."""

    def __init__(self, arrived):
        self._arrived = arrived

    @serves(RUN)
    async def run(self, exchange, request):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.emit, progress("arrived"))
            await self._arrived.wait()
            nursery.start_soon(exchange.emit, progress("never sent"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await exchange.emit(progress("next"))
        return RunItem(started=Started(sandbox=request.record, program=1))


def progress(step):
    return RunItem(progress=Progress(step=step, state="begun"))


async def test_an_item_follows_one_that_was_given_up_when_that_one_is_taken():
    """A client that does not read ends only its call."""
    ours, theirs = socket.socketpair()
    forwarder = Forwarder(ProcessKind.VIEWER, ours)
    arrived, reads, items, replies = trio.Event(), trio.Event(), [], []

    async def take(untrusted_item):
        arrived.set()
        await reads.wait()
        items.append(msgspec.json.decode(untrusted_item, type=RunItem).progress.step)

    async with trio.open_nursery() as nursery:
        owner = partly([_Impatient(arrived)])
        nursery.start_soon(serve_forwarded, theirs, ProcessKind.VIEWER, owner)
        await nursery.start(forwarder.run)
        call = Call("io.vitrail.Broker.Run", msgspec.Raw(b'{"record": "a"}'), more=True)

        async def ask():
            replies.append(
                await forwarder(call, replace(EXCHANGE, more=True, emit=take))
            )
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        with trio.move_on_after(0.5):
            await forwarder.ended.wait()
        assert not forwarder.ended.is_set(), "others' calls are answered"
        reads.set()
    assert items == ["arrived", "next"]
    assert replies[0].error == ""


def test_each_method_has_an_owner():
    assert {row.owner for row in TABLE.values()} == set(Owner)


class _Ending:
    """An owner that ends at once, as the viewer's process does without sandboxes."""

    def __init__(self, scope):
        self._scope = scope

    @serves(SHUTDOWN)
    async def shutdown(self, exchange, request):
        del exchange
        self._scope.cancel()
        return request


async def test_the_answer_to_shutdown_comes_though_its_process_ends_at_once():
    ours, theirs = socket.socketpair()
    forwarder = Forwarder(ProcessKind.VIEWER, ours)
    async with trio.open_nursery() as nursery:
        await nursery.start(forwarder.run)
        async with trio.open_nursery() as owner:
            owner.start_soon(
                serve_forwarded,
                theirs,
                ProcessKind.VIEWER,
                partly([_Ending(owner.cancel_scope)]),
            )
            replies = []

            async def ask():
                replies.append(await forwarder(forward_call("Shutdown"), EXCHANGE))

            nursery.start_soon(ask)
        with trio.fail_after(20):
            await forwarder.ended.wait()
            while not replies:
                await trio.lowlevel.checkpoint()
        assert replies[0].error == ""


async def test_a_process_that_does_not_read_does_not_keep_the_forwarder_from_ending():
    ours, theirs = socket.socketpair()
    forwarder = Forwarder(ProcessKind.VIEWER, ours)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(forwarder.run)
            for _ in range(8):
                call = Call(
                    "io.vitrail.Broker.GetVersion",
                    msgspec.Raw(b'"%s"' % (b"x" * 60_000)),
                )
                nursery.start_soon(forwarder, call, EXCHANGE)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    theirs.close()
