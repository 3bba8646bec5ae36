"""How many deliveries of other sandboxes one sandbox takes at one time."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.limits import transfer as limits
from broker.core.transfer.quota import Quota
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import Delivery, GuestConnections
from broker.viewer.transfer.targets import Targets


class Target:
    """A sandbox in which no program that fetches files comes up."""

    without_agent = ""

    def __init__(self):
        self.lease = SimpleNamespace(id="1" * 16, sandbox="personal", record="personal")
        self.transfers = GuestConnections()
        self.programs = SimpleNamespace(live=lambda: [1])
        self.begun = 0

    async def start_program(self, *_, **__):
        self.begun += 1
        await trio.sleep_forever()


async def wait(_):
    await trio.lowlevel.checkpoint()


async def test_one_sender_leaves_places_to_others_and_all_together_have_an_end():
    target = Target()
    viewer = SimpleNamespace(guests=lambda: [target], guest=lambda _: target)
    targets = Targets(viewer, None, None)

    async def send(record):
        source = record and SimpleNamespace(record=record)
        delivery = Delivery("any", False, Quota(1, 1, 1), os.open(os.devnull, 0))
        try:
            async with targets.receiving_in("personal", delivery, wait, source=source):
                raise AssertionError
        finally:
            delivery.end("")

    most, half = limits.DELIVERIES_PER_SANDBOX, limits.TRANSFERS_PER_SANDBOX
    async with trio.open_nursery() as nursery:
        for number in range(half):
            nursery.start_soon(send, "work")
            await trio.testing.wait_all_tasks_blocked()
            assert target.begun == number + 1
        with pytest.raises(ShareableError, match="too many"), trio.fail_after(5):
            await send("work")
        for number in range(most - half - 1):
            nursery.start_soon(partial(send, f"other-{number}"))
            await trio.testing.wait_all_tasks_blocked()
        assert target.begun == most - 1
        nursery.start_soon(send, "last")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ShareableError, match="too many"), trio.fail_after(5):
            await send("one too many")
        nursery.start_soon(send, None)
        await trio.testing.wait_all_tasks_blocked()
        assert target.begun == most + 1, "the user's own are not counted"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("asked_by", ["work", None])
async def test_the_user_alone_hears_that_a_guest_has_no_agent(asked_by):
    target = Target()
    target.without_agent = "no agent in personal has ever connected"
    viewer = SimpleNamespace(guests=lambda: [target], guest=lambda _: target)
    source = asked_by and SimpleNamespace(record=asked_by)
    heard = []

    async def hear(what):
        heard.append(what)

    opened = Targets(viewer, None, None).guest("personal", hear, source, autostart=True)
    async with opened:
        assert heard == ([] if source else [target.without_agent])
