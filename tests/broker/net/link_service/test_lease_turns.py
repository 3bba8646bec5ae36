"""The order of messages about leases, where one of them is given up."""

from __future__ import annotations

import trio
import trio.testing

from broker.net.link import messages as m
from broker.net.link_service.lease_turns import LeaseTurns


async def test_an_end_that_is_given_up_lets_no_beginning_pass_the_one_before_it():
    """A sandbox's new lease began while that of its last one was still beginning."""
    turns, order, served = LeaseTurns(), [], trio.Event()
    begun = [
        m.LeaseBegun(number, f"{number:016x}", "work", "work", number, "a peer")
        for number in (1, 3)
    ]
    given_up = trio.CancelScope()

    async def serve(name, turn, wait):
        async with turn:
            order.append(name)
            await wait()

    async def give_up(turn):
        with given_up:
            await serve("end", turn, trio.sleep_forever)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, "first", turns.take(begun[0]), served.wait)
        end = m.LeaseEnded(2, begun[0].lease, "over")
        nursery.start_soon(give_up, turns.take(end))
        await trio.testing.wait_all_tasks_blocked()
        given_up.cancel()
        await trio.testing.wait_all_tasks_blocked()
        last = turns.take(begun[1])
        nursery.start_soon(serve, "next", last, trio.lowlevel.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first"]
        served.set()
    assert order == ["first", "next"]
