"""``brokerctl audit fleet``: a fleet's database, for who runs it."""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import rich_click as click

from broker.authority.audit.proof.note import origin_of
from broker.cli import render
from broker.cli.audit.query.fleet_database import open_fleet
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.helpers.shipper.database import (
    Connection,
    Error,
    connect,
    migrate,
    problem,
)

_VIEWS = Path(__file__).parents[2] / "data/sql/fleet-views.sql"
_STORE = click.option(
    "--store", required=True, metavar="ADDRESS", help="The database: postgresql://…"
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, a line each.")
Row = tuple[object, ...]
_KEEP = re.compile(r"([1-9]\d{0,4})d")

# A group for the machines: a table's list of rights has room for some 2,400 roles.
_ROLES = """
DO $$ DECLARE name text; BEGIN
    FOREACH name IN ARRAY ARRAY['vitrail_reader', 'vitrail_machine', 'vitrail_ingest']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
    END LOOP;
END $$;
GRANT USAGE ON SCHEMA vitrail TO vitrail_reader, vitrail_machine, vitrail_ingest;
GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO vitrail_reader;
GRANT SELECT ON vitrail.migration, vitrail.revision TO vitrail_machine, vitrail_ingest;
REVOKE SELECT ON vitrail.enrolled FROM vitrail_reader;
GRANT SELECT, INSERT ON vitrail.log, vitrail.event, vitrail.gap, vitrail.checkpoint
    TO vitrail_machine;
GRANT SELECT ON vitrail.head, vitrail.frontier, vitrail.leaf TO vitrail_machine;
GRANT INSERT ON vitrail.event TO vitrail_ingest;
GRANT SELECT ON vitrail.log, vitrail.head, vitrail.checkpoint, vitrail.enrolled
    TO vitrail_ingest;
GRANT UPDATE (log) ON vitrail.enrolled TO vitrail_ingest;
DO $$ BEGIN
    CREATE POLICY ingest ON vitrail.enrolled TO vitrail_ingest USING (true);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
"""


@click.group("fleet")
def fleet() -> None:
    """A fleet's database: its tables, machines, policies and upkeep."""


def _run(store: str, *scripts: str) -> list[tuple[object, ...]]:
    """Run scripts in one transaction; returns the rows of the last one."""
    connection = connect(store)
    try:
        with connection.transaction():
            for script in scripts[:-1]:
                connection.execute(script)
            return _rows(connection, scripts[-1])
    except Error as error:
        raise problem(error) from error
    finally:
        connection.close()


def _rows(
    connection: Connection, query: str, values: tuple[object, ...] = ()
) -> list[tuple[object, ...]]:
    cursor = connection.execute(query, values or None)
    return cursor.fetchall() if cursor.description else []


@fleet.command("init")
@_STORE
def init_command(*, store: str) -> None:
    """Make the tables, or bring them up to date, with their roles and views.

    Run it as the role that is to own them, which may create roles.  Machines of the
    release before still ship meanwhile.

    Exit code: 0, 1 the database refuses.
    """
    connection = connect(store)
    try:
        done = migrate(connection)
        connection.commit()
    except Error as error:
        raise problem(error) from error
    finally:
        connection.close()
    _run(
        store, _ROLES, _VIEWS.read_text().replace("BEGIN;\n", "").replace("COMMIT;", "")
    )
    render.note(
        f"tables made or updated by {render.count(done, 'version')}; grant vitrail_machine to "
        "each machine's role, vitrail_reader to those who ask, vitrail_ingest to the "
        "ingest service's"
    )


def _show(
    rows: Sequence[Row],
    header: tuple[str, ...],
    cells: Callable[[Row], tuple[str, ...]],
    fields: Callable[[Row], dict[str, object]] | None,
    *,
    none: str = "there is none",
) -> None:
    """Print rows as a table, or with ``fields`` as JSON; exit with 1 for none."""
    if fields:
        for row in rows:
            render.json_line(fields(row))
    elif rows:
        render.table(header, [cells(row) for row in rows])
    if not rows:
        render.note(none)
        sys.exit(1)


# The log that was heard of last is the machine's.
_MACHINES = """
SELECT DISTINCT ON (machine) machine, owner, encode(name, 'hex'), sequence, extract(epoch FROM heard)::float8,
    bundle, policy, extract(epoch FROM loaded)::float8
FROM vitrail.head JOIN vitrail.log ON id = head.log ORDER BY machine, heard DESC
"""


@fleet.command("machines")
@_STORE
@click.option(
    "--silent",
    type=click.IntRange(1, 10_000),
    default=None,
    metavar="HOURS",
    help="Only those that were not heard of for so long.",
)
@_JSON
def machines_command(*, store: str, silent: int | None, as_json: bool) -> None:
    """Show each machine: when it was last heard of, its events, its policy.

    A machine without events says once an hour that it lives.

    Exit code: 0, 1 there is none.
    """
    with open_fleet(store) as opened:
        rows = opened.rows(_MACHINES, [])
    now = time.time()
    _show(
        [
            row
            for row in rows
            if silent is None or now - float(str(row[4])) >= 3600 * silent
        ],
        ("MACHINE", "ROLE", "EVENTS", "LAST HEARD OF", "BUNDLE"),
        lambda row: (
            printable(str(row[0]), 60),
            printable(str(row[1]), 40),
            str(row[3]),
            f"{render.seconds(max(now - float(str(row[4])), 0))} ago",
            printable(str(row[5]), 60) or "-",
        ),
        _machine if as_json else None,
    )


def _machine(row: Row) -> dict[str, object]:
    machine, owner, log, sequence, heard, bundle, policy, loaded = row
    return {
        "machine": str(machine),
        "role": str(owner),
        "log": str(log),
        "events": int(str(sequence)),
        "last_heard": float(str(heard)),
        "bundle": str(bundle),
        "policy": str(policy),
        "policy_loaded": None if loaded is None else float(str(loaded)),
    }


@fleet.command("policies")
@_STORE
@_JSON
def policies_command(*, store: str, as_json: bool) -> None:
    """Show which policy bundles are in force, on how many machines.

    Exit code: 0, 1 there is none.
    """
    query = (
        "SELECT bundle, policy, count(DISTINCT machine), min(machine), "
        "extract(epoch FROM max(loaded))::float8 FROM vitrail.head "
        "JOIN vitrail.log ON id = head.log WHERE loaded IS NOT NULL "
        "GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
    )
    with open_fleet(store) as opened:
        rows = opened.rows(query, [])
    _show(
        rows,
        ("BUNDLE", "POLICY", "MACHINES", "AS ON"),
        lambda row: (
            printable(str(row[0]), 60) or "-",
            printable(str(row[1]), 16) or "-",
            str(row[2]),
            printable(str(row[3]), 40),
        ),
        _policy if as_json else None,
        none="no machine has said which policy it loaded",
    )


def _policy(row: Row) -> dict[str, object]:
    bundle, policy, machines, example, loaded = row
    return {
        "bundle": str(bundle),
        "policy": str(policy),
        "machines": int(str(machines)),
        "example": str(example),
        "last_loaded": float(str(loaded)),
    }


@fleet.command("gaps")
@_STORE
@_JSON
def gaps_command(*, store: str, as_json: bool) -> None:
    """Show events that were lost before they were shipped.

    Exit code: 0 there are some, 1 there is none.
    """
    query = (
        "SELECT machine, encode(name, 'hex'), first, last, "
        "extract(epoch FROM noted)::float8 FROM vitrail.gap JOIN vitrail.log "
        "ON id = gap.log ORDER BY noted, machine, first"
    )
    with open_fleet(store) as opened:
        rows = opened.rows(query, [])
    _show(
        rows,
        ("MACHINE", "FIRST", "LAST", "NOTED"),
        lambda row: (
            printable(str(row[0]), 60),
            str(row[2]),
            str(row[3]),
            f"{datetime.fromtimestamp(float(str(row[4])), UTC):%Y-%m-%d %H:%MZ}",
        ),
        _gap if as_json else None,
    )


def _gap(row: Row) -> dict[str, object]:
    machine, log, first, last, noted = row
    return {
        "machine": str(machine),
        "log": str(log),
        "first": int(str(first)),
        "last": int(str(last)),
        "noted": float(str(noted)),
    }


@fleet.command("enrol")
@_STORE
@click.argument("machine")
@click.option("--token", is_flag=True, help="Print a new token for its ship.toml.")
@click.option("--certificate", default="", metavar="NAME", help="Of its TLS client.")
@click.option("--log", default="", metavar="ORIGIN", help="'audit verify' prints it.")
@click.option("--revoke", is_flag=True, help="Take no more of this machine.")
def enrol_command(
    *, store: str, machine: str, token: bool, certificate: str, log: str, revoke: bool
) -> None:
    """Let the ingest service take a machine's batches.

    By a token, by the name in its client certificate, or by its log's name alone.
    With the first two a machine that begins a new log stays known; with --log only that
    log is taken.

    Exit code: 0, 1 the database refuses.
    """
    if sum((token, bool(certificate), bool(log), revoke)) != 1:
        raise click.UsageError("one of --token, --certificate, --log or --revoke")
    name = log.rpartition("/")[2]
    if log and not re.fullmatch("[0-9a-f]{32}", name):
        example = origin_of(bytes(32))
        raise click.UsageError(f"--log: not a log's name, as {example}")
    made = secrets.token_urlsafe(32) if token else ""
    connection = connect(store)
    try:
        with connection.transaction():
            connection.execute(
                "INSERT INTO vitrail.enrolled AS there (machine, secret, certificate, "
                "log, renew, revoked) VALUES (%s, %s, %s, %s, %s, %s) "
                "ON CONFLICT (machine) DO UPDATE SET revoked = excluded.revoked, "
                "secret = excluded.secret, certificate = excluded.certificate, "
                "log = coalesce(excluded.log, there.log), renew = excluded.renew, "
                "since = now()",
                [
                    machine,
                    sha256(made.encode()).digest() if token else None,
                    certificate or None,
                    bytes.fromhex(name) if log else None,
                    not log,
                    revoke,
                ],
            )
    except Error as error:
        raise problem(error) from error
    finally:
        connection.close()
    if token:
        sys.stdout.write(f"{made}\n")
    render.note(f"{printable(machine, 100)} is {'revoked' if revoke else 'enrolled'}")


@fleet.command("upkeep")
@_STORE
@click.option("--keep", default="", metavar="DAYSd", help="Drop older days, as 90d.")
def upkeep_command(*, store: str, keep: str) -> None:
    """Count new events, thin out checkpoints, drop old days; for a timer.

    A day is dropped whole.  What proves the rest is kept: the left edge of each log's
    tree.  Nothing is dropped while a log has events there and no later edge.

    Exit code: 0, 1 the database refuses or a day cannot be dropped.
    """
    found = _KEEP.fullmatch(keep)
    if keep and found is None:
        raise click.UsageError("--keep: a number of days, as 90d")
    ((counted,),) = _run(store, "SELECT vitrail.count_events()")
    ((thinned,),) = _run(store, "SELECT vitrail.thin_checkpoints()")
    dropped: object = 0
    if found is not None:
        before = datetime.now(UTC).date() - timedelta(days=int(found[1]))
        _refuse_unproved(store, before)
        ((dropped,),) = _run(store, f"SELECT vitrail.drop_days('{before}')")
    render.note(
        f"{counted} events counted, {thinned} checkpoints removed, {dropped} days dropped"
    )


def _refuse_unproved(store: str, before: date) -> None:
    """Refuse while an event of a kept day could not be proved any more."""
    first = (datetime(before.year, before.month, before.day, tzinfo=UTC)).timestamp()
    query = f"""
        SELECT machine FROM vitrail.log, LATERAL (SELECT sequence FROM vitrail.event
            WHERE event.log = id AND received_ns >= {int(first)}000000000
            ORDER BY sequence LIMIT 1) AS kept
        WHERE kept.sequence > 1 AND EXISTS (SELECT FROM vitrail.event old WHERE old.log =
                id AND old.sequence = kept.sequence - 1) AND NOT EXISTS (SELECT FROM
            vitrail.frontier WHERE frontier.log = id AND size = kept.sequence - 1
            AND octet_length(peaks) > 0)
        ORDER BY 1 LIMIT 5"""  # noqa: S608 -- a number of ours
    rows = _run(store, query)
    if rows:
        names = ", ".join(printable(str(name), 60) for (name,) in rows)
        raise SetupError(
            f"the events after {before} could not be proved any more, of: {names}",
            hint="a shipper of this release must have shipped on a later day",
        )
