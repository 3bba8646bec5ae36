"""A fleet's tables by day: dropped days, and writers without the right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from broker.authority.audit.store import open_store
from broker.helpers.shipper.config import JsonlTarget
from broker.helpers.shipper.database import connect, migrate
from broker.helpers.shipper.run import make_target
from broker.ipc.audit.query import open_log
from tests.attack.test_fleet_store import environment, ship
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import filled, record
from tests.kit.brokerctl import Answer, called


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        yield running


_YESTERDAY = """
    ALTER TABLE vitrail.{0} RENAME TO event_20200101;
    UPDATE vitrail.head SET day = '2020-01-01'
"""


async def two_days(server: Postgres, directory: Path) -> None:
    """A log of which 30 events came on a day before, and 30 today."""
    async with open_store(directory / "desk/audit.sqlite") as store:
        for first in (1, 11, 21):
            await record(store, first, 10)
            await store.checkpoint()
    await ship(directory / "desk", server.address, "desk")
    ((day,),) = server.rows("SELECT vitrail.day_table()")
    server.run(_YESTERDAY.format(day))
    async with open_store(directory / "desk/audit.sqlite") as store:
        for first in (101, 111, 121):
            await record(store, first, 10)
            await store.checkpoint()
    await ship(directory / "desk", server.address, "desk")


def verify(server: Postgres, directory: Path, *more: str) -> Answer:
    words = ("audit", "verify", "--store", server.address)
    return called(*words, *more, env=environment(directory))


async def test_indexes_of_an_ended_day_are_built_again_once(
    tmp_path: Path, server: Postgres
) -> None:
    await two_days(server, tmp_path)
    words = ("audit", "fleet", "upkeep", "--store", server.address)
    env = environment(tmp_path)
    ask = (
        "SELECT string_agg(indexrelid::regclass || ' ' || pg_relation_filenode("
        "indexrelid), ',' ORDER BY indexrelid::regclass::text) FROM pg_index "
        "JOIN pg_inherits ON indrelid = inhrelid WHERE inhparent = "
        "'vitrail.event'::regclass GROUP BY indrelid ORDER BY indrelid::regclass::text"
    )
    (ended,), (today,) = server.rows(ask)
    first, second = called(*words, env=env), called(*words, env=env)
    assert "rebuilt the indexes" in first.err
    assert "rebuilt the indexes" not in second.err
    (later,), (now,) = server.rows(ask)
    assert (later != ended, now) == (True, today)
    assert verify(server, tmp_path).code == 0


async def test_day_that_was_dropped_is_stood_for_by_the_trees_edge(
    tmp_path: Path, server: Postgres
) -> None:
    await two_days(server, tmp_path)
    whole = verify(server, tmp_path, "--json").objects[0]
    env = environment(tmp_path)
    upkeep = called(
        *("audit", "fleet", "upkeep", "--store", server.address, "--keep", "90d"),
        env=env,
    )
    assert upkeep.code == 0, upkeep.err
    assert "dropped 1 days" in upkeep.err
    answer = verify(server, tmp_path, "--json")
    assert answer.code == 0, answer.out
    (report,) = answer.objects
    first = server.rows("SELECT min(sequence) FROM vitrail.event")[0][0]
    assert 30 < first <= whole["size"]
    assert report["removed"] == first - 1
    assert report["checkpoints"] >= 3
    assert "not in the store" in report["warnings"][0]
    # The rest is proved: one event changed, and the edge changed.
    server.run("UPDATE vitrail.frontier SET peaks = sha256('x') || substr(peaks, 33)")
    assert verify(server, tmp_path).code == 3
    server.run("DELETE FROM vitrail.frontier")
    assert verify(server, tmp_path).code == 3


async def test_changed_event_after_a_dropped_day_is_found(
    tmp_path: Path, server: Postgres
) -> None:
    await two_days(server, tmp_path)
    server.run("DROP TABLE vitrail.event_20200101")
    assert verify(server, tmp_path).code == 0
    server.run(
        "UPDATE vitrail.event SET body = body || ' ', leaf = sha256('\\x00'::bytea || "
        "convert_to(body || ' ', 'UTF8')) WHERE sequence = "
        "(SELECT min(sequence) + 2 FROM vitrail.event)"
    )
    answer = verify(server, tmp_path)
    assert answer.code == 3
    assert "differs from what the machine signed" in answer.out


async def test_edge_with_no_checkpoint_after_it_proves_nothing(
    tmp_path: Path, server: Postgres
) -> None:
    await two_days(server, tmp_path)
    server.run(
        "DROP TABLE vitrail.event_20200101; DELETE FROM vitrail.checkpoint USING "
        "vitrail.frontier WHERE checkpoint.size > frontier.size AND frontier.size > 0 "
        "AND kind = 'kept'; DELETE FROM vitrail.checkpoint USING (SELECT max(size) AS "
        "most FROM vitrail.frontier) edge WHERE size > most"
    )
    answer = verify(server, tmp_path)
    assert answer.code == 3
    assert "no checkpoint covers any" in answer.out


async def test_removed_middle_is_a_problem_though_an_edge_is_known(
    tmp_path: Path, server: Postgres
) -> None:
    await two_days(server, tmp_path)
    edge = server.rows("SELECT max(size) FROM vitrail.frontier")[0][0]
    server.run(
        f"DELETE FROM vitrail.event WHERE sequence BETWEEN {edge - 5} AND {edge}"
    )
    answer = verify(server, tmp_path)
    assert answer.code == 3
    assert f"events {edge - 5} to {edge}" in answer.out


async def test_logs_that_were_swapped_are_found(
    tmp_path: Path, server: Postgres
) -> None:
    for machine in ("one", "two"):
        async with open_store(tmp_path / machine / "audit.sqlite") as store:
            await record(store, 1, 30)
            await store.checkpoint()
        await ship(tmp_path / machine, server.address, machine)
    assert verify(server, tmp_path).code == 0
    server.run(
        "UPDATE vitrail.event one SET body = two.body, leaf = two.leaf FROM "
        "vitrail.event two WHERE one.sequence = two.sequence AND one.log <> two.log"
    )
    assert verify(server, tmp_path).code == 3


async def test_verified_part_is_not_read_again_and_a_change_after_it_is_found(
    tmp_path: Path, server: Postgres
) -> None:
    await two_days(server, tmp_path)
    state = str(tmp_path / "proved")
    (first,) = verify(server, tmp_path, "--json", "--state", state).objects
    assert first["checked"] == first["size"]
    (again,) = verify(server, tmp_path, "--json", "--state", state).objects
    assert again["good"]
    assert again["checked"] < first["checked"] / 2
    async with open_store(tmp_path / "desk/audit.sqlite") as store:
        await record(store, 201, 20)
        await store.checkpoint()
    await ship(tmp_path / "desk", server.address, "desk")
    (more,) = verify(server, tmp_path, "--json", "--state", state).objects
    assert more["good"]
    assert more["size"] > first["size"]
    server.run(
        "UPDATE vitrail.event SET body = body || ' ', leaf = sha256('\\x00'::bytea || "
        "convert_to(body || ' ', 'UTF8')) WHERE sequence > 61"
    )
    (tmp_path / "proved").write_text("{}")
    assert verify(server, tmp_path, "--state", state).code == 3


async def test_archive_of_json_lines_is_proved(tmp_path: Path) -> None:
    """Twice the same line is one event; a changed or a missing one is found."""
    from broker.helpers.shipper.run import ship_once
    from tests.kit.audit.shipping import place

    async with open_store(tmp_path / "audit.sqlite") as store:
        for first in (1, 11, 21):
            await record(store, first, 10)
            await store.checkpoint()
    out = tmp_path / "out.jsonl"
    await ship_once(place(tmp_path), [JsonlTarget("a", str(out))], lambda *_: None)
    words = ("audit", "verify", "--json", "--store")
    env = environment(tmp_path)
    good = called(*words, str(out), env=env)
    assert good.code == 0, good.out + good.err
    assert good.objects[0]["checkpoints"] >= 3
    assert good.objects[0]["checked"] == good.objects[0]["size"]
    lines = out.read_bytes().splitlines(keepends=True)
    double = tmp_path / "archive"
    double.mkdir()
    (double / "b").write_bytes(b"".join(lines[20:]))
    (double / "a").write_bytes(b"".join(lines[:25]))
    assert called(*words, str(double), env=env).code == 0
    (double / "b").write_bytes(b"".join([*lines[:12], *lines[13:]]))
    (double / "a").unlink()
    assert called(*words, str(double), env=env).code == 3
    changed = (
        lines[14]
        .replace(b'"verdict":"allow"', b'"verdict":"deny"')
        .replace(b'"lease":"lease-', b'"lease":"Lease-')
    )
    (double / "b").write_bytes(b"".join([*lines[:14], changed, *lines[15:]]))
    assert called(*words, str(double), env=env).code == 3
    target = make_target(JsonlTarget("file", str(out)))
    assert target.position(bytes.fromhex(good.objects[0]["origin"][-32:]))


# -- the release before ------------------------------------------------------------------

_OLD = (
    "sequence, time_ns, kind, sandbox, lease, service, verdict, rule, peer, "
    "outcome, boot, body, leaf"
)


def old_release_ships(connection: psycopg.Connection, rows: list[tuple]) -> None:
    """What the release before sends for a batch, statement by statement."""
    with connection.transaction():
        connection.execute(
            "INSERT INTO vitrail.log (name, machine, broker) VALUES (%s, 'old', '') "
            "ON CONFLICT (name) DO NOTHING",
            [bytes(16)],
        )
        ((log,),) = connection.execute(
            "SELECT id FROM vitrail.log WHERE name = %s", [bytes(16)]
        ).fetchall()
        connection.execute(
            "CREATE TEMPORARY TABLE arriving ON COMMIT DROP AS "
            f"SELECT {_OLD} FROM vitrail.event LIMIT 0"
        )
        with connection.cursor().copy(f"COPY arriving ({_OLD}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.execute(
            f"INSERT INTO vitrail.event (log, {_OLD}) SELECT %s, {_OLD} FROM arriving "
            "ORDER BY sequence ON CONFLICT (log, sequence) DO NOTHING",
            [log],
        )
        assert connection.execute(
            "SELECT min(sequence) FROM arriving JOIN vitrail.event there "
            "USING (sequence) WHERE there.log = %s AND there.leaf <> arriving.leaf",
            [log],
        ).fetchall() == [(None,)]
        connection.execute(
            "INSERT INTO vitrail.checkpoint (log, size, kind, note) "
            "VALUES (%s, 3, 'kept', 'x') ON CONFLICT DO NOTHING",
            [log],
        )


async def test_release_before_ships_into_the_new_tables_and_reads_them(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 5)
    with open_log(tmp_path / "audit.sqlite") as log:
        rows = [
            (n, t, kind, "web", "l", "", "", "", "", "", "", body, leaf)
            for n, t, kind, body, leaf in log.read(0, 5)
        ]
    with connect(server.address) as owner:
        migrate(owner)
    server.run(
        "CREATE ROLE old LOGIN; GRANT USAGE ON SCHEMA vitrail TO old;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO old; GRANT INSERT ON "
        "vitrail.log, vitrail.event, vitrail.gap, vitrail.checkpoint TO old"
    )
    with psycopg.connect(server.as_role("old"), autocommit=True) as old:
        # It looks at this table alone, and refuses versions above 6.
        assert old.execute("SELECT max(version) FROM vitrail.migration").fetchall() == [
            (6,)
        ]
        old_release_ships(old, rows[:3])
        old_release_ships(old, rows)
        found = old.execute(
            "SELECT sequence, leaf FROM vitrail.event JOIN vitrail.log ON log.id = "
            "event.log WHERE log.name = %s ORDER BY sequence DESC LIMIT 1",
            [bytes(16)],
        ).fetchall()
        assert found == [(5, rows[4][-1])]
        changed = (*rows[4][:-2], rows[4][-2] + " ", b"x" * 32)
        with pytest.raises(psycopg.Error, match="another event 5"):
            old_release_ships(old, [changed])
    assert server.rows("SELECT sequence FROM vitrail.head") == [(5,)]
    assert server.rows("SELECT count(*) FROM ONLY vitrail.event") == [(0,)]


# -- who may what ------------------------------------------------------------------------

_TAKE = (
    "SELECT vitrail.take(%s, %s, '', 1, ARRAY[1], ARRAY['decision'], ARRAY['web'], "
    "ARRAY[''], ARRAY['deny'], ARRAY[''], ARRAY[%s], '', '', ARRAY[]::bigint[], "
    "ARRAY[]::text[], ARRAY[]::text[])"
)


async def test_batches_of_roles_are_bounded(tmp_path: Path, server: Postgres) -> None:
    with connect(server.address) as owner:
        migrate(owner)
    server.run(
        "CREATE ROLE one LOGIN; CREATE ROLE two LOGIN; CREATE ROLE reader LOGIN;"
        "GRANT USAGE ON SCHEMA vitrail TO one, two, reader;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO reader, two;"
        "GRANT INSERT ON vitrail.event TO one, two;"
        "UPDATE vitrail.setting SET value = 3"
    )
    with psycopg.connect(server.as_role("one"), autocommit=True) as one:
        one.execute(_TAKE, [bytes(16), "desk", "{}"])
    # Who reads does not ship, though every role may call a function.
    with (
        psycopg.connect(server.as_role("reader"), autocommit=True) as reader,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        reader.execute(_TAKE, [b"r" * 16, "desk", "{}"])
    with psycopg.connect(server.as_role("two"), autocommit=True) as two:
        with pytest.raises(psycopg.Error, match="from another machine"):
            two.execute(_TAKE, [bytes(16), "desk", "{}"])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="another role"):
            two.execute(_TAKE, [b"2" * 16, "desk", "{}"])
        with pytest.raises(psycopg.errors.CheckViolation):
            two.execute(_TAKE, [b"2" * 16, "lap", "x" * (20 << 20)])
        ((day,),) = server.rows("SELECT vitrail.day_table()")
        # All tables of a schema were granted: the day's is read through the whole alone.
        server.run("GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO two")
        assert two.execute(f"SELECT count(*) FROM vitrail.{day}").fetchall() == [(0,)]
        assert two.execute("SELECT count(*) FROM vitrail.event").fetchall() == [(0,)]
        # A changed name does not begin the day's limit again.
        for number in range(3):
            two.execute(_TAKE, [b"%016d" % number, f"lap-{number}", "{}"])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="too many logs"):
            two.execute(_TAKE, [b"%016d" % 9, "another", "{}"])
        # A batch that comes again is nothing, one that differs is refused.
        two.execute(_TAKE, [b"%016d" % 1, "lap-1", "{}"])
        with pytest.raises(psycopg.Error, match="another event 1"):
            two.execute(_TAKE, [b"%016d" % 1, "lap-1", "{ }"])
    numbers = server.rows("SELECT max(id), count(*) FROM vitrail.log")
    assert numbers[0][0] <= numbers[0][1] + 3, (
        "numbers are looked up before one is drawn"
    )


async def test_counts_have_keys_of_any_length_and_are_those_of_the_events(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path / "desk", 200)
    await ship(tmp_path / "desk", server.address, "desk")
    env = environment(tmp_path)
    words = ("audit", "stats", "--json", "--store", server.address)
    live = called(*words, env=env).objects[0]
    ((day,),) = server.rows("SELECT vitrail.day_table()")
    upkeep = ("audit", "fleet", "upkeep", "--store", server.address)
    assert called(*upkeep, env=env).code == 0
    assert server.rows("SELECT bool_and(counted = sequence) FROM vitrail.head") == [
        (True,)
    ]
    kept = called(*words, env=env).objects[0]
    assert kept == live
    by_event = called(*words, "--service", "*", "--service", "", env=env)
    assert by_event.code in {0, 1}
    # Half a day is counted from the events, whole days from the counts.
    assert called(*words, "-S", "-2d", env=env).objects[0]["events"] == live["events"]
    assert called(*words, "-S", "-1h", env=env).objects[0]["events"] == live["events"]
    server.run(
        f"INSERT INTO vitrail.{day} (log, sequence, time_ns, kind, sandbox, lease, "
        "service, verdict, rule, peer, outcome, boot, body, leaf) SELECT log, "
        "sequence + 1, 1, 'decision', repeat('x', 60000), '', '', '', '', '', '', '', "
        "'{}', '' FROM vitrail.head; UPDATE vitrail.head SET sequence = sequence + 1"
    )
    assert called(*upkeep, env=env).code == 0
