"""Attack: work that a stranger, or one machine, makes the ingest service do for it.

The store is a stand-in: a question here never reaches a database.
"""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress

import h11
import msgspec
import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError
from broker.fleet import server
from broker.fleet.server import IngestLimits, IngestServer
from broker.ipc.audit.ingest import BATCH_BYTES, Position, SignedBatch
from tests.kit.eventually import eventually

LONG = 100_000


class Store:
    """Knows ``one`` and ``two``, and ``log`` by its log alone; batches wait until the
    test lets them go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.taking = 0
        self.looked_up = 0

    def by_log(self, machine, credential):
        del credential
        self.looked_up += 1
        return {"one": False, "two": False, "log": True}.get(machine)

    def take(self, batch, credential, new=lambda machine: None):
        """A batch without a log's name is a new one of the machine's own."""
        if not batch.log:
            new(batch.machine)
        if credential.token:
            return Position(0, "")
        self.taking += 1
        self.go.wait()
        return Position(0, "")

    def position(self, machine, log, credential):
        del log, credential
        if machine not in {"one", "two"}:
            raise RefusedError("this machine is not enrolled")
        return Position(0, "")


@asynccontextmanager
async def service(limits=None) -> AsyncIterator[tuple[Store, int, IngestServer]]:
    store = Store()
    made = IngestServer(store, limits or IngestLimits())
    async with trio.open_nursery() as nursery:
        port = await nursery.start(made.serve, "127.0.0.1", 0, None)
        try:
            yield store, port, made
        finally:
            store.go.set()
            nursery.cancel_scope.cancel()


def posted(machine: str, body: bytes, *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nVitrail-Machine: {machine}\r\n"
    head += f"Content-Encoding: gzip\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


async def answer(stream: trio.SocketStream) -> bytes:
    """The status of the next answer, which is read to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(4096)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(body) < size:
        body += await stream.receive_some(size - len(body))
    return data.split(b" ", 2)[1]


async def test_batch_of_a_stranger_is_not_unpacked(monkeypatch) -> None:
    """8 MiB of work for 10 KiB, as often as it is sent, in the thread of all others."""
    unpacked = []
    decoded = server._decoded
    monkeypatch.setattr(
        server, "_decoded", lambda *words: unpacked.append(1) or decoded(*words)
    )
    bomb = gzip.compress(b"[" + b" " * (BATCH_BYTES - 2))
    assert len(bomb) < 65536
    async with service() as (_, port, _):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(posted("eve", bomb))
            assert await answer(stream) == b"403"
    assert unpacked == []


async def test_one_machine_does_not_take_all_room_for_long_bodies(monkeypatch) -> None:
    """Begun and not ended, they would keep every other machine's batch waiting."""
    monkeypatch.setattr(server, "_SECONDS", 300.0)  # a third, for a body without a pace
    limits = IngestLimits(long_bodies=8)
    async with service(limits) as (store, port, made), trio.open_nursery() as nursery:
        for _ in range(8):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            nursery.start_soon(
                held_open, stream, posted("one", b"x" * LONG, length=LONG + 9)
            )
        await eventually(
            lambda: made._long.borrowed_tokens >= 4 and store.looked_up == 8
        )
        async with await trio.open_tcp_stream("127.0.0.1", port) as honest:
            await honest.send_all(posted("two", gzip.compress(b"{}") + b"y" * LONG))
            with trio.fail_after(20):
                assert await answer(honest) == b"403", "not a batch, and answered"
        nursery.cancel_scope.cancel()


async def held_open(stream: trio.SocketStream, data: bytes) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError):  # it was ended
            await stream.send_all(data)
        await trio.sleep_forever()


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"GET /v1/position/"
        + b"0" * 32
        + b" HTTP/1.1\r\nHost: x\r\nVitrail-Machine: eve\r\n\r\n",
    ],
)
async def test_strangers_do_not_take_all_connections(asked: bytes) -> None:
    """Open and silent, or refused and asking on, as many as there may be."""
    few = IngestLimits(connections=6, strangers=6)
    async with service(few) as (_, port, made), trio.open_nursery() as nursery:
        for _ in range(12):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            nursery.start_soon(held_open, stream, asked)
        async with await trio.open_tcp_stream("127.0.0.1", port) as honest:
            place = b"GET /v1/position/" + b"0" * 32 + b" HTTP/1.1\r\nHost: x\r\n"
            await honest.send_all(place + b"Vitrail-Machine: one\r\n\r\n")
            with trio.fail_after(20):
                assert await answer(honest) == b"200"
        assert len(made._strangers) <= 6
        nursery.cancel_scope.cancel()


async def test_machine_does_not_take_the_connections_of_others() -> None:
    few = IngestLimits(connections=6, connections_of_one=2)
    place = b"GET /v1/position/" + b"0" * 32 + b" HTTP/1.1\r\nHost: x\r\n"
    async with service(few) as (_, port, made), AsyncExitStack() as opened:
        streams = []
        for _ in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            streams.append(await opened.enter_async_context(stream))
            await stream.send_all(place + b"Vitrail-Machine: one\r\n\r\n")
            if len(streams) < 3:
                assert await answer(stream) == b"200"
        # The third is ended, the others can ask again.
        with trio.fail_after(20), suppress(trio.BrokenResourceError):
            assert await streams[2].receive_some(1) == b""
        await streams[0].send_all(place + b"Vitrail-Machine: one\r\n\r\n")
        assert await answer(streams[0]) == b"200"
        assert made._strangers == {}
    await eventually(lambda: made._machines == {})


async def test_refused_requests_of_a_machine_count_as_its_own() -> None:
    """Each is work, however it ends: its connections are few before they have any."""
    few = IngestLimits(connections_of_one=2)
    async with service(few) as (_, port, made), AsyncExitStack() as opened:
        for number in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await opened.enter_async_context(stream)
            await stream.send_all(posted("one", b"not packed"))
            if number < 2:
                assert await answer(stream) == b"403"
        with trio.fail_after(20), suppress(trio.BrokenResourceError):
            assert await stream.receive_some(1) == b""
        await eventually(lambda: list(made._machines.values()) == ["one", "one"])


async def test_short_bodies_that_unpack_to_long_ones_count_as_long() -> None:
    """20 KiB become 8 MiB, in the thread that others wait for."""
    few = IngestLimits(long_bodies_of_one=1)
    body = gzip.compress(b'{"log": "", "machine": "one"}')
    async with service(few) as (store, port, made), AsyncExitStack() as opened:
        streams = []
        for number in range(2):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            streams.append(await opened.enter_async_context(stream))
            await stream.send_all(posted("one", body))
            if number == 0:
                await eventually(lambda: store.taking == 1)
        with trio.fail_after(20):
            assert await answer(streams[1]) == b"403"
        assert made._long.borrowed_tokens == 1


@pytest.mark.parametrize("machine", ["one", "log"])
async def test_one_machine_does_not_take_all_threads(machine: str) -> None:
    body = gzip.compress(b'{"log": "", "machine": "one"}')
    async with service() as (store, port, made), AsyncExitStack() as opened:
        for _ in range(16):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await opened.enter_async_context(stream)
            await stream.send_all(posted(machine, body))
        places = made._long if machine == "one" else made._long_by_log
        await eventually(lambda: places.borrowed_tokens == 4)
        await eventually(lambda: store.taking >= 2)
        honest = await opened.enter_async_context(
            await trio.open_tcp_stream("127.0.0.1", port)
        )
        place = b"GET /v1/position/" + b"0" * 32 + b" HTTP/1.1\r\nHost: x\r\n"
        await honest.send_all(place + b"Vitrail-Machine: two\r\n\r\n")
        with trio.fail_after(20):
            assert await answer(honest) == b"200"
        assert store.taking == 2


async def test_names_of_logs_hold_no_places_of_enrolled_machines() -> None:
    """No credential: whoever knows a machine's name begins bodies and sends no more."""
    few = IngestLimits(long_bodies=2, long_bodies_by_log=2)
    async with service(few) as (_, port, made), trio.open_nursery() as nursery:
        for _ in range(4):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            nursery.start_soon(held_open, stream, posted("log", b"x", length=1 << 23))
        async with await trio.open_tcp_stream("127.0.0.1", port) as honest:
            await eventually(lambda: made._long_of["log", ""] == 4)
            await honest.send_all(posted("two", b"not packed"))
            with trio.fail_after(8):  # ten seconds are what the others have
                assert await answer(honest) == b"403", "not a batch, and answered"
        nursery.cancel_scope.cancel()


def by_token(request: bytes) -> bytes:
    """The request with a token that the machine has made itself."""
    return request.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer own\r\n\r\n", 1)


@pytest.mark.parametrize("connected", [False, True])
async def test_who_knows_a_logs_name_keeps_its_machine_no_longer_waiting(connected):
    """Attack: places and connections of a name, taken by others who know it."""
    few = IngestLimits(connections_of_one=4, long_bodies_by_log=2)
    batch = gzip.compress(
        msgspec.json.encode(SignedBatch("", "log", 1, [], "", [], "", [], []))
    )
    place = b"GET /v1/position/" + b"0" * 32 + b" HTTP/1.1\r\nHost: x\r\n"
    place += b"Vitrail-Machine: log\r\n\r\n"
    async with service(few) as (_, port, made), trio.open_nursery() as nursery:
        honest = await trio.open_tcp_stream("127.0.0.1", port)
        await honest.send_all(by_token(posted("log", batch)))
        assert await answer(honest) == b"200"
        if not connected:
            await honest.aclose()
        for asked in 8 * [place] + 8 * [posted("log", b"x", length=1 << 23)]:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            nursery.start_soon(held_open, stream, asked)
        await eventually(lambda: made._long_by_log.borrowed_tokens == 2)
        if not connected:
            honest = await trio.open_tcp_stream("127.0.0.1", port)
        async with honest:
            for asked in (place, posted("log", batch)):
                await honest.send_all(by_token(asked))
                with trio.fail_after(8):  # ten seconds are what the others have
                    assert await answer(honest) == (
                        b"403" if asked is place else b"200"
                    )
        nursery.cancel_scope.cancel()


async def test_a_batch_that_is_sent_again_proves_no_machine():
    """Attack: the token of who has a copy of a batch that the store has."""
    old = SignedBatch("00", "log", 1, [], "", [], "", [], [])
    sent = gzip.compress(msgspec.json.encode(old))
    async with service() as (_, port, made):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(by_token(posted("log", sent)))
            assert await answer(stream) == b"200"
        assert made._machines == made._proved == {}


async def test_a_new_batch_proves_the_machine_that_it_names():
    """Attack: a batch of one's own, asked under the name of another."""
    own = SignedBatch("", "log", 1, [], "", [], "", [], [])
    sent = gzip.compress(msgspec.json.encode(own))
    async with service() as (_, port, made):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(by_token(posted("two", sent)))
            assert await answer(stream) == b"200"
        assert made._proved == {"log": "own"}


async def test_body_comes_at_a_pace_or_is_ended(autojump_clock) -> None:
    """One byte a second would hold its place for 30 seconds."""
    for each, comes in ((1, False), (65536, True)):
        ours, theirs = trio.testing.memory_stream_pair()
        http = h11.Connection(h11.SERVER)
        http.receive_data(posted("one", b"", length=20 * each))
        assert isinstance(http.next_event(), h11.Request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slowly, theirs, b"x" * each)
            with nullcontext() if comes else pytest.raises(trio.TooSlowError):
                assert len(await server._body(http, ours, keep=True)) == 20 * each
            nursery.cancel_scope.cancel()


async def slowly(stream, data: bytes) -> None:
    for _ in range(20):
        await trio.sleep(1)
        await stream.send_all(data)
