"""Host, viewer and the link between them, ended at random moments under traffic.

The machine lives on, its identity gets a lease again, without a question.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio

from tests.kit.eventually import NeverError, eventually
from tests.kit.link.host import link_host
from tests.kit.link.two_brokers import two
from tests.kit.wayland.compositor import steady
from tests.kit.world import record

# Talks all the time: there is always a message under way.
CHATTER = "while :; do echo line; sleep 0.02; done"
ENDS = ("host", "viewer", "transport", "link")


async def the_sandbox_runs(t, deadline=120):
    """The viewer has it, with its agent and its program."""

    async def look():
        found = (await t.viewer.status()).sandboxes
        return found and found[0].state == "running" and found[0].programs

    try:
        await eventually(look, deadline=deadline)
    except NeverError:
        for side in (t.host, t.viewer):
            print(side.module, await side.status())
            for event in side.events()[-25:]:
                print({k: v for k, v in event.items() if k not in _DULL})
        raise


_DULL = ("version", "boot", "monotonic_ns", "generation", "lease")


async def end(t, what, rng):
    """A broker, what carries the link, or the link itself."""
    if what == "transport":
        await t.transport.kill()
        await t.transport.start()
    elif what == "link":
        # The same key at another place: the viewer must take it for the host.
        async with link_host(t):
            await trio.sleep(rng.uniform(0, 0.05))
    else:
        side = t.host if what == "host" else t.viewer
        await side.kill()
        await side.start()


async def rounds(count, seed):
    rng = random.Random(seed)
    async with two({"work": record("persistent")}, carried=True) as t:
        await t.viewer.run("work", "sh", "-c", CHATTER, window=False)
        await the_sandbox_runs(t)
        machine = await t.host.pid_of("QEMU")
        before = await steady(lambda: roles(t))
        ends = [ENDS[number % len(ENDS)] for number in range(count)]
        rng.shuffle(ends)
        for number, what in enumerate(ends):
            await trio.sleep(rng.uniform(0, 0.5))
            await end(t, what, rng)
            await t.up()
            await the_sandbox_runs(t)
            assert await t.host.pid_of("QEMU") == machine, f"round {number}: {what}"
            assert len((await t.host.status()).leases) == 1
            assert len((await t.viewer.status()).leases) == 1
        print(f"seed {seed}: {dict(Counter(ends))}")

        async def as_before():
            return await roles(t) == before

        try:
            await eventually(as_before)
        except NeverError:
            assert await roles(t) == before


async def roles(t):
    """How many processes of each kind each side knows, and how many there are.

    A machine that was adopted is not its broker's child: it is in the status.
    """
    known = [
        Counter(p.role for p in (await side.status()).processes)
        for side in (t.host, t.viewer)
    ]
    words = [*t.host.processes().values(), *t.viewer.processes().values()]
    return known, sum("qemu" not in word for word in words)


@pytest.mark.long
async def test_ends_at_random_moments():
    await rounds(8, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
async def test_two_hundred_ends_at_random_moments(seed):
    await rounds(50, seed=100 + seed)
