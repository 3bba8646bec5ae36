"""One suite for every relay: the pump in both modes, and the reference."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.helpers.filters.carrying_filters import pump_filter
from broker.helpers.pump.process import start_pump
from broker.helpers.pump.turns import available
from broker.ipc.pump import EndReason
from tests.kit.relay.sockets import Relay, fds, fill, lay, pattern, read_all, relay_of

KINDS = ("splice", "python", "copy", "in-loop")
RESETS = {errno.EPIPE, errno.ECONNRESET}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def handle(kind, monkeypatch):
    """Sync, so that the fork comes before trio."""
    # 'make setup' builds the part in C; without it half of this would be void.
    assert available()
    if kind == "python":
        monkeypatch.setenv("VITRAIL_RELAY_PYTHON", "1")
    return start_pump(pump_filter())


@pytest.fixture
async def relay(kind, handle):
    async with relay_of(kind, handle) as relay:
        yield relay


@pytest.mark.parametrize("side", ["a", "b"])
async def test_half_close_waits_for_a_late_answer(relay: Relay, side, nursery):
    line = lay(nursery, relay)
    asking, answering = line.ends(side)
    answer = bytes(range(256)) * 2735  # 700 kB, more than any buffer here holds

    async def serve() -> None:
        assert await read_all(answering) == b"question"
        await trio.sleep(0.6)  # longer than socat's -t
        await answering.send_all(answer)
        await answering.send_eof()

    nursery.start_soon(serve)
    await asking.send_all(b"question")
    await asking.send_eof()
    assert await read_all(asking) == answer
    end = await line.end()
    assert end.reason is EndReason.END
    assert end.errno == 0
    sizes = (end.bytes_ab, end.bytes_ba)
    assert sizes == ((8, len(answer)) if side == "a" else (len(answer), 8))


async def test_both_may_end_before_saying_anything(relay: Relay, nursery):
    line = lay(nursery, relay)
    await line.client.send_eof()
    await line.server.send_eof()
    end = await line.end()
    assert (end.bytes_ab, end.bytes_ba, end.reason) == (0, 0, EndReason.END)


@pytest.mark.parametrize("side", ["a", "b"])
async def test_abrupt_close_reaches_the_other_side(relay: Relay, side, nursery):
    line = lay(nursery, relay)
    leaving, staying = line.ends(side)
    await leaving.send_all(b"last words")
    await leaving.aclose()
    assert await read_all(staying) == b"last words"
    await staying.aclose()
    assert (await line.end()).reason is EndReason.END


@pytest.mark.parametrize("side", ["a", "b"])
async def test_a_reset_is_not_an_end(relay: Relay, side, nursery):
    """Closing with unread bytes is how a UNIX socket resets (unix(7))."""
    line = lay(nursery, relay)
    leaving, staying = line.ends(side)
    await staying.send_all(b"never read")
    await trio.lowlevel.wait_readable(leaving.socket)
    await leaving.aclose()
    end = await line.end()
    assert end.reason is EndReason.RESET
    assert end.errno in RESETS
    assert end.side == side


@pytest.mark.parametrize("side", ["a", "b"])
async def test_bytes_for_a_side_that_has_gone_are_an_error(relay: Relay, side, nursery):
    line = lay(nursery, relay)
    leaving, staying = line.ends(side)
    await leaving.send_all(b"last words")
    await leaving.aclose()
    assert await staying.receive_some(100) == b"last words"
    with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
        await _send_for_ever(staying)
    end = await line.end()
    assert end.reason in {EndReason.RESET, EndReason.END}
    await staying.aclose()


async def _send_for_ever(to: trio.SocketStream) -> None:
    while True:
        await to.send_all(b"too late")


@pytest.mark.parametrize("side", ["a", "b"])
async def test_last_words_are_heard_though_no_listener_there(
    relay: Relay, side, nursery
):
    """A side that floods and leaves without reading: as between two sockets."""
    line = lay(nursery, relay)
    leaving, staying = line.ends(side)
    await staying.send_all(b"unread")
    await trio.lowlevel.wait_readable(leaving.socket)
    words = bytes(range(256)) * 500  # fits into the kernel's buffers
    await leaving.send_all(words)
    await leaving.aclose()
    received = bytearray()
    with trio.fail_after(60):
        try:
            async for chunk in staying:
                received += chunk
        except trio.BrokenResourceError:
            pass  # the reset, after the words
    assert bytes(received) == words
    assert (await line.end()).reason is EndReason.RESET


@pytest.mark.parametrize("side", ["a", "b"])
async def test_a_failed_write_does_not_cut_the_other_way_short(
    relay: Relay, side, nursery
):
    line = lay(nursery, relay)
    leaving, staying = line.ends(side)
    sent = await fill(leaving)
    await leaving.aclose()
    await staying.send_all(b"for nobody")  # fails while the rest is on its way
    await trio.testing.wait_all_tasks_blocked(0.05)
    with pytest.raises(trio.BrokenResourceError):
        await _send_for_ever(staying)
    assert await read_all(staying) == pattern(sent)
    end = await line.end()
    assert end.reason is EndReason.RESET
    assert end.side == side
    assert max(end.bytes_ab, end.bytes_ba) == sent


@pytest.mark.parametrize("side", ["a", "b"])
async def test_sender_gone_while_the_reader_is_blocked(relay: Relay, side, nursery):
    line = lay(nursery, relay)
    sending, reading = line.ends(side)
    sent = await fill(sending)
    await sending.aclose()
    assert await read_all(reading) == pattern(sent)
    await reading.aclose()
    assert (await line.end()).reason is EndReason.END


async def test_a_slow_reader_bounds_the_bytes_in_flight(relay: Relay, nursery):
    line = lay(nursery, relay)
    sent = await fill(line.client)
    # two socket buffers of 208 KiB with their overhead, one pipe or buffer
    assert sent < 1_200_000
    taken = await line.server.receive_some(4096)
    more = await fill(line.client)
    assert more <= sent
    await line.client.send_eof()
    rest = await read_all(line.server)
    assert len(taken) + len(rest) == sent + more
    await line.server.send_eof()
    assert (await line.end()).bytes_ab == sent + more


async def test_64_streams_keep_their_bytes_apart(relay: Relay, nursery):
    async def one(number: int) -> None:
        line = lay(nursery, relay)
        mine = bytes([number]) * (100_000 + number)
        yours = bytes([255 - number]) * (50_000 + number)

        async def serve() -> None:
            assert await read_all(line.server) == mine
            await line.server.send_all(yours)
            await line.server.send_eof()

        async with trio.open_nursery() as both:
            both.start_soon(serve)
            await line.client.send_all(mine)
            await line.client.send_eof()
            assert await read_all(line.client) == yours
        end = await line.end()
        assert end.reason is EndReason.END
        assert (end.bytes_ab, end.bytes_ba) == (len(mine), len(yours))

    async with trio.open_nursery() as streams:
        for number in range(64):
            streams.start_soon(one, number)


async def test_idle_ends_a_silent_stream_only(relay: Relay, nursery):
    line = lay(nursery, relay, idle_seconds=1.2)
    began = trio.current_time()
    for _ in range(4):
        await trio.sleep(0.3)
        await line.client.send_all(b"x")
        assert await line.server.receive_some(1) == b"x"
    end = await line.end()
    assert end.reason is EndReason.IDLE
    assert end.bytes_ab == 4
    assert trio.current_time() - began >= 2.39
    assert await read_all(line.client) == b""
    assert await read_all(line.server) == b""


async def test_cancellation_closes_both_sides(relay: Relay, nursery):
    line = lay(nursery, relay)
    await line.client.send_all(b"x")
    assert await line.server.receive_some(1) == b"x"
    line.scope.cancel()
    with trio.fail_after(30):
        await line.ended.wait()
    assert line.result is None
    assert await read_all(line.client) == b""
    assert await read_all(line.server) == b""


async def test_nothing_leaks(relay: Relay, handle, nursery):
    async def clean(line) -> None:
        await line.client.send_eof()
        await line.server.send_eof()
        await line.end()

    async def reset(line) -> None:
        await line.server.send_all(b"unread")
        await trio.lowlevel.wait_readable(line.client.socket)
        await line.client.aclose()
        await line.end()

    async def cut(line) -> None:
        await fill(line.client, 0.05)  # bytes under way, all that fit or not
        line.scope.cancel()
        await line.ended.wait()

    async def once() -> None:
        for way in (clean, reset, cut):
            line = lay(nursery, relay)
            await way(line)
            await line.client.aclose()
            await line.server.aclose()

    await once()  # made once and kept: the pool's pipe
    before = fds(), fds(handle.pid)
    for _ in range(5):
        await once()
    assert (fds(), fds(handle.pid)) == before


async def test_bytes_are_exact_in_any_chunks(relay: Relay):
    """One relay for all examples: a start of the pump takes longer than an example."""

    async def example(chunks: list[bytes], reads: int) -> None:
        async with trio.open_nursery() as nursery:
            line = lay(nursery, relay)

            async def echo() -> None:
                async for chunk in line.server:
                    await line.server.send_all(chunk)
                await line.server.send_eof()

            async def ask() -> None:
                for chunk in chunks:
                    await line.client.send_all(chunk)
                await line.client.send_eof()

            nursery.start_soon(echo)
            nursery.start_soon(ask)
            got = bytearray()
            with trio.fail_after(20):
                while chunk := await line.client.receive_some(reads):
                    got += chunk
            assert bytes(got) == b"".join(chunks)
            end = await line.end()
            assert end.reason is EndReason.END
            assert end.bytes_ab == end.bytes_ba == len(got)
            nursery.cancel_scope.cancel()

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.binary(min_size=1, max_size=5000), max_size=20),
        st.lists(st.integers(1, 200_000), max_size=6),
        st.integers(1, 100_000),
    )
    def examples(small: list[bytes], sizes: list[int], reads: int) -> None:
        chunks = small + [pattern(size) for size in sizes]
        trio.from_thread.run(example, chunks, reads)

    await trio.to_thread.run_sync(examples)
