"""Both ends of an epoch on a pair of sockets; whole brokers: tests/attack."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core import limits
from broker.core.errors import InternalError
from broker.link import messages as m
from broker.session.link_epoch import Epoch
from tests.kit.linkpair import sessions


async def done(_epoch, request):
    """Whatever is asked is done."""
    return m.Done(request.request)


@asynccontextmanager
async def epochs():
    """The dialler's and the acceptor's end, running."""
    sockets = socket.socketpair()
    for sock in sockets:
        sock.settimeout(0)
    ends = [
        Epoch(session, sock, done, rest=b"")
        for session, sock in zip(sessions(), sockets, strict=True)
    ]
    async with trio.open_nursery() as nursery:
        for end in ends:
            await nursery.start(end.run)
        with trio.fail_after(60):
            yield ends
        for end in ends:
            end.end("the test is over")


async def test_what_cannot_be_asked_uses_up_no_place():
    """Else the link stood still after so many mistakes, and nobody knew why."""
    async with epochs() as (host, viewer):
        for _ in range(2 * limits.LINK_REQUESTS):
            with pytest.raises(InternalError, match="never announced"):
                await host.ask(lambda n: m.LeaseEnded(n, "0" * 16, "a test"))
        assert isinstance(await host.ask(m.Ping), m.Done)
        assert isinstance(await viewer.ask(m.Ping), m.Done)


async def test_one_that_asks_without_end_is_read_as_slowly_as_it_may(monkeypatch):
    """A broker that was taken over leaves no more in our log than that."""
    monkeypatch.setattr(limits, "LINK_REQUESTS_AT_ONCE", 10)
    monkeypatch.setattr(limits, "LINK_REQUESTS_PER_SECOND", 20)
    async with epochs() as (host, viewer):
        began = trio.current_time()
        for _ in range(21):
            await host.ask(m.Ping)
        # Ten at once; what follows the eleventh waits for its twentieth of a second.
        assert trio.current_time() - began >= 10 / 20 - 0.01
        assert isinstance(await viewer.ask(m.Ping), m.Done)
