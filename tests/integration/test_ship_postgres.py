"""Shipping to a real PostgreSQL that is stopped, restored, shared and lied to."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import psycopg
import pytest
import trio

from broker.authority.audit.store import open_store
from broker.cli.fleet.fleet_database import open_fleet
from broker.core.errors import IntegrityError, SetupError, UpstreamError, VitrailError
from broker.core.limits import audit as audit_limits
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import PIPE, run_tool, spawn
from broker.helpers.shipper import database
from broker.helpers.shipper.config import AnyTarget, PostgresTarget
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.run import ship_for_ever, ship_once
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import bodies, filled, place, record
from tests.kit.brokerctl import brokerctl, called, harmless, home, paths_of
from tests.kit.eventually import eventually

_STORED = (
    "log, sequence, time_ns, kind, sandbox, lease, service, verdict, rule, peer, "
    "outcome, boot, body, leaf, received_ns"
)
_ALL = "SELECT body FROM vitrail.event ORDER BY log, sequence"


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        yield running


def fleet(server: Postgres) -> PostgresTarget:
    return PostgresTarget("fleet", server.address)


async def ship(directory: Path, *targets: AnyTarget, machine: str = "desk") -> dict:
    told: dict[str, int | VitrailError] = {}
    await ship_once(place(directory, machine), targets, told.__setitem__)
    return told


async def stored(server: Postgres, count: int) -> None:
    """Wait until the database has so many events."""

    def look() -> bool:
        there = server.rows("SELECT to_regclass('vitrail.event')::text")[0][0]
        return bool(there) and (
            server.rows("SELECT count(*) FROM vitrail.event") >= [(count,)]
        )

    await eventually(look, deadline=100)


async def test_a_server_that_dies_in_the_middle_gets_everything_once(
    tmp_path: Path, server: Postgres
) -> None:
    stop = trio.Event()
    async with (
        open_store(tmp_path / "audit.sqlite") as store,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ship_for_ever, place(tmp_path), [fleet(server)], stop)
        await record(store, 1, 2000)
        for round_ in range(3):
            # Events come while it dies, while it is away, and while it comes back.
            nursery.start_soon(record, store, 2001 + 1500 * round_, 1500)
            await server.stop()
            await trio.sleep(0.1)
            await server.start()
        await stored(server, 6500)
        stop.set()
    assert [row[0] for row in server.rows(_ALL)] == bodies(tmp_path)
    assert load_cursor(tmp_path / "ship", "fleet").sequence == 6500


@pytest.mark.parametrize(
    ("kills", "events"),
    [(3, 3000), pytest.param(25, 20000, marks=pytest.mark.long)],
)
async def test_a_shipper_killed_at_any_moment_loses_and_doubles_nothing(
    server: Postgres, kills: int, events: int
) -> None:
    draw = random.Random(kills)
    with home() as env:
        paths = paths_of(env)
        paths.config[0].mkdir(parents=True)
        (paths.config[0] / "ship.toml").write_text(
            f'[[target]]\nname = "fleet"\nto = "postgresql"\n'
            f'address = "{server.address}"\n'
        )
        paths.state.mkdir(parents=True)
        async with open_store(paths.audit) as store, trio.open_nursery() as nursery:
            nursery.start_soon(record, store, 1, events)
            for _ in range(kills):
                child = spawn(our_program("broker.programs.shipper"), env=env)
                await trio.sleep(draw.uniform(0.2, 0.9))
                child.kill()
                await child.wait()
            child = spawn(our_program("broker.programs.shipper"), env=env)
            await stored(server, events)
            await child.stop()
        assert [row[0] for row in server.rows(_ALL)] == bodies(paths.state)


async def test_a_database_restored_from_a_backup_is_filled_up_again(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 2500)
    assert await ship(tmp_path, fleet(server)) == {"fleet": 2500}
    server.run(
        "DELETE FROM vitrail.event WHERE sequence > 700; UPDATE vitrail.head SET "
        "sequence = 700, peaks = '', leaf = there.leaf FROM vitrail.event there "
        "WHERE there.sequence = 700"
    )
    assert await ship(tmp_path, fleet(server)) == {"fleet": 1800}
    assert [row[0] for row in server.rows(_ALL)] == bodies(tmp_path)
    assert await ship(tmp_path, fleet(server)) == {"fleet": 0}
    # And one whose machine has lost its cursor is asked for its newest event.
    (tmp_path / "ship/fleet.json").unlink()
    assert await ship(tmp_path, fleet(server)) == {"fleet": 0}
    assert server.rows("SELECT count(*) FROM vitrail.event") == [(2500,)]


async def test_a_log_that_was_rolled_back_is_not_shipped_over_the_other_one(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 100)
    shutil.copytree(tmp_path, tmp_path / "backup", dirs_exist_ok=False)
    async with open_store(tmp_path / "audit.sqlite") as store:
        await record(store, 101, 50)
    await ship(tmp_path, fleet(server))
    before = server.rows(_ALL)
    for name in ("audit.sqlite", "audit.sqlite-wal", "audit.sqlite-shm", "audit.key"):
        (tmp_path / name).unlink(missing_ok=True)
        if (tmp_path / "backup" / name).exists():
            shutil.copy(tmp_path / "backup" / name, tmp_path / name)
    cut = (await ship(tmp_path, fleet(server)))["fleet"]
    assert isinstance(cut, IntegrityError)
    assert "150" in str(cut)
    # It continues there with other events under the same numbers.
    async with open_store(tmp_path / "audit.sqlite") as store:
        await record(store, 1001, 80)
    for lost in (False, True):
        if lost:
            (tmp_path / "ship/fleet.json").unlink()
        changed = (await ship(tmp_path, fleet(server)))["fleet"]
        assert isinstance(changed, IntegrityError), changed
    assert server.rows(_ALL) == before


async def test_one_that_answers_nothing_is_given_up_and_asked_again(
    tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch waits for another client's lock: it ends long before the server's own limit."""
    await filled(tmp_path, 30)
    assert await ship(tmp_path, fleet(server)) == {"fleet": 30}
    async with open_store(tmp_path / "audit.sqlite") as store:
        await record(store, 31, 20)
    with monkeypatch.context() as hurry, psycopg.connect(server.address) as other:
        hurry.setattr(audit_limits, "SHIP_STEP_SECONDS", 1.0)
        other.execute("LOCK TABLE vitrail.event IN ACCESS EXCLUSIVE MODE")
        told = (await ship(tmp_path, fleet(server)))["fleet"]
    assert isinstance(told, UpstreamError)
    assert "did not accept a batch within 1 s" in str(told)
    assert "statement timeout" not in str(told.__cause__), "we have hung up ourselves"
    assert await ship(tmp_path, fleet(server)) == {"fleet": 20}
    assert [row[0] for row in server.rows(_ALL)] == bodies(tmp_path)


async def test_an_event_that_was_edited_is_not_shipped(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 30)
    with sqlite3.connect(tmp_path / "audit.sqlite") as db:
        db.execute(
            "UPDATE event SET body = replace(body, '}', ' }') WHERE sequence = 20"
        )
    db.close()
    told = (await ship(tmp_path, fleet(server)))["fleet"]
    assert isinstance(told, IntegrityError)
    assert "event 20 was changed" in str(told)


async def test_many_machines_and_the_same_questions(
    tmp_path: Path, server: Postgres
) -> None:
    for machine, count in (("desk", 300), ("lap", 200), ("lab", 100)):
        await filled(tmp_path / machine, count)
    async with trio.open_nursery() as nursery:
        for machine in ("desk", "lap", "lab"):
            nursery.start_soon(
                lambda m=machine: ship(tmp_path / m, fleet(server), machine=m)
            )
    with open_fleet(server.address) as store:
        assert store.machines() == ["desk", "lab", "lap"]
        everything = [*store.find(Filters())]
        assert len(everything) == 600
        assert [f.time_ns for f in everything] == sorted(f.time_ns for f in everything)
        desk = sorted(
            (f for f in everything if f.machine == "desk"), key=lambda f: f.sequence
        )
        assert [f.body for f in desk] == bodies(tmp_path / "desk")
    for words, expected in [
        (("--machine", "lap"), lambda f: f["machine"] == "lap"),
        (("--machine", "la*", "--verdict", "deny"),
         lambda f: f["machine"] != "desk" and f.get("verdict") == "deny"),
        (("--sandbox", "web", "--sandbox", "mail", "--kind", "stream"),
         lambda f: f["sandbox"] != "work" and f["kind"] == "stream.closed"),
        (("--rule", "30-user.policy:3", "--service", "Audio"),
         lambda f: ":3:" in f.get("rule", "") and f["service"] == "vitrail.Audio"),
        (("-g", "1.1"), lambda f: "1+1" in f.get("reason", "") or "1.1" in str(f)),
    ]:  # fmt: skip
        answer = called(
            "audit",
            "--store",
            server.address,
            "--json",
            *words,
            env=_environment(tmp_path),
        )
        assert answer.code == 0, answer.err
        wanted = [
            f for f in everything if expected({**f.fields(), "machine": f.machine})
        ]
        if "-g" not in words:
            assert [(o["machine"], o["sequence"]) for o in answer.objects] == [
                (f.machine, f.sequence) for f in wanted
            ]
        assert answer.objects
        assert harmless(answer.out.replace("\n", ""))
    answer = called(
        *("audit", "--store", server.address, "-n", "5", "-r"),
        env=_environment(tmp_path),
    )
    assert len(answer.lines) == 5
    assert any(name in answer.lines[0] for name in ("desk", "lap", "lab"))


async def test_counting_and_reporting_a_fleet(tmp_path: Path, server: Postgres) -> None:
    env = _environment(tmp_path)
    for machine in ("desk", "lap"):
        await filled(tmp_path / machine, 90)
        await ship(tmp_path / machine, fleet(server), machine=machine)
    store = ("--store", server.address)
    (whole,) = called("audit", "stats", *store, "--json", env=env).objects
    with open_log(tmp_path / "desk/audit.sqlite") as log:
        alone = log.counts(Filters(), 10)
    (desk,) = called(
        "audit", "stats", *store, "--json", "--machine", "desk", env=env
    ).objects
    assert whole["events"] == 180
    assert desk["events"] == alone.events == 90
    assert desk["verdict"] == dict(alone.by["verdict"])
    assert desk["rule"] == dict(alone.by["rule"])
    assert desk["denied"] == dict(alone.denied)
    assert [(t["sandbox"], t["bytes_to_sandbox"]) for t in desk["traffic"]] == [
        (t.sandbox, t.got) for t in alone.traffic
    ]
    report = called("audit", "report", *store, "--to", "-", env=env)
    assert report.code == 0
    assert "desk · <b>web</b>" in report.out
    export = called("audit", "export", "-", *store, "--machine", "lap", env=env)
    assert sorted(export.lines) == sorted(bodies(tmp_path / "lap"))


_HOSTILE = (
    "no JSON",
    "[]",
    "[" * 20_000,
    '{"kind":"stream.closed","bytes_from_sandbox":"x","seconds":true,"reason":{"a":[]}}',
    '{"kind":"stream.closed","bytes_from_sandbox":1e999,"count":"many"}',
    '{"kind":"lease.begin","record":7,"sandbox":["work"]}',
    '{"kind":"stream.refused","count":99999999999999999999999999}',
)


async def test_rows_of_one_machine_do_not_end_questions_about_all(
    tmp_path: Path, server: Postgres
) -> None:
    """A machine that was taken over writes any rows, in its log."""
    env = _environment(tmp_path)
    await filled(tmp_path / "desk", 90)
    await ship(tmp_path / "desk", fleet(server), machine="desk")
    with psycopg.connect(server.address) as connection:
        row = connection.execute(
            "INSERT INTO vitrail.log (name, machine, broker) "
            "VALUES (%s, 'taken', 'local') RETURNING id",
            [bytes(16)],
        ).fetchone()
        assert row is not None
        kinds = ("stream.closed", "lease.begin", "stream.refused", "decision")
        for number, (body, kind) in enumerate(product(_HOSTILE, kinds), start=1):
            connection.execute(
                "INSERT INTO vitrail.event (log, sequence, time_ns, kind, sandbox, lease, "
                "service, verdict, rule, peer, outcome, boot, body, leaf) VALUES "
                "(%s, %s, %s, %s, 'web', '', '', '', '', '', '', '', %s, '')",
                [row[0], number, number, kind, body],
            )
    hostile = len(_HOSTILE) * len(kinds)
    with open_log(tmp_path / "desk/audit.sqlite") as log:
        alone = log.counts(Filters(sandboxes=("web",)), 10)
    store = ("--store", server.address)
    (all_of_it,) = called("audit", "stats", *store, "--json", env=env).objects
    assert all_of_it["events"] == 90 + hostile
    web = called("audit", "stats", *store, "--json", "--sandbox", "web", env=env)
    assert web.objects[0]["events"] == alone.events + hostile, web.err
    words = ("--sandbox", "web", "--machine", "desk")
    (desk,) = called("audit", "stats", *store, "--json", *words, env=env).objects
    assert desk["events"] == alone.events
    (traffic,) = alone.traffic
    (there,) = desk["traffic"]
    assert (there["bytes_to_sandbox"], there["seconds"]) == (
        traffic.got,
        pytest.approx(traffic.seconds, abs=0.01),
    )
    listed = called("audit", *store, "--json", env=env)
    assert listed.code == 0, listed.err
    assert len(listed.objects) == 90 + hostile
    for verb in (("audit", *store), ("audit", "report", *store, "--to", "-")):
        answer = called(*verb, env=env)
        assert answer.code == 0, answer.err
        assert "desk" in answer.out
        assert "not an event" in answer.out or verb[1] == "report"


async def test_a_question_is_never_taken_for_sql(
    tmp_path: Path, server: Postgres
) -> None:
    env = _environment(tmp_path)
    await filled(tmp_path / "desk", 9)
    await ship(tmp_path / "desk", fleet(server))
    options = ("--sandbox", "--rule", "--peer", "--machine", "--kind")
    words = (
        "' OR true --", "'; DROP TABLE vitrail.event; --", "%", "%s", "\\", "$1", "{}",
        "*' OR true --", "a\x00b",
    )  # fmt: skip
    stores = (server.address, str(tmp_path / "desk/audit.sqlite"))
    for option, word, store in product(options, words, stores):
        if "sqlite" in store and option == "--machine":
            continue
        answer = called("audit", "--store", store, option, word, env=env)
        assert answer.code in {1, 2}, (option, word, answer.out)
        assert answer.out == ""
        assert "Traceback" not in answer.err
    assert server.rows("SELECT count(*) FROM vitrail.event") == [(9,)]


def _environment(directory: Path) -> dict[str, str]:
    import os

    return {
        **os.environ,
        "HOME": str(directory),
        "XDG_STATE_HOME": str(directory / "state"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


async def test_a_follower_sees_every_event_once_though_transactions_cross(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path / "one", 50)
    await filled(tmp_path / "two", 50)
    await ship(tmp_path / "one", fleet(server), machine="one")
    got: list[tuple[str, int]] = []
    with open_fleet(server.address) as store:
        got += [(f.machine, f.sequence) for f in store.find(Filters())]
        # A transaction that began before the others and ends after them.
        with psycopg.connect(server.address) as slow:
            slow.execute(
                "INSERT INTO vitrail.gap VALUES ((SELECT min(id) FROM vitrail.log), 1, 1)"
            )
            async with open_store(tmp_path / "one/audit.sqlite") as log:
                await record(log, 51, 25)
            await ship(tmp_path / "one", fleet(server), machine="one")
            await ship(tmp_path / "two", fleet(server), machine="two")
            found = [*store.find(Filters(), cursor=store.horizon)]
            got += [(f.machine, f.sequence) for f in found]
            slow.commit()
        assert [*store.find(Filters(), cursor=store.horizon)] == []
    assert sorted(got) == sorted(
        [("one", n) for n in range(1, 76)] + [("two", n) for n in range(1, 51)]
    )


async def test_a_role_of_one_machine_neither_reads_nor_extends_anothers_log(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path / "one", 20)
    await filled(tmp_path / "two", 20)
    await ship(tmp_path / "one", fleet(server), machine="one")
    server.run(
        "CREATE ROLE two LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE vitrail_reader;"
        "GRANT vitrail_reader TO reader;"
        "GRANT USAGE ON SCHEMA vitrail TO two, vitrail_reader;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO two, vitrail_reader;"
        "GRANT INSERT ON vitrail.log, vitrail.event, vitrail.gap, vitrail.checkpoint TO two"
    )
    two = PostgresTarget("fleet", server.as_role("two"))
    assert await ship(tmp_path / "two", two, machine="two") == {"fleet": 20}
    with open_fleet(server.as_role("two")) as store:
        assert {f.machine for f in store.find(Filters())} == {"two"}
    with open_fleet(server.as_role("reader")) as store:
        assert {f.machine for f in store.find(Filters())} == {"one", "two"}
    # It has got hold of the other one's log: that is not taken from it.
    (tmp_path / "one/ship/fleet.json").unlink()
    told = (await ship(tmp_path / "one", two, machine="two"))["fleet"]
    assert isinstance(told, IntegrityError)
    told = (await ship(tmp_path / "one", two, machine="one"))["fleet"]
    assert isinstance(told, IntegrityError)
    assert "from another machine" in str(told)
    # Rights that it does not need are not missed: nothing can be changed.
    import psycopg

    with (
        psycopg.connect(server.as_role("two")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("DELETE FROM vitrail.event")


async def test_a_database_of_a_newer_version_and_one_without_rights(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 5)
    server.run("CREATE ROLE nobody LOGIN")
    nobody = PostgresTarget("fleet", server.as_role("nobody"))
    told = (await ship(tmp_path, nobody))["fleet"]
    assert isinstance(told, SetupError)
    assert "denied the access" in str(told)
    with (
        pytest.raises(SetupError, match="nothing has been shipped"),
        open_fleet(server.address),
    ):
        pass
    await ship(tmp_path, fleet(server))
    server.run("INSERT INTO vitrail.migration VALUES (99)")
    await filled(tmp_path / "new", 5)
    told = (await ship(tmp_path / "new", fleet(server)))["fleet"]
    assert isinstance(told, SetupError)
    assert "newer Vitrail" in str(told)
    with pytest.raises(SetupError, match="newer Vitrail"), open_fleet(server.address):
        pass


async def test_tables_that_no_script_updates_are_left_as_they_are(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 5)
    await ship(tmp_path, fleet(server))
    server.run("DROP TABLE vitrail.revision; UPDATE vitrail.migration SET version = 5")
    await filled(tmp_path / "new", 5)
    told = (await ship(tmp_path / "new", fleet(server)))["fleet"]
    assert isinstance(told, SetupError)
    assert "have version 5, which is too old" in str(told)


async def test_two_machines_may_be_the_first_at_once(
    tmp_path: Path, server: Postgres
) -> None:
    answers = []
    for n in range(4):
        await filled(tmp_path / str(n), 10)

    async def one(n: int) -> None:
        answers.append(await ship(tmp_path / str(n), fleet(server), machine=f"m{n}"))

    async with trio.open_nursery() as nursery:
        for n in range(4):
            nursery.start_soon(one, n)
    assert answers == [{"fleet": 10}] * 4


async def test_a_migration_that_waited_for_another_one_sees_its_tables(
    server: Postgres,
) -> None:
    """It had looked before, and the server keeps the names that were not there."""
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    results = []
    with (
        psycopg.connect(server.address, autocommit=True) as first,
        psycopg.connect(server.address, autocommit=True) as second,
        psycopg.connect(server.address, autocommit=True) as looks,
    ):

        async def waiting() -> bool:
            return bool(looks.execute(waits).fetchall())

        async def late() -> None:
            results.append(await trio.to_thread.run_sync(database.migrate, second))

        async with trio.open_nursery() as nursery:
            with first.transaction():
                first.execute("SELECT pg_advisory_xact_lock(%s)", [database._LOCK])
                nursery.start_soon(late)
                await eventually(waiting)
                # Few new names: of many the server tells the others that wait.
                first.execute("CREATE SCHEMA vitrail")
                first.execute("CREATE TABLE vitrail.migration (version integer)")
                version = [database.VERSION]
                first.execute("INSERT INTO vitrail.migration VALUES (%s)", version)
    assert results == [0]


async def test_an_unreachable_server_is_an_error_and_keeps_the_cursor(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 10)
    await ship(tmp_path, fleet(server))
    async with open_store(tmp_path / "audit.sqlite") as store:
        await record(store, 11, 10)
    await server.stop()
    told = (await ship(tmp_path, fleet(server)))["fleet"]
    assert isinstance(told, UpstreamError)
    cursor = load_cursor(tmp_path / "ship", "fleet")
    assert cursor.sequence == 10
    assert "database" in cursor.problem
    await server.start()
    assert await ship(tmp_path, fleet(server)) == {"fleet": 10}
    assert load_cursor(tmp_path / "ship", "fleet").problem == ""


async def test_events_that_retention_took_first_are_a_gap_that_is_told(
    tmp_path: Path, server: Postgres
) -> None:
    await filled(tmp_path, 40)
    await ship(tmp_path, fleet(server))
    async with open_store(tmp_path / "audit.sqlite") as store:
        await record(store, 41, 40)
    with sqlite3.connect(tmp_path / "audit.sqlite") as db:
        db.execute("DELETE FROM event WHERE sequence < 60")
    db.close()
    assert await ship(tmp_path, fleet(server)) == {"fleet": 21}
    assert server.rows("SELECT first, last FROM vitrail.gap") == [(41, 59)]
    assert load_cursor(tmp_path / "ship", "fleet").missing == 19


async def test_the_broker_answers_while_a_receiver_hangs(
    tmp_path: Path, server: Postgres
) -> None:
    """A lock in the database makes the receiver hang; recording continues."""
    import psycopg

    await filled(tmp_path, 10)
    await ship(tmp_path, fleet(server))
    stop = trio.Event()
    with psycopg.connect(server.address) as holder:
        holder.execute("LOCK TABLE vitrail.event IN ACCESS EXCLUSIVE MODE")
        async with (
            open_store(tmp_path / "audit.sqlite") as store,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(ship_for_ever, place(tmp_path), [fleet(server)], stop)
            with trio.fail_after(60):
                await record(store, 11, 2000)
            assert load_cursor(tmp_path / "ship", "fleet").sequence == 10
            holder.rollback()
            await stored(server, 2010)
            stop.set()
    assert [row[0] for row in server.rows(_ALL)] == bodies(tmp_path)


async def test_an_old_and_a_missing_package_say_what_to_do(tmp_path: Path) -> None:
    await filled(tmp_path, 1)
    code = (
        "import sys; sys.modules[{0!r}] = None\n"
        "import trio\n"
        "from pathlib import Path\n"
        "from broker.helpers.shipper.config import OtlpTarget, PostgresTarget\n"
        "from broker.helpers.shipper.run import ShipperPaths, ship_once\n"
        "target = {1}\n"
        "place = ShipperPaths(Path(sys.argv[1]) / 'audit.sqlite', Path(sys.argv[1]) / 's', 'm')\n"
        "trio.run(ship_once, place, [target], lambda n, e: print(e.diagnostics()))\n"
    )
    import sys

    for package, target in (
        ("psycopg", "PostgresTarget('x', 'postgresql:///x')"),
        (
            "opentelemetry.proto.logs.v1",
            "OtlpTarget('x', 'http://localhost:1/v1/logs')",
        ),
    ):
        said = await run_tool(
            [sys.executable, "-c", code.format(package, target), str(tmp_path)],
            cwd=Path(__file__).parents[2],
        )
        assert b"not installed" in said
        assert b".[fleet]" in said


async def test_brokerctl_ships_and_shows_how_far_it_got(server: Postgres) -> None:
    with home() as env:
        paths = paths_of(env)
        await filled(paths.state, 25)
        none = await brokerctl("audit", "ship", "--once", env=env)
        assert none.code == 1
        assert "ship.toml does not exist" in none.err
        paths.config[0].mkdir(parents=True)
        config = paths.config[0] / "ship.toml"
        config.write_text(
            f'machine = "desk"\n[[target]]\nname = "fleet"\nto = "postgresql"\n'
            f'address = "{server.address}&password=xyzzy"\n'
            f'[[target]]\nname = "file"\nto = "jsonl"\npath = "{env["HOME"]}/out.jsonl"\n'
        )
        config.chmod(0o644)
        refused = await brokerctl("audit", "ship", "--once", env=env)
        assert refused.code == 1
        assert "readable by others" in refused.err
        config.chmod(0o600)
        before = await brokerctl("audit", "ship", env=env)
        assert before.code == 1
        assert "fleet" in before.out
        assert "xyzzy" not in before.out
        done = await brokerctl("audit", "ship", "--once", "--json", env=env)
        assert done.code == 0, done.err
        assert done.objects == [{"file": {"events": 25}, "fleet": {"events": 25}}]
        after = await brokerctl("audit", "ship", "--json", env=env)
        assert after.code == 0
        (answer,) = after.objects
        assert [t["behind"] for t in answer["targets"]] == [0, 0]
        text = (Path(env["HOME"]) / "out.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        sequences = [line["sequence"] for line in lines if "sequence" in line]
        assert sequences == [*range(1, 26)]
        assert [line for line in lines if "checkpoint" in line]
        wrong = await brokerctl("audit", "ship", "--target", "moon", env=env)
        assert wrong.code == 2


async def test_the_program_ends_when_asked_and_reads_a_changed_file(
    server: Postgres,
) -> None:
    with home() as env:
        paths = paths_of(env)
        await filled(paths.state, 25)
        paths.config[0].mkdir(parents=True)
        config = paths.config[0] / "ship.toml"
        out = Path(env["HOME"]) / "out.jsonl"
        config.write_text(f'[[target]]\nname = "a"\nto = "jsonl"\npath = "{out}"\n')
        child = spawn(our_program("broker.programs.shipper"), env=env, stderr=PIPE)
        with trio.fail_after(60):
            await eventually(out.exists)
            fresh = config.with_name("new")
            fresh.write_text(
                f'[[target]]\nname = "fleet"\nto = "postgresql"\n'
                f'address = "{server.address}"\n'
            )
            fresh.replace(config)
            await stored(server, 25)
            assert await child.stop() == 0
        assert child.popen.stderr is not None
        child.popen.stderr.close()


async def test_the_database_is_a_witness_of_what_a_machine_signed(
    tmp_path: Path, server: Postgres
) -> None:
    env = _environment(tmp_path)
    for machine, count in (("desk", 2500), ("lap", 40)):
        async with open_store(tmp_path / machine / "audit.sqlite") as store:
            for first in range(1, count + 1, 500):
                await record(store, first, min(500, count - first + 1))
                await store.checkpoint()
        await ship(tmp_path / machine, fleet(server), machine=machine)
    words = ("audit", "verify", "--store", server.address)
    good = called(*words, env=env)
    assert good.code == 0, good.out + good.err
    both = (called(*words, "--json", env=env)).objects
    assert [one["machine"] for one in both] == ["desk", "lap"]
    assert both[0]["checkpoints"] >= 5
    assert both[0]["size"] == 2500
    # A machine's own log is compared with the checkpoints that it signed when it shipped.
    kept = called(
        *("audit", "checkpoint", "--store", server.address, "--machine", "desk"),
        env=env,
    )
    (tmp_path / "kept").write_text(kept.out)
    own = called(
        *("audit", "verify", "--against", str(tmp_path / "kept")),
        *("--log", str(tmp_path / "desk/audit.sqlite")),
        env=env,
    )
    assert own.code == 0, own.out
    # Who changes a row in the database is found, also if its hash fits again.
    for script, where in (
        (("UPDATE vitrail.event SET body = body || ' ' "
         "WHERE sequence = 1700 AND log = 1"), "event 1700"),
        (("UPDATE vitrail.event SET body = body || ' ', "
         "leaf = sha256('\\x00'::bytea || convert_to(body || ' ', 'UTF8')) "
         "WHERE sequence = 700 AND log = 1"), "events 501 to 1000"),
        ("DELETE FROM vitrail.event WHERE sequence > 2200 AND log = 1", "events 2001 to 2500"),
        ("DELETE FROM vitrail.checkpoint WHERE kind LIKE 'key%' AND log = 1", "the log"),
    ):  # fmt: skip
        server.run("CREATE TABLE spare AS SELECT * FROM vitrail.event")
        server.run("CREATE TABLE notes AS SELECT * FROM vitrail.checkpoint")
        server.run(script)
        bad = called(*words, "--machine", "desk", env=env)
        assert bad.code == 3, (script, bad.out, bad.err)
        assert where in bad.out, (script, bad.out)
        assert (called(*words, "--machine", "lap", env=env)).code == 0
        server.run("ALTER TABLE spare DROP COLUMN place_ns; DELETE FROM vitrail.event")
        ((day,),) = server.rows("SELECT vitrail.day_table()")
        server.run(f"INSERT INTO vitrail.{day} ({_STORED}) SELECT {_STORED} FROM spare")
        server.run(
            "DELETE FROM vitrail.checkpoint; INSERT INTO vitrail.checkpoint TABLE notes"
        )
        server.run("DROP TABLE spare; DROP TABLE notes")
    assert (called(*words, env=env)).code == 0
    assert (called(*words, "--machine", "moon", env=env)).code == 1
