"""A fleet's database with a pooler: no session belongs to a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from broker.cli.fleet.fleet_database import open_fleet
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.filters import Filters
from tests.kit.audit.pgbouncer import pgbouncer
from tests.kit.audit.postgres import postgres
from tests.kit.audit.shipping import filled, place


async def test_machines_and_readers_share_two_connections(tmp_path: Path) -> None:
    for number in range(12):
        await filled(tmp_path / str(number), 40)
    told: list[Any] = []
    async with postgres() as server, pgbouncer(server) as address:

        async def one(number: int) -> None:
            target = PostgresTarget("fleet", address)
            await ship_once(
                place(tmp_path / str(number), f"m{number}"),
                [target],
                lambda _, answer: told.append(answer),
            )

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
        assert told == [40] * 12
        with open_fleet(address) as fleet:
            assert len([*fleet.find(Filters())]) == 480
            assert fleet.counts(Filters(), 5).events == 480
        connections = server.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'audit' "
            "AND application_name = 'vitrail'"
        )
        assert connections[0][0] <= 2
