"""Both ends of an epoch on a pair of sockets; whole brokers: tests/attack."""

from __future__ import annotations

import math
import socket
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core.errors import InternalError, UpstreamError
from broker.core.limits import link as limits
from broker.ipc.host_rows import LEASE_BEGUN, LEASE_ENDED, LeaseBegun, LeaseEnded
from broker.net.link.wire_types import Role
from broker.net.link_service.epoch import Epoch
from broker.net.link_service.link_status import LinkState
from tests.kit.link.handling import look, obey, parts_of, pong
from tests.kit.link.pair import sessions
from tests.kit.link.roles import LEASE


@asynccontextmanager
async def epochs(handle=obey, patience=math.inf):
    """The dialler's and the acceptor's end, running.

    ``handle`` answers for both; the first one has so much ``patience``.
    """
    sockets = socket.socketpair()
    for sock in sockets:
        sock.settimeout(0)
    ends = [
        Epoch(session, sock, parts_of(handle), rest=b"", patience=seconds)
        for session, sock, seconds in zip(
            sessions(), sockets, (patience, math.inf), strict=True
        )
    ]
    async with trio.open_nursery() as nursery:
        for end in ends:
            await nursery.start(end.run)
        with trio.fail_after(60):
            yield ends
        for end in ends:
            end.end("the test is over")


async def test_what_cannot_be_asked_uses_up_no_place():
    """Else the link would stop after so many mistakes, without a reason."""
    async with epochs() as (host, viewer):
        for _ in range(2 * limits.LINK_REQUESTS):
            with pytest.raises(InternalError, match="never announced"):
                await host.call(LEASE_ENDED, LeaseEnded("0" * 16, "a test"))
        await pong(host)
        await pong(viewer)


async def test_one_that_asks_without_end_is_read_as_slowly_as_it_may(monkeypatch):
    """A broker that was taken over leaves no more in our log than that."""
    monkeypatch.setattr(limits, "LINK_REQUESTS_AT_ONCE", 10)
    monkeypatch.setattr(limits, "LINK_REQUESTS_PER_SECOND", 20)
    async with epochs() as (host, viewer):
        began = trio.current_time()
        for _ in range(21):
            await look(host)
        # Ten at once; what follows the eleventh waits for its twentieth of a second.
        assert trio.current_time() - began >= 10 / 20 - 0.01
        await pong(viewer)


async def test_an_end_that_sends_but_answers_late_is_not_called_silent(mock_clock):
    """On an overloaded machine: 'has sent nothing for 0 s' would be false."""
    slow = Slow()
    async with epochs(slow) as (host, viewer):
        state = LinkState(Role.HOST, "unix:/x")
        state.up(host)

        async def look_at(found):
            found.append((await state.status()).problem)

        async def after_two_seconds(asks):
            """The status, if the viewer ``asks`` something meanwhile."""
            slow.asked, found = 0, []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look_at, found)
                await slow.wait_asked(1)
                mock_clock.jump(1)
                if asks:
                    nursery.start_soon(look, viewer)
                    await slow.wait_asked(2)
                mock_clock.jump(1.1)
                await wait_all_tasks_blocked()
                slow.may.set()
            slow.may = trio.Event()
            return found[0]

        name = host.name
        assert (await after_two_seconds(asks=True)).startswith(
            f"{name} has not answered within 2 s, but sends"
        )
        mock_clock.jump(1)
        assert (await after_two_seconds(asks=False)).startswith(
            f"{name} has sent nothing for "
        )


class Slow:
    """Answers when the test lets it."""

    def __init__(self):
        self.asked = 0
        self.more = trio.Event()
        self.may = trio.Event()

    async def __call__(self, epoch, row, request, exchange):
        self.asked += 1
        self.more.set()
        await self.may.wait()
        return await obey(epoch, row, request, exchange)

    async def wait_asked(self, number):
        while self.asked < number:
            self.more = trio.Event()
            await self.more.wait()


async def test_a_silent_end_is_given_up_in_either_direction(mock_clock):
    """So that a place is free again for those who must ask (a lease has ended)."""
    slow = Slow()
    async with epochs(slow, patience=10) as (host, viewer):

        async def ask(scope):
            with scope:
                await look(host)

        lost = []

        async def ask_for_a_place():
            with pytest.raises(UpstreamError) as caught:
                await look(host)
            lost.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(limits.LINK_REQUESTS - 1)]
            for scope in scopes:
                nursery.start_soon(ask, scope)
            await slow.wait_asked(len(scopes))
            for scope in scopes:
                scope.cancel()  # no task waits for the answers any more
            nursery.start_soon(ask_for_a_place)
            mock_clock.jump(9)
            await pong(viewer)
            assert host.live, "it has a second left"
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
            assert ["did not answer within 10 s" in said for said in lost] == [True]
        await host.over.wait()
        assert "did not answer within 10 s" in host.reason


async def test_each_listener_gets_the_reason_of_the_end(mock_clock):
    """Also one of the epoch's own tasks, for which its end has to wait."""
    told, asked = [], trio.Event()

    async def handle(epoch, row, request, exchange):
        if epoch is viewer:
            asked.set()
            await trio.sleep_forever()
        with trio.CancelScope(shield=True), pytest.raises(UpstreamError) as caught:
            await look(epoch)
        told.append(str(caught.value))
        return await obey(epoch, row, request, exchange)

    async def ask():
        with suppress(UpstreamError):  # its own link is lost with that end
            await look(viewer)

    async with (
        epochs(handle, patience=10) as (host, viewer),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask)
        await asked.wait()
        mock_clock.jump(10)
        await host.over.wait()
    assert ["did not answer within 10 s" in said for said in told] == [True]


async def test_one_that_answers_late_and_in_time_is_kept(mock_clock):
    """Each answer has all of the time, and time without a question is none."""
    slow = Slow()
    async with epochs(slow, patience=10) as (host, _):
        for number in range(1, 4):
            mock_clock.jump(9)
            slow.may = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, host)
                await slow.wait_asked(number)
                mock_clock.jump(9)
                slow.may.set()
        await pong(host)


class Silent:
    """Two ends; between ``stop`` and ``resume`` the viewer stands still."""

    def __init__(self, host, far, wire):
        self.host = host
        self.far = far
        self._wire = wire
        self._scope = None

    def stop(self):
        self._scope.cancel()

    async def carry(self):
        """Carry bytes between both, until stopped."""
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                a, b = self._wire
                nursery.start_soon(_copy, a, b)
                nursery.start_soon(_copy, b, a)


async def _copy(source, target):
    data = b"."
    # An end that is over has closed its socket.
    with suppress(OSError):
        while data:
            await trio.lowlevel.wait_readable(source)
            data = source.recv(1 << 16)
            target.sendall(data)


@asynccontextmanager
async def closing_all(*socks):
    try:
        yield
    finally:
        for sock in socks:
            sock.close()


@asynccontextmanager
async def one_that_stops(handle=obey, silence_limit=900.0):
    """A host's end, and a viewer's that can stand still while its socket lives."""
    (a, wire_a), (b, wire_b) = socket.socketpair(), socket.socketpair()
    for sock in (a, b, wire_a, wire_b):
        sock.settimeout(0)
    first, second = sessions()
    host = Epoch(
        first, a, parts_of(handle), rest=b"", patience=60.0, silence_limit=silence_limit
    )
    viewer = Epoch(second, b, parts_of(handle), rest=b"")
    ends = Silent(host, viewer, (wire_a, wire_b))
    async with closing_all(wire_a, wire_b), trio.open_nursery() as nursery:
        nursery.start_soon(ends.carry)
        for end in (host, viewer):
            await nursery.start(end.run)
        ends.resume = lambda: nursery.start_soon(ends.carry)
        with trio.fail_after(7200):
            yield ends
        for end in (host, viewer):
            end.end("the test is over")
        nursery.cancel_scope.cancel()


async def test_silent_end_kept_until_the_limit_and_heard_again(autojump_clock):
    """A suspended viewer loses no window: the issue of every closed lid."""
    async with one_that_stops() as ends:
        ends.stop()
        await ends.host.silence_changed.wait()
        assert ends.host.is_silent
        assert trio.current_time() - ends.host._carrier.heard < 20
        await trio.sleep(870)
        assert ends.host.live
        assert "the link is cut after 900 s" in ends.host.silent
        ends.resume()
        await ends.host.silence_changed.wait()
        assert not ends.host.is_silent
        await trio.sleep(600)
        assert ends.host.live
        assert ends.far.live


async def test_silent_end_cut_at_the_limit(autojump_clock):
    async with one_that_stops(silence_limit=100.0) as ends:
        ends.stop()
        began = trio.current_time()
        await ends.host.over.wait()
        assert 90 <= trio.current_time() - began <= 120
        assert "sent nothing for 1" in ends.host.reason


async def test_silence_holds_up_no_lease_and_keeps_its_requests(autojump_clock):
    """A machine on the host ends within seconds, and its viewer still learns that."""
    served = []

    async def handle(epoch, row, request, exchange):
        served.append(request)
        return await obey(epoch, row, request, exchange)

    async with one_that_stops(handle) as ends:
        await ends.host.call(LEASE_BEGUN, LeaseBegun.of(LEASE, "test"))
        ends.stop()
        began = trio.current_time()
        await ends.host.call_unless_silent(LEASE_ENDED, LeaseEnded(LEASE.id, "a test"))
        assert trio.current_time() - began < 30
        began = trio.current_time()
        await trio.sleep(300)
        assert ends.host.live, "owed for longer than an answer may take, but silent"
        ends.resume()
        await trio.sleep(20)
        assert isinstance(served[-1], LeaseEnded)
        assert not ends.host.leases.all()


async def test_awake_end_that_answers_nothing_after_a_silence_is_given_up(
    autojump_clock,
):
    """The time of silence is not counted, but all other time is."""

    async def handle(epoch, row, request, exchange):
        if epoch is ends.far:
            await trio.sleep_forever()
        return await obey(epoch, row, request, exchange)

    async with one_that_stops(handle) as ends, trio.open_nursery() as nursery:

        async def ask():
            with pytest.raises(UpstreamError):
                await look(ends.host)

        nursery.start_soon(ask)
        ends.stop()
        await ends.host.silence_changed.wait()
        await trio.sleep(200)
        ends.resume()
        began = trio.current_time()
        await ends.host.over.wait()
        assert 50 < trio.current_time() - began < 80
        assert "did not answer within" in ends.host.reason
