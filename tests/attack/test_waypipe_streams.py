"""A hostile stream ends alone, with its reason, and delays no other one.

The rules of the wire one by one are in tests/broker/jail/waypipe; here they meet
sockets, memory and another application of the same sandbox.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest
import trio
import trio.testing

from broker.core.errors import PeerError
from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from tests.kit.eventually import eventually
from tests.kit.waypipe import wire_bytes as w
from tests.kit.waypipe.stand import Wire, wire

_GET_REGISTRY = w.message(1, 1, struct.pack("<I", 2))


def _sync(number: int) -> bytes:
    return w.message(1, 0, struct.pack("<I", number))


class Stream:
    """A stream of the test's own, spoken by hand."""

    def __init__(self, it: Wire) -> None:
        self.sock = trio.socket.from_stdlib_socket(it.stream())
        self.data = b""

    async def say(self, *parts: bytes) -> None:
        """Send it, as far as the other end reads."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[await self.sock.send(view) :]

    async def hear(self) -> bytes:
        """Bytes so far and the next ones; empty at the end."""
        try:
            more = await self.sock.recv(65536)
        except ConnectionResetError:
            more = b""
        self.data += more
        return more

    async def receives(self, part: bytes) -> None:
        with trio.fail_after(30):
            while part not in self.data:
                assert await self.hear(), "it ended"

    async def ended(self) -> None:
        with trio.fail_after(30):
            while await self.hear():
                pass
        self.sock.close()


async def _well(it: Wire) -> Stream:
    """Another application of the sandbox, whose requests are answered."""
    other = Stream(it)
    await other.say(w.header(), w.protocol(_GET_REGISTRY, _sync(3)))
    await other.receives(b"xdg_wm_base")
    await other.receives(_deleted(3))
    return other


async def _answered(other: Stream, number: int) -> None:
    """It asks once more and is answered: delete_id of its callback."""
    other.data = b""
    await other.say(w.protocol(_sync(number)))
    await other.receives(_deleted(number))


async def _taken(it: Wire, number: int) -> StreamConnection:
    """The newest connection, once there are ``number``: connect ends before accept."""
    await eventually(lambda: not (len(it.connections) < number), deadline=30)
    return it.connections[-1]


def _deleted(number: int) -> bytes:
    return struct.pack("<IHHI", 1, 1, 12, number)


_BAD = {
    "no waypipe": (b"GET / HTTP/1.1\r\n\r\n", "not a waypipe stream"),
    "compression": (w.header(w.HEADER + (1 << 8)), "compresses"),
    "GPU": (w.header(w.HEADER & ~4), "GPU buffers"),
    "junk after the header": (w.header() + b"\xff" * 64, "block"),
    "span beyond the file": (
        w.header() + w.open_file(1, 64) + w.diff(1, w.span(15, 17, bytes(8))),
        "span",
    ),
    "not a file where one must be": (
        w.header()
        + w.protocol(_GET_REGISTRY)
        + w.pipe(BlockKind.OPEN_IR_PIPE, 1)
        + w.inject(1)
        + w.protocol(w.message(1, 0, struct.pack("<I", 3), fds=1)),
        "descriptors that no message",
    ),
    "close with junk": (
        w.header() + w.block(BlockKind.CLOSE, bytes(4)) + b"\xaa" * 4000,
        "",
    ),
}


@pytest.mark.parametrize("case", _BAD)
async def test_a_bad_stream_ends_alone(case):
    data, reason = _BAD[case]
    async with wire() as it:
        other = await _well(it)
        bad = Stream(it)
        await bad.say(data)
        await bad.ended()
        if reason:
            assert len(it.ends) == 1
            assert isinstance(it.ends[0], PeerError)
            assert reason in str(it.ends[0])
        else:
            assert not it.ends
        await _answered(other, 3)
        other.sock.close()


async def test_a_mistake_of_ours_in_decoding_ends_one_stream(monkeypatch):
    """The sandbox's other windows live in the same process."""
    async with wire() as it:
        other = await _well(it)
        bad = await _well(it)
        connection = it.connections[-1]

        def mistake():
            raise KeyError("ours")

        monkeypatch.setattr(connection.channel, "next", mistake)
        await bad.say(w.protocol(_sync(4)))
        await bad.ended()
        assert "KeyError: 'ours'" in str(connection.core.fault)
        await _answered(other, 3)
        other.sock.close()


@pytest.mark.parametrize("start", [b"", w.header()[:7]])
async def test_a_connection_without_a_header_has_a_deadline(monkeypatch, start):
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_HEADER_SECONDS", 0.3)
    async with wire() as it:
        silent = Stream(it)
        await silent.say(start)
        await silent.ended()
        assert "did not send a waypipe header" in str(it.ends[0])


async def test_memory_is_counted_by_touched_pages(monkeypatch):
    """A sparse file may be large; writing all over it is another thing."""
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_TOUCHED_BYTES", 8 << 20)
    async with wire() as it:
        other = await _well(it)
        sparse = Stream(it)
        size = 512 << 20
        await sparse.say(w.header(), w.open_file(1, size))
        pages = b"".join(w.span(n << 10, (n << 10) + 1, b"abcd") for n in range(1500))
        await sparse.say(w.diff(1, pages))

        async def charged():
            return it.machine.touched == 1500 * 4096

        assert await eventually(charged)
        # As much again is more than it may have.
        again = b"".join(
            w.span((n + 2000) << 10, (n + 2000 << 10) + 1, b"abcd") for n in range(1500)
        )
        await sparse.say(w.diff(1, again))
        await sparse.ended()
        assert "memory" in str(it.ends[0])
        assert it.machine.touched == 0
        await _answered(other, 3)
        other.sock.close()


async def test_a_busy_stream_lets_others_of_its_sandbox_have_their_turn():
    """Between two answers to another application it gets a few blocks done."""
    words = waypipe_limits.WAYPIPE_BLOCK_BYTES // 12 - 4
    comb = b"".join(w.span(2 * n, 2 * n + 1, b"abcd") for n in range(words))
    block = w.diff(1, comb)
    async with wire() as it:
        other = await _well(it)
        busy = Stream(it)
        await busy.say(w.header(), w.open_file(1, 8 * words))
        hostile = await _taken(it, 2)
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await busy.say(block)

            nursery.start_soon(flood)
            await eventually(lambda: not (hostile.channel.blocks < 5), deadline=60)
            most = 0
            for _ in range(40):
                before = hostile.channel.blocks
                await _answered(other, 3)
                most = max(most, hostile.channel.blocks - before)
            nursery.cancel_scope.cancel()
        assert hostile.work > 0
        # Asking, the compositor's answer and ours: three turns, each of which
        # may come after a block of the other's.
        assert most <= 12, f"{most} blocks while one question was answered"
        busy.sock.close()
        other.sock.close()


async def test_who_never_reads_is_not_buffered_for_ever():
    """Its answers wait up to a limit; then it is read no more."""
    async with wire() as it:
        deaf = Stream(it)
        await deaf.say(w.header(), w.protocol(_GET_REGISTRY))
        connection = await _taken(it, 1)
        number, stuck = 3, False
        while not stuck:
            with trio.move_on_after(1) as patience:
                for _ in range(20):
                    ids = range(number, number + 50)
                    number += 50
                    await deaf.say(w.protocol(*(_sync(one) for one in ids)))
            stuck = patience.cancelled_caught
            if connection.core.fault is not None:
                break
        waiting = len(connection.channel.out) + len(connection.core.down.data)
        assert waiting < 4 * waypipe_limits.WAYPIPE_OUT_BYTES
        deaf.sock.close()


async def test_an_unread_pipe_does_not_stop_the_stream(monkeypatch):
    """The sandbox pours into a paste whose reader sleeps: the paste is dropped."""
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_PIPE_STALL_SECONDS", 0.2)
    async with wire() as it:
        stream = await _well(it)
        connection = it.connections[-1]
        reading, writing = os.pipe2(os.O_CLOEXEC)
        # As another application's wish for this one's selection would come.
        connection.core.down.add(w.message(2, 9, b""), [writing])
        connection._flush()
        await stream.receives(struct.pack("<i", -1))
        piece = w.pipe(BlockKind.PIPE_TRANSFER, -1, bytes(32_768))
        for _ in range(60):
            await stream.say(piece)
        await _answered(stream, 3)
        assert connection.core.sandbox.refused["slow pipes"] == 1
        assert struct.pack("<iI", -1, 0)[:4] in stream.data
        os.close(reading)
        stream.sock.close()


async def test_pastes_into_an_application_that_does_not_read_wait():
    """They end nothing, and all of their bytes come once it reads again."""
    size = 4 * waypipe_limits.WAYPIPE_OUT_BYTES
    async with wire() as it:
        stream = await _well(it)
        connection = it.connections[-1]
        opened = [w.pipe(BlockKind.OPEN_IR_PIPE, rid) for rid in (1, 2)]
        await stream.say(*opened)
        owners = connection.channel._pipes
        await eventually(lambda: not (len(owners) < 2), deadline=30)
        fds = [os.dup(fd) for fd in owners.values()]

        async def pour(fd: int) -> None:
            async with trio.lowlevel.FdStream(fd) as owner:
                await owner.send_all(bytes(size))

        stream.data = b""
        async with trio.open_nursery() as nursery:
            for fd in fds:
                nursery.start_soon(pour, fd)
            await eventually(
                lambda: (
                    not (len(connection.channel.out) < waypipe_limits.WAYPIPE_OUT_BYTES)
                ),
                deadline=30,
            )
            # Whatever waits for room does so by now, and more would be too much.
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert len(connection.channel.out) < 2 * waypipe_limits.WAYPIPE_OUT_BYTES
            with trio.fail_after(60):
                while len(stream.data) < 2 * size:
                    assert await stream.hear(), "it ended"
        assert not it.ends
        await _answered(stream, 3)
        stream.sock.close()


async def test_a_flood_of_acknowledgements_is_a_lie():
    """Each acknowledges blocks, and no end can have received more than were sent."""
    async with wire() as it:
        other = await _well(it)
        flood = await _well(it)
        ack = [
            w.block(BlockKind.ACK_NBLOCKS, struct.pack("<I", n)) for n in range(1, 5000)
        ]
        await flood.say(*ack)
        await flood.ended()
        assert "acknowledgement" in str(it.ends[0])
        await _answered(other, 3)
        other.sock.close()


async def test_too_many_spans_wait_and_other_applications_do_not(monkeypatch):
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_SPANS_PER_SECOND", 200_000)
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_SPANS_BURST", 10_000)
    count = 10_000
    comb = b"".join(w.span(2 * n, 2 * n + 1, b"abcd") for n in range(count))
    async with wire() as it:
        other = await _well(it)
        busy = Stream(it)
        await busy.say(w.header(), w.open_file(1, 8 * count))
        hostile = await _taken(it, 2)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy.say, *[w.diff(1, comb)] * 30)
            with trio.fail_after(60):
                while hostile.channel.files.spans < 30 * count:
                    await _answered(other, 3)
        # One comb is saved up, and bytes that are read at once are paid for afterwards.
        assert trio.current_time() - began > (30 - 1 - 7) * count / 200_000
        assert hostile.core.sandbox.refused["spans"] >= 1
        assert hostile.work < 0.5
        busy.sock.close()
        other.sock.close()


async def test_a_reader_that_resets_ends_its_paste_only():
    """A descriptor that content is written to may be a socket, too."""
    async with wire() as it:
        stream = await _well(it)
        connection = it.connections[-1]
        with socket.create_server(("127.0.0.1", 0)) as server:
            writing = socket.create_connection(server.getsockname())
            reader, _ = server.accept()
        writing.send(b"not read, so that its close is a reset")
        connection.core.down.add(w.message(2, 9, b""), [writing.detach()])
        connection._flush()
        await stream.receives(struct.pack("<i", -1))
        reader.close()
        await stream.say(w.pipe(BlockKind.PIPE_TRANSFER, -1, bytes(1000)))
        await stream.receives(w.pipe(BlockKind.PIPE_SHUTDOWN_R, -1))
        await _answered(stream, 3)
        stream.sock.close()


async def test_pools_are_ours_and_cannot_shrink():
    """What the compositor maps is a sealed memfd that no sandbox holds."""
    async with wire() as it:
        file = it.machine.file(4096)
        fd = file.export()
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 10)
        file.grow(8192)
        assert os.fstat(fd).st_size == 8192
        os.close(fd)
        file.give_up()
