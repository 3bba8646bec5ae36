"""The views of a fleet's database, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

import broker
from broker.authority.audit.store import open_store
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.schema import (
    Decision,
    EventVerdict,
    StreamClosed,
    TransferBegin,
    TransferEnd,
)
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place

VIEWS = Path(broker.__path__[0]) / "data/sql/fleet-views.sql"
LINK = {"sandbox": "web", "lease": "aa", "service": "vitrail.OpenURL", "stream": 4}
TARGET = {"transfer": 1, "target": "@dispvm:view"}
EVENTS = [
    Decision(
        **LINK,
        verdict=EventVerdict.ALLOW,
        rule="30-user.policy:8",
        target="@dispvm:view",
        object="example.org",
        detail={"record": "web.toml:6:1"},
    ),
    TransferBegin(**LINK, **TARGET, object="https://example.org/a", rule="30-user:8"),
    TransferEnd(**LINK, **TARGET, bytes=7, seconds=1.5, opened_in="view-1",
                outcome="done"),
    StreamClosed(**LINK, bytes_from_sandbox=40, bytes_to_sandbox=None, seconds=2.0),
]  # fmt: skip


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[Postgres]:
    async with postgres() as running:
        async with open_store(tmp_path / "desk/audit.sqlite") as store:
            for event in EVENTS:
                await store.record(event)
        target = PostgresTarget("fleet", running.address)
        told: dict = {}
        await ship_once(place(tmp_path / "desk", "desk-7"), [target], told.__setitem__)
        assert told == {"fleet": len(EVENTS)}
        running.run("CREATE ROLE vitrail_reader; CREATE ROLE reader LOGIN IN ROLE "
                    "vitrail_reader; CREATE ROLE desk LOGIN")  # fmt: skip
        running.run("GRANT USAGE ON SCHEMA vitrail TO vitrail_reader, desk;"
                    "GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO vitrail_reader, desk")  # fmt: skip
        for _ in range(2):  # again, as after an update
            running.run(VIEWS.read_text())
        yield running


def asked(server: Postgres, query: str, role: str = "reader") -> list[tuple]:
    with psycopg.connect(server.as_role(role)) as connection:
        return connection.execute(query).fetchall()


async def test_a_question_in_sql_has_machine_time_and_columns(server: Postgres) -> None:
    ((machine, at, sandbox, target, link, rule, record, verdict),) = asked(
        server,
        "SELECT machine, at, sandbox, target, object, rule, record_line, verdict "
        "FROM vitrail_views.decisions",
    )
    assert (machine, sandbox, target, link) == (
        "desk-7", "web", "@dispvm:view", "example.org",
    )  # fmt: skip
    assert (rule, record, verdict) == ("30-user.policy:8", "web.toml:6:1", "allow")
    assert isinstance(at, datetime)
    assert abs((datetime.now(UTC) - at).total_seconds()) < 24 * 3600
    assert asked(
        server,
        "SELECT machine, object, opened_in, bytes, seconds, outcome, rule "
        "FROM vitrail_views.transfers",
    ) == [("desk-7", "https://example.org/a", "view-1", 7, 1.5, "done", "30-user:8")]
    assert asked(
        server,
        "SELECT bytes_from_sandbox, bytes_to_sandbox, seconds "
        "FROM vitrail_views.streams",
    ) == [(40, None, 2.0)]
    # The time is found by its index, and bounds are as the log has them.
    for moment, count in (("now() - interval '1 day'", 4), ("now()", 0)):
        query = (
            "SELECT count(*) FROM vitrail_views.events "
            f"WHERE place_ns > vitrail_views.ns({moment})"
        )
        assert asked(server, query) == [(count,)]


async def test_no_row_of_a_machine_ends_a_question(server: Postgres) -> None:
    """A machine that was taken over writes any text where the JSON should be."""
    for number, body in enumerate(
        ("", "{", "[1]", '"x"', '{"detail": 3, "seconds": "1e99999", "stream": -1}',
         '{"count": 1e400, "bytes": "x", "object": {"a": [1]}}', '{"a": "\\u0000"}',
         "[" * 30000),
        start=100,
    ):  # fmt: skip
        for kind in ("decision", "stream.closed", "transfer.begin"):
            with psycopg.connect(server.address) as connection:
                connection.execute(
                    "INSERT INTO vitrail.event (log, sequence, time_ns, kind, sandbox, "
                    "lease, service, verdict, rule, peer, outcome, boot, body, leaf) "
                    "SELECT id, %s, %s, %s, '', '', '', '', '', '', '', '', %s, '' "
                    "FROM vitrail.log",
                    [number * 10 + len(kind), 2**62, kind, body],
                )
    for view in ("events", "decisions", "streams", "transfers"):
        found = asked(server, f"SELECT * FROM vitrail_views.{view}")
        assert len(found) >= 9, view


async def test_a_machines_role_reads_no_other_ones_events(server: Postgres) -> None:
    """Also where the owner has given it the views: the tables' security holds there."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        asked(server, "SELECT * FROM vitrail_views.events", "desk")
    server.run("GRANT USAGE ON SCHEMA vitrail_views TO desk;"
               "GRANT SELECT ON ALL TABLES IN SCHEMA vitrail_views TO desk")  # fmt: skip
    for view in ("events", "decisions", "streams", "transfers"):
        query = f"SELECT count(*) FROM vitrail_views.{view}"
        assert asked(server, query, "desk") == [(0,)], view
        assert asked(server, query, "owner") >= [(1,)], view
    assert asked(server, "SELECT count(*) FROM vitrail_views.events") == [(4,)]
    # A function of the asker's sees no row that the view withholds.
    server.run("GRANT CREATE ON SCHEMA public TO desk")
    with psycopg.connect(server.as_role("desk")) as connection:
        connection.execute(
            "CREATE FUNCTION public.peek(text) RETURNS boolean LANGUAGE plpgsql "
            "COST 0.0000001 AS $$ BEGIN RAISE EXCEPTION 'saw %', $1; END $$"
        )
        connection.execute("SELECT * FROM vitrail_views.events WHERE public.peek(body)")
