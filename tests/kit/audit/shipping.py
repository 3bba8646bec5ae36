"""A log that grows while it is shipped."""

from __future__ import annotations

import random
from pathlib import Path

import trio

from broker.authority.audit.store import Store, open_store
from broker.helpers.shipper.run import ShipperPaths
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log

KINDS = ("web", "mail", "work")


def place(directory: Path, machine: str = "desk") -> ShipperPaths:
    return ShipperPaths(directory / "audit.sqlite", directory / "ship", machine)


def event(number: int) -> schema.Event:
    draw = random.Random(number)
    sandbox = draw.choice(KINDS)
    if number % 3 == 0:
        return schema.StreamClosed(
            sandbox=sandbox,
            lease=f"lease-{sandbox}",
            service="vitrail.Display",
            bytes_from_sandbox=draw.randrange(1 << 40),
            bytes_to_sandbox=draw.randrange(1 << 40),
            seconds=draw.random(),
        )
    return schema.Decision(
        sandbox=sandbox,
        lease=f"lease-{sandbox}",
        service=draw.choice(("vitrail.Display", "vitrail.Audio")),
        peer=f"cid {number % 50 + 3}",
        verdict=draw.choice((schema.EventVerdict.ALLOW, schema.EventVerdict.DENY)),
        rule=f"/etc/vitrail/policy.d/30-user.policy:{number % 7}:1",
        reason="\x1b[31m\0\u202e'=1+1\n" if number % 10 == 0 else "",
    )


async def record(store: Store, first: int, count: int) -> None:
    """Record events number first and on, sixteen at a time."""
    rest = iter(range(first, first + count))

    async def caller() -> None:
        for number in rest:
            await store.record(event(number))

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(caller)


async def filled(directory: Path, count: int) -> None:
    """Make a log with so many events."""
    directory.mkdir(parents=True, exist_ok=True)
    async with open_store(directory / "audit.sqlite") as store:
        await record(store, 1, count)


def bodies(directory: Path) -> list[str]:
    """Return the bodies of all events, in the order of the log."""
    with open_log(directory / "audit.sqlite") as log:
        return [found.body for found in log.find(Filters())]
