"""``brokerctl audit fleet`` and the questions about a fleet, as their user sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from broker.authority.audit.store import open_store
from broker.cli.fleet.fleet_database import _objects
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.schema import PolicyLoaded, TransferBegin
from tests.attack.test_fleet_store import environment
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place, record
from tests.kit.brokerctl import Answer, called


class Desk:
    """An administrator of a fleet of three."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.server, self.directory = server, directory

    async def audit(self, *words: str) -> Answer:
        env = environment(self.directory) | {"COLUMNS": "200"}
        store = ("--store", self.server.address)
        return await trio.to_thread.run_sync(
            lambda: called("audit", *words, *store, env=env)
        )


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with postgres() as server:
        made = Desk(server, tmp_path)
        assert (await made.audit("fleet", "init")).code == 0
        for number, machine in enumerate(("one", "two", "three"), 1):
            server.run(f"CREATE ROLE {machine} LOGIN IN ROLE vitrail_machine")
            async with open_store(tmp_path / machine / "audit.sqlite") as store:
                await store.record(
                    PolicyLoaded(
                        policy=f"{number // 2}ab",
                        detail={"what": "rules"},
                    )
                )
                await record(store, 1, 30)
                await store.record(
                    TransferBegin(
                        sandbox="web",
                        lease="l",
                        stream=1,
                        transfer=1,
                        target="view",
                        object=f"https://{machine}.example/",
                    )
                )
                await store.checkpoint()
            told: dict[str, Any] = {}
            target = PostgresTarget("fleet", server.as_role(machine))
            await ship_once(
                place(tmp_path / machine, machine), [target], told.__setitem__
            )
            assert told == {"fleet": 32}, told
        yield made


async def test_machines_policies_and_gaps(desk: Desk) -> None:
    machines = await desk.audit("fleet", "machines")
    print(machines.out)
    assert [line.split()[:3] for line in machines.lines if line.split()[0] in {"one", "two", "three"}] == [
        ["one", "one", "32"], ["three", "three", "32"], ["two", "two", "32"],
    ]  # fmt: skip
    assert (await desk.audit("fleet", "machines", "--silent", "1")).code == 1
    desk.server.run(
        "UPDATE vitrail.head SET heard = now() - interval '3 hours' WHERE log = "
        "(SELECT id FROM vitrail.log WHERE machine = 'two')"
    )
    silent = await desk.audit("fleet", "machines", "--silent", "2", "--json")
    assert [one["machine"] for one in silent.objects] == ["two"]
    policies = await desk.audit("fleet", "policies")
    print(policies.out)
    assert "1ab" in policies.out
    found = (await desk.audit("fleet", "policies", "--json")).objects
    assert [(one["policy"][0], one["machines"]) for one in found] == [
        ("1", 2), ("0", 1),
    ]  # fmt: skip
    none = await desk.audit("fleet", "gaps")
    assert (none.code, none.out) == (1, "")
    assert "there are no entries" in none.err
    desk.server.run(
        "INSERT INTO vitrail.gap SELECT id, 900, 909 FROM vitrail.log "
        "WHERE machine = 'one'"
    )
    gaps = await desk.audit("fleet", "gaps")
    print(gaps.out)
    assert "900" in gaps.out
    (gap,) = (await desk.audit("fleet", "gaps", "--json")).objects
    assert (gap["machine"], gap["first"], gap["last"]) == ("one", 900, 909)


async def test_questions_by_owner_and_object_and_counts(desk: Desk) -> None:
    one = await desk.audit("--json", "--owner", "two")
    assert len(one.objects) == 32
    assert {event["machine"] for event in one.objects} == {"two"}
    (went,) = (await desk.audit("--json", "--object", "https://two.example/")).objects
    assert (went["machine"], went["kind"]) == ("two", "transfer.begin")
    every = await desk.audit("--json", "--object", "https://*.example/")
    assert len(every.objects) == 3
    assert (await desk.audit("--json", "--object", "https://four.example/")).code == 1
    # Before and after upkeep, and with new events after it: the same counts.
    before = await desk.audit("stats", "--json")
    assert (await desk.audit("fleet", "upkeep")).code == 0
    after = await desk.audit("stats", "--json")
    assert after.out == before.out
    assert after.objects[0]["events"] == 96


async def test_address_is_found_by_an_index_also_by_a_reader(desk: Desk) -> None:
    """Row level security lets a condition find an index by leakproof operators only."""
    desk.server.run("CREATE ROLE reader LOGIN IN ROLE vitrail_reader")
    where, values = _objects(["https://two.example/"])
    with psycopg.connect(desk.server.as_role("reader")) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            f"EXPLAIN SELECT body FROM vitrail.event WHERE {where}", values
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Cond: (object_hash = ANY" in text, text


async def test_each_log_is_verified_by_several_processes(
    desk: Desk, monkeypatch
) -> None:
    single = await desk.audit("verify", "--json", "--jobs", "1")
    monkeypatch.setattr("broker.cli.fleet.fleet._PARALLEL", 2)
    # In this process, so that the patched number holds.
    from broker.cli.fleet.fleet import verify_fleet

    found = await trio.to_thread.run_sync(
        lambda: verify_fleet(desk.server.address, [], [], None, 2)
    )
    assert [(log.machine, report.good) for log, report in found] == [
        (one["machine"], one["good"]) for one in single.objects
    ]
    desk.server.run(
        "UPDATE vitrail.event SET body = body || ' ' WHERE sequence = 5 AND log = "
        "(SELECT id FROM vitrail.log WHERE machine = 'three')"
    )
    found = await trio.to_thread.run_sync(
        lambda: verify_fleet(desk.server.address, [], [], None, 2)
    )
    assert {log.machine: report.good for log, report in found} == {
        "one": True, "two": True, "three": False,
    }  # fmt: skip
