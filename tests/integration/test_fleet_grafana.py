"""The Grafana files: every panel and rule asked of a real PostgreSQL, as a reader.

Grafana's macros are expanded as its PostgreSQL data source does.  What a panel of its
kind needs of the answer is checked; Grafana itself does not draw it here.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

import broker
from broker.authority.audit.store import open_store
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.schema import (
    Decision,
    EventVerdict,
    LogConflict,
    PolicyLoaded,
    TransferBegin,
)
from tests.attack.test_fleet_store import environment
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place
from tests.kit.brokerctl import called

DATA = Path(broker.__path__[0]) / "data/grafana"
DASHBOARD = json.loads((DATA / "vitrail-fleet.json").read_text())
PANELS: dict[str, dict[str, Any]] = {one["title"]: one for one in DASHBOARD["panels"]}
(GROUP,) = json.loads((DATA / "vitrail-alerts.json").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {one["uid"]: one for one in GROUP["rules"]}
COLUMNS = 24


def expanded(sql: str, hours: float = 24) -> str:
    """The macros of Grafana's PostgreSQL data source that are used."""
    end = datetime.now(UTC) + timedelta(minutes=1)
    begin = end - timedelta(hours=hours)
    texts = [f"'{moment:%Y-%m-%dT%H:%M:%SZ}'" for moment in (begin, end)]
    nanos = [int(moment.timestamp()) * 10**9 for moment in (begin, end)]
    sql = re.sub(
        r"\$__unixEpochNanoFilter\((\w+)\)",
        rf"\1 >= {nanos[0]} AND \1 <= {nanos[1]}",
        sql,
    )
    sql = re.sub(
        r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN {texts[0]} AND {texts[1]}", sql
    )
    sql = sql.replace("$__timeFrom()", texts[0]).replace("$__timeTo()", texts[1])
    assert "$" not in sql
    return sql


def asked(server: Postgres, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    with psycopg.connect(server.as_role("reader")) as connection:
        cursor = connection.execute(expanded(sql))
        return [one.name for one in cursor.description or ()], cursor.fetchall()


def panel(server: Postgres, title: str) -> list[tuple[Any, ...]]:
    (target,) = PANELS[title]["targets"]
    return asked(server, target["rawSql"])[1]


def alerts(server: Postgres) -> set[str]:
    """The rules that fire."""
    found = set()
    for uid, rule in RULES.items():
        query, threshold = rule["data"]
        ((value,),) = asked(server, query["model"]["rawSql"])[1]
        (condition,) = threshold["model"]["conditions"]
        assert condition["evaluator"]["type"] == "gt"
        if value > condition["evaluator"]["params"][0]:
            found.add(uid)
    return found


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Postgres]:
    async with postgres() as running:
        env = environment(tmp_path)
        assert called("audit", "fleet", "init", "--store", running.address, env=env).code == 0  # fmt: skip
        running.run("CREATE ROLE reader LOGIN IN ROLE vitrail_reader")
        yield running


async def fill(server: Postgres, directory: Path) -> None:
    """Two machines, each with rules, a denial of rule 3 for each of ``number``."""
    for number, machine in enumerate(("one", "two"), 1):
        async with open_store(directory / machine / "audit.sqlite") as store:
            await store.record(PolicyLoaded(policy="ab", detail={"what": "rules"}))
            for _ in range(25 * number):
                await store.record(
                    Decision(
                        sandbox="web",
                        service="vitrail.OpenURL",
                        verdict=EventVerdict.DENY,
                        rule="30-site.policy:3",
                    )
                )
            await store.record(
                TransferBegin(
                    sandbox="web",
                    lease="l",
                    stream=1,
                    transfer=1,
                    target="@dispvm:view",
                    object="https://example.org/",
                )
            )
        told: dict[str, Any] = {}
        target = PostgresTarget("fleet", server.address)
        await ship_once(place(directory / machine, machine), [target], told.__setitem__)
        assert told == {"fleet": 25 * number + 2}


async def test_panels_show_what_the_fleet_has_done(
    server: Postgres, tmp_path: Path
) -> None:
    # Before there is anything: no panel fails.
    for title in PANELS:
        panel(server, title)
    assert alerts(server) == set()
    await fill(server, tmp_path)
    assert panel(server, "Not counted yet") == [(79,)]
    server.run("SELECT vitrail.count_events()")
    assert panel(server, "Machines") == [(2,)]
    assert panel(server, "Not counted yet") == [(0,)]
    assert panel(server, "Silent for a day") == [(0,)]
    assert panel(server, "Silent machines") == []
    assert sum(row[1] for row in panel(server, "Denials an hour")) == 75
    assert sum(row[1] for row in panel(server, "Events a day")) == 79
    assert panel(server, "Rules that deny most") == [("30-site.policy:3", 75, 2)]
    assert panel(server, "Machines with most denials") == [
        ("two", 50, 52),
        ("one", 25, 27),
    ]
    (loaded,) = panel(server, "Policies in force")
    assert loaded[:2] == ("ab", 2)
    went = panel(server, "Addresses and files that went elsewhere")
    assert {(row[1], row[3]) for row in went} == {
        ("one", "https://example.org/"),
        ("two", "https://example.org/"),
    }
    # Both are denied in an hour more than on a usual day.
    assert alerts(server) == {"vitrail-denials"}
    # One falls silent; a log is rolled back; events are lost; nobody counts.
    server.run(
        "UPDATE vitrail.head SET heard = now() - interval '30 hours', counted = 0 "
        "WHERE log = (SELECT id FROM vitrail.log WHERE machine = 'two');"
        "INSERT INTO vitrail.gap SELECT id, 900, 909 FROM vitrail.log "
        "WHERE machine = 'one'"
    )
    async with open_store(tmp_path / "one/audit.sqlite") as store:
        await store.record(LogConflict(peer="viewer", size=5))
    await ship_once(
        place(tmp_path / "one", "one"),
        [PostgresTarget("fleet", server.address)],
        lambda *_: None,
    )
    assert panel(server, "Silent machines")[0][0] == "two"
    assert panel(server, "Silent for a day") == [(1,)]
    assert panel(server, "Lost before shipping") == [(10,)]
    assert panel(server, "Conflicts") == [(1,)]
    expected = {"conflict", "gap", "silent", "upkeep", "denials"}
    assert alerts(server) == {f"vitrail-{name}" for name in expected}
    server.run("UPDATE vitrail.head SET heard = now() - interval '30 hours'")
    assert "vitrail-nothing" in alerts(server)


async def test_answers_have_the_columns_that_their_panels_draw(
    server: Postgres, tmp_path: Path
) -> None:
    await fill(server, tmp_path)
    server.run("SELECT vitrail.count_events()")
    for title, one in PANELS.items():
        (target,) = one["targets"]
        names, rows = asked(server, target["rawSql"])
        assert len(set(names)) == len(names), title
        if one["type"] == "stat":
            ((value,),) = rows
            assert float(value) >= 0, title
        elif one["type"] == "timeseries":
            assert target["format"] == "time_series"
            assert names[0] == "time"
            assert rows, title
            assert all(row[0].tzinfo for row in rows), title
            assert all(isinstance(v, int | float) for row in rows for v in row[1:])
            assert rows == sorted(rows), title
        else:
            assert (one["type"], target["format"]) == ("table", "table"), title
            assert "LIMIT" in target["rawSql"], "a fleet has many rows"


def test_dashboard_has_places_and_a_data_source_for_each_panel() -> None:
    assert len(PANELS) == len(DASHBOARD["panels"])
    assert len({one["id"] for one in PANELS.values()}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    (variable,) = DASHBOARD["templating"]["list"]
    for title, one in PANELS.items():
        at = one["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, title
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells
        assert one["description"], title
        for target in (one, *one["targets"]):
            assert target["datasource"]["uid"] == f"${{{variable['name']}}}"
            assert target["datasource"]["type"] == variable["query"]
    for uid, rule in RULES.items():
        query, threshold = rule["data"]
        assert rule["condition"] == threshold["refId"]
        assert threshold["model"]["expression"] == query["refId"]
        assert rule["annotations"]["summary"], uid
        assert query["datasourceUid"] == "vitrail-audit"
        assert "$__" not in query["model"]["rawSql"], "rules have no picked time"
