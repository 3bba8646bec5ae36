"""Progress of what the person copies into a sandbox."""

from __future__ import annotations

import os

import trio

from broker.core.transfer.quota import Quota
from broker.viewer.exchange.guest_connection import Delivery
from broker.viewer.transfer.person import _followed


async def test_progress_is_reported_every_second_until_all_has_arrived(autojump_clock):
    read, write = os.pipe2(os.O_CLOEXEC)
    os.close(write)
    delivery = Delivery("desktop", False, Quota(1, 1, 1), read, size=40 << 20)
    seen = []

    async def emit(item):
        seen.append(item.progress.detail)
        delivery.moved += 10 << 20
        if len(seen) == 3:
            delivery.end("")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_followed, delivery, emit)
    assert seen == ["0 of 40 MiB", "10 of 40 MiB", "20 of 40 MiB"]
