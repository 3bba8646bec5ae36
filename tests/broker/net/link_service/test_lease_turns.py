"""The order of messages about leases, where one of them is given up."""

from __future__ import annotations

import trio
import trio.testing

from broker.ipc.host_rows import LeaseBegun, LeaseEnded
from broker.net.link_service.lease_turns import LeaseTurns


async def test_an_end_that_is_given_up_lets_no_beginning_pass_the_one_before_it():
    """A sandbox's new lease began while that of its last one was still beginning."""
    turns, order, served = LeaseTurns(), [], trio.Event()
    begun = [
        LeaseBegun(f"{number:016x}", "work", "work", number, "a peer")
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
        end = LeaseEnded(begun[0].lease, "over")
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


async def test_a_sandbox_that_restarts_without_end_is_served_in_order():
    """Each end has two turns before it, of one request or two: none is waited for twice.

    A host that was taken over had the viewer wait for 2^32 events after 32 restarts.
    """
    turns, order = LeaseTurns(), []
    restarts = 2000

    async def serve(number, turn, given_up):
        with trio.CancelScope() as scope:
            if given_up:
                scope.cancel()
            async with turn:
                order.append(number)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            first = turns.take(LeaseBegun(f"{0:016x}", "w", "w", 0, "a peer"))
            number = 0
            for restart in range(restarts):
                lease = f"{restart + 1:016x}"
                begun = LeaseBegun(lease, "w", "w", restart, "a peer")
                for message in (begun, LeaseEnded(lease, "over")):
                    number += 1
                    turn = turns.take(message)
                    nursery.start_soon(serve, number, turn, number % 3 == 0)
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            nursery.start_soon(serve, 0, first, False)
    assert order == [n for n in range(number + 1) if n % 3 or not n]
