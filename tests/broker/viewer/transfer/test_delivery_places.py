"""How many deliveries of other sandboxes one sandbox takes at one time."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.errors import UpstreamError
from broker.core.limits import transfer as limits
from broker.core.transfer.quota import Quota
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import Delivery, GuestConnections
from broker.viewer.sandboxes.launch_steps import LaunchProgress
from broker.viewer.transfer.targets import Targets
from policy.tools.record_files import parse_record


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


async def test_an_address_for_a_guest_without_agent_fails_within_seconds(
    autojump_clock,
):
    target = Target()
    target.without_agent = "no agent in personal has ever connected"
    target.since = time.time() - 600
    text = b'class = "persistent"\n[launch]\nkind = "external"\n[peer]\ncid = 7\n'
    record, _ = parse_record("personal", Path("personal.toml"), text)
    target.valid_record = lambda: record
    program = SimpleNamespace(
        ended=False, way=LaunchProgress(trio.current_time()), changed=trio.Event()
    )

    async def start_program(*_, **__):
        return program

    target.start_program = start_program
    viewer = SimpleNamespace(guests=lambda: [target], guest=lambda _: target)
    targets, began = Targets(viewer, None, None), trio.current_time()
    url = SimpleNamespace(canonical="https://a.example/")
    with pytest.raises(UpstreamError, match="no agent in personal") as caught:
        await targets.open_url("personal", url, wait, source=None, warrant=b"")
    assert not isinstance(caught.value, ShareableError)
    assert trio.current_time() - began == pytest.approx(5.0)
