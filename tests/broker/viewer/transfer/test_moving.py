"""The bytes of one request on their way: when the sender is told, and until when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.limits import transfer as limits
from broker.core.transfer.quota import Quota
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import ReturnFile
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.exchange.pipes import pipe
from broker.viewer.exchange.returns import Return
from broker.viewer.transfer.moving import Mover
from tests.broker.viewer.transfer.test_keeping import sent

__all__ = ["sent"]


async def nothing(*_):
    await trio.lowlevel.checkpoint()


def exchange(guest):
    """One whose bytes have all gone through."""
    made = GuestConnection(guest, SimpleNamespace(stream=1))
    made.take(messages.TransferPassed(1, 0, 0))
    return made


async def send(delivery):
    guest = SimpleNamespace(order=nothing)
    job = SimpleNamespace(exchange=exchange(guest))
    with pipe() as (_, write):
        await Mover(None, None)._send(job, Quota(1, 1, 1), write, delivery)


async def test_a_keeper_that_does_not_end_is_given_up(sent, autojump_clock):
    began = trio.current_time()
    with (
        trio.fail_after(10 * limits.TRANSFER_KEEP_SECONDS),
        pytest.raises(RefusedError, match="did not store the file within"),
    ):
        await send(sent)
    assert trio.current_time() - began == limits.TRANSFER_KEEP_SECONDS


async def test_no_more_comes_back_than_was_announced():
    """A sandbox announced nothing, and its record's budget of a day bound nothing."""
    orders = []

    async def order(message, fds):
        await trio.lowlevel.checkpoint()
        orders.append(message)

    way = Return("token", Quota(1 << 31, 1 << 31, 1, single=True, name="x"))
    transfers = SimpleNamespace(returns=SimpleNamespace(take=lambda _: way))
    guest = SimpleNamespace(order=order, transfers=transfers)
    with pipe() as (_, write):
        way.accept(write)
        await Mover(None, None).give_back(exchange(guest), ReturnFile("0" * 32, 5))
    assert [(one.quota.file_size, one.quota.size) for one in orders] == [(5, 5)]


async def test_the_sender_is_told_when_it_is_kept(sent, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, sent)
        await trio.sleep(limits.TRANSFER_KEEP_SECONDS - 1)
        sent.end("")


async def test_a_failure_is_the_sender_s(sent):
    sent.end("the disk is full")
    with pytest.raises(RefusedError, match="disk is full"):
        await send(sent)


async def test_what_is_taken_back_ends_at_its_target(sent):
    """Whatever holds the sender's end of the pipe."""
    transfers = SimpleNamespace(deliveries=SimpleNamespace(take=lambda _: sent))
    guest = SimpleNamespace(order=nothing, transfers=transfers)
    ended, waiting = trio.Event(), GuestConnection(guest, SimpleNamespace(stream=1))

    async def receive():
        with pytest.raises(RefusedError, match="given up"):
            await Mover(None, None).hand_over(waiting, "token")
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await sent.taken.wait()
        sent.end("it was given up")
        with trio.move_on_after(5):
            await ended.wait()
        nursery.cancel_scope.cancel()
    assert ended.is_set()
