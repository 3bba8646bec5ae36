"""The sockets around a filter, read where trio sleeps and where it does not tell."""

from __future__ import annotations

import threading

import trio

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import emit
from tests.attack.test_wayland_floods import animate
from tests.kit.eventually import eventually
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.stand import CONFIG, filtered, stand


def flood(c: Window, stop: threading.Event) -> None:
    """Requests without end, whose answers are not read."""
    data = emit.damage(c.surface(), 0, 0, 1, 1) * 1000
    c.sock.settimeout(0.5)
    while not stop.is_set():
        try:
            c.sock.send(data)
        except TimeoutError:
            continue
        except OSError:
            return


async def test_several_clients_are_served_at_once():
    done = []
    async with stand() as it, trio.open_nursery() as nursery:
        for _ in range(4):

            async def one() -> None:
                done.append(await it.client(animate))

            nursery.start_soon(one)
    assert done == [30] * 4
    assert not it.ends


async def test_one_that_floods_does_not_keep_another_from_its_turn(monkeypatch):
    monkeypatch.setattr(limits, "WAYLAND_MESSAGES_PER_SECOND", 10_000_000)
    monkeypatch.setattr(limits, "WAYLAND_MESSAGES_PER_SECOND_OF_ALL", 10_000_000)
    stop = threading.Event()
    async with stand() as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.client, lambda c: flood(c, stop))
        try:
            await eventually(
                lambda: any(c.messages > 10_000 for c in it.sandbox.filters)
            )
            with trio.fail_after(60):
                assert await it.client(animate) == 30
        finally:
            stop.set()


async def test_the_end_of_all_does_not_wait_for_one_that_floods():
    stop = threading.Event()
    async with desktop(config_extra=CONFIG) as comp, trio.open_nursery() as nursery:
        try:
            async with filtered(comp) as it:
                nursery.start_soon(it.client, lambda c: flood(c, stop))
                # More than its start takes: it floods by then.
                await eventually(
                    lambda: any(c.messages > 2000 for c in it.sandbox.filters)
                )
            assert not it.sandbox.filters
        finally:
            stop.set()
