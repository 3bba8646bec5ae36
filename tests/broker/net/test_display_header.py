"""The first bytes of a display stream: exactly so many, and not for ever."""

from __future__ import annotations

import socket

import pytest
import trio

from broker.core import limits
from broker.core.errors import PeerError
from broker.net.display_header import read_header
from tests.kit.link.roles import pair

N = limits.DISPLAY_HEADER_BYTES


@pytest.mark.parametrize("more", [0, 1, 100_000])
async def test_so_many_bytes_are_taken_and_no_more(more):
    ours, theirs = pair()
    with ours, theirs:
        said = bytes(range(N)) + b"x" * more
        ours.sendall(said)
        assert await read_header(theirs) == said[:N]
        ours.close()
        left = 0
        while chunk := theirs.recv(1 << 20):
            left += len(chunk)
        assert left == more, "the rest is for the pump"


async def test_one_byte_fewer_waits_and_then_is_refused(autojump_clock):
    ours, theirs = pair()
    with ours, theirs:
        ours.sendall(b"x" * (N - 1))
        began = trio.current_time()
        with pytest.raises(PeerError, match=r"only 15 bytes of the first 16 .* 5 s"):
            await read_header(theirs)
        assert trio.current_time() - began == limits.DISPLAY_HEADER_SECONDS
        assert theirs.fileno() != -1, "the caller's to close"
        assert theirs.gettimeout() == 0


async def test_bytes_that_drip_in_time_are_a_head(autojump_clock):
    """At the last moment is in time; the deadline counts from the first."""
    ours, theirs = pair()
    step = limits.DISPLAY_HEADER_SECONDS / (N + 1)

    async def drip():
        for number in range(N):
            await trio.sleep(step)
            ours.sendall(bytes([number]))

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert await read_header(theirs) == bytes(range(N))


async def test_bytes_that_drip_too_slowly_are_none(autojump_clock):
    ours, theirs = pair()
    step = limits.DISPLAY_HEADER_SECONDS / (N - 0.5)

    async def drip():
        while True:
            await trio.sleep(step)
            ours.sendall(b"x")

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with pytest.raises(PeerError, match="only 15 bytes"):
                await read_header(theirs)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [0, 1, N - 1])
async def test_an_end_before_it_is_whole(number):
    ours, theirs = pair()
    with ours, theirs:
        ours.sendall(b"x" * number)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerError, match=f"ended after {number} of the first 16"):
            await read_header(theirs)


async def test_a_reset_before_it_is_whole():
    ours, theirs = pair()
    with theirs:
        ours.sendall(b"x" * 3)
        theirs.sendall(b"unread")
        ours.close()  # with bytes unread: unix(7) resets
        with pytest.raises(
            PeerError, match=r"failed after .* Connection reset by peer"
        ):
            await read_header(theirs)


async def test_an_end_after_it_is_the_stream_s_affair():
    ours, theirs = pair()
    with ours, theirs:
        ours.sendall(b"x" * N)
        ours.shutdown(socket.SHUT_WR)
        assert await read_header(theirs) == b"x" * N
