"""``brokerctl audit fleet``: manage a fleet's database."""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click

from broker.authority.audit.proof.note import origin_of
from broker.cli import render
from broker.cli.fleet.fleet_database import open_fleet
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.helpers.shipper.database import migrate, opened

_VIEWS = Path(__file__).parents[2] / "data/sql/fleet-views.sql"
_STORE = click.option(
    "--store",
    required=True,
    metavar="ADDRESS",
    help="Address of the database: postgresql://…",
)
_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line."
)
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
    """Manage a fleet's database: tables, machines, policies and upkeep."""


def _run(store: str, *scripts: str) -> list[tuple[object, ...]]:
    """Run scripts in one transaction; returns the rows of the last one."""
    with opened(store) as connection, connection.transaction():
        done = [connection.execute(script) for script in scripts]
        return done[-1].fetchall() if done[-1].description else []


@fleet.command("init")
@_STORE
def init_command(*, store: str) -> None:
    """Create or update the tables, roles and views.

    Run this command as the role that will own them, which must be able to create roles.
    Machines of the previous release can still ship events meanwhile.

    Exit code: 0 done, 1 the database refused.
    """
    with opened(store) as connection:
        done = migrate(connection)
        connection.commit()
    views = _VIEWS.read_text().replace("BEGIN;\n", "").replace("COMMIT;", "")
    _run(store, _ROLES, views)
    render.note(
        f"the database's tables are up to date ({render.count(done, 'version')} applied)"
    )
    render.note(
        "grant the role vitrail_machine to each machine, vitrail_reader to users who "
        "query, and vitrail_ingest to the ingest service"
    )


_SHOWN: dict[str, Callable[[Any], str]] = {
    "last_heard": lambda time_s: f"{render.seconds(max(time.time() - time_s, 0))} ago",
    "noted": lambda time_s: f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%MZ}",
    "policy": lambda text: text[:16],
}
"""Fields that a table shows in another form than JSON."""


def _show(
    store: str,
    query: str,
    columns: dict[str, str],
    *,
    as_json: bool,
    none: str = "there are no entries",
) -> None:
    """Print a question's rows as a table of ``columns``, or as JSON; exit with 1 for none.

    ``columns`` are headings and the fields below them.
    """
    with open_fleet(store) as asked:
        found = asked.rows(f"SELECT row_to_json(one) FROM ({query}) AS one", [])  # noqa: S608
    rows: list[dict[str, Any]] = [msgspec.convert(row, dict) for (row,) in found]
    if as_json:
        for row in rows:
            render.json_line(row)
    elif rows:
        cells = [
            [
                printable(_SHOWN.get(name, str)(row[name]), 60) or "-"
                for name in columns.values()
            ]
            for row in rows
        ]
        render.table([*columns], cells)
    if not rows:
        render.note(none)
        sys.exit(1)


@fleet.command("machines")
@_STORE
@click.option(
    "--silent",
    type=click.IntRange(0, 10_000),
    default=0,
    metavar="HOURS",
    help="List only machines that have not shipped events for this many hours.",
)
@_JSON
def machines_command(*, store: str, silent: int, as_json: bool) -> None:
    """List machines: last contact, number of events, policy.

    A machine without new events sends a heartbeat once an hour.

    Exit code: 0 machines were listed, 1 none exist.
    """
    # The log that was heard of last is the machine's.
    query = f"""
        SELECT * FROM (SELECT DISTINCT ON (machine) machine, owner AS role,
            encode(name, 'hex') AS log, sequence AS events,
            extract(epoch FROM heard)::float8 AS last_heard, policy,
            extract(epoch FROM loaded)::float8 AS policy_loaded
        FROM vitrail.head JOIN vitrail.log ON id = head.log
        ORDER BY machine, heard DESC) AS machines
        WHERE last_heard <= extract(epoch FROM now() - interval '{silent} hours')"""  # noqa: S608
    columns = {
        "MACHINE": "machine",
        "ROLE": "role",
        "EVENTS": "events",
        "LAST SEEN": "last_heard",
        "POLICY": "policy",
    }
    _show(store, query, columns, as_json=as_json)


@fleet.command("policies")
@_STORE
@_JSON
def policies_command(*, store: str, as_json: bool) -> None:
    """List the sets of rules that are in force, and their number of machines.

    Exit code: 0 sets were listed, 1 none exist.
    """
    query = """
        SELECT policy, count(DISTINCT machine) AS machines,
            min(machine) AS example, extract(epoch FROM max(loaded))::float8 AS last_loaded
        FROM vitrail.head JOIN vitrail.log ON id = head.log WHERE loaded IS NOT NULL
        GROUP BY 1 ORDER BY 2 DESC, 1"""
    columns = {
        "POLICY": "policy",
        "MACHINES": "machines",
        "EXAMPLE": "example",
    }
    none = "no machine has reported which policy it loaded"
    _show(store, query, columns, as_json=as_json, none=none)


@fleet.command("gaps")
@_STORE
@_JSON
def gaps_command(*, store: str, as_json: bool) -> None:
    """List events that were lost before they were shipped.

    Exit code: 0 lost events were listed, 1 none exist.
    """
    query = """
        SELECT machine, encode(name, 'hex') AS log, first, last,
            extract(epoch FROM noted)::float8 AS noted
        FROM vitrail.gap JOIN vitrail.log ON id = gap.log ORDER BY gap.noted, machine, first"""
    columns = {"MACHINE": "machine", "FIRST": "first", "LAST": "last", "NOTED": "noted"}
    _show(store, query, columns, as_json=as_json)


@fleet.command("enrol")
@_STORE
@click.argument("machine")
@click.option(
    "--token", is_flag=True, help="Print a new token for the machine's ship.toml."
)
@click.option(
    "--certificate",
    default="",
    metavar="NAME",
    help="Name in the machine's TLS client certificate.",
)
@click.option(
    "--log",
    default="",
    metavar="ORIGIN",
    help="Name of the machine's log, as printed by 'audit verify'.",
)
@click.option("--revoke", is_flag=True, help="Reject further events from this machine.")
def enrol_command(
    *, store: str, machine: str, token: bool, certificate: str, log: str, revoke: bool
) -> None:
    """Allow the ingest service to accept a machine's batches.

    The service identifies the machine by a token, by the name in its client certificate,
    or only by the name of its log.  With a token or a certificate, the machine may begin
    a new log; with --log, only batches of that log are accepted.

    Exit code: 0 done, 1 the database refused.
    """
    if sum((token, bool(certificate), bool(log), revoke)) != 1:
        raise click.UsageError(
            "exactly one of --token, --certificate, --log and --revoke is required"
        )
    name = log.rpartition("/")[2]
    if log and not re.fullmatch("[0-9a-f]{32}", name):
        example = origin_of(bytes(32))
        raise click.UsageError(f"--log requires the name of a log, such as {example}")
    secret = secrets.token_urlsafe(32) if token else ""
    with opened(store) as connection, connection.transaction():
        connection.execute(
            "INSERT INTO vitrail.enrolled AS there (machine, secret, certificate, "
            "log, renew, revoked) VALUES (%s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (machine) DO UPDATE SET revoked = excluded.revoked, "
            "secret = excluded.secret, certificate = excluded.certificate, "
            "log = coalesce(excluded.log, there.log), renew = excluded.renew, "
            "since = now()",
            [
                machine,
                sha256(secret.encode()).digest() if token else None,
                certificate or None,
                bytes.fromhex(name) if log else None,
                not log,
                revoke,
            ],
        )
    if token:
        sys.stdout.write(f"{secret}\n")
    render.note(f"{printable(machine, 100)} is {'revoked' if revoke else 'enrolled'}")


@fleet.command("upkeep")
@_STORE
@click.option(
    "--keep",
    default="",
    metavar="DAYSd",
    help="Drop days that are older than this, such as 90d.",
)
def upkeep_command(*, store: str, keep: str) -> None:
    """Count new events, thin out checkpoints and drop old days (for a timer).

    The indexes of the oldest finished day are rebuilt once, which makes them a third
    smaller; queries and batches continue meanwhile.  Days are dropped as a whole.  The
    left edge of each log's tree is kept, which proves later events.  A day is not dropped
    while a log has events of that day and no later edge.

    Exit code: 0 done, 1 the database refused, or a day cannot be dropped.
    """
    found = _KEEP.fullmatch(keep)
    if keep and found is None:
        raise click.UsageError("--keep requires a number of days, such as 90d")
    ((counted,),) = _run(store, "SELECT vitrail.count_events()")
    ((thinned,),) = _run(store, "SELECT vitrail.thin_checkpoints()")
    dropped: object = 0
    if found is not None:
        before = datetime.now(UTC).date() - timedelta(days=int(found[1]))
        _refuse_unproved(store, before)
        ((dropped,),) = _run(store, f"SELECT vitrail.drop_days('{before}')")
    packed = pack_day(store, datetime.now(UTC).date())
    render.note(
        f"counted {counted} events, removed {thinned} checkpoints, dropped {dropped} days"
        + (f", rebuilt the indexes of {packed}" if packed else "")
    )


_PACKED = "its indexes were built again after its end"


def pack_day(store: str, today: date) -> str:
    """Build the indexes of a table of an ended day again; returns its name, or nothing.

    Events arrive in no order of an index, whose pages are two thirds full then.  The
    oldest day that this was not done for; the table's comment says that it was.
    """
    rows = _run(
        store,
        "SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid "  # noqa: S608 -- a date
        f"WHERE inhparent = 'vitrail.event'::regclass AND relname ~ '^event_\\d{{8}}$' "
        f"AND relname < 'event_{today:%Y%m%d}' "
        f"AND obj_description(pg_class.oid) IS DISTINCT FROM '{_PACKED}' "
        "ORDER BY 1 LIMIT 1",
    )
    if not rows:
        return ""
    table = str(rows[0][0])
    with opened(store) as connection:
        # Each in a separate transaction: batches and questions wait for nothing.
        connection.autocommit = True
        connection.execute(f"REINDEX TABLE CONCURRENTLY vitrail.{table}")
        connection.execute(f"COMMENT ON TABLE vitrail.{table} IS '{_PACKED}'")
    return table


def _refuse_unproved(store: str, before: date) -> None:
    """Raise SetupError if an event of a kept day could no longer be proved."""
    first = (datetime(before.year, before.month, before.day, tzinfo=UTC)).timestamp()
    query = f"""
        SELECT machine FROM vitrail.log, LATERAL (SELECT sequence FROM vitrail.event
            WHERE event.log = id AND received_ns >= {int(first)}000000000
            ORDER BY sequence LIMIT 1) AS kept
        WHERE kept.sequence > 1 AND EXISTS (SELECT FROM vitrail.event old WHERE old.log =
                id AND old.sequence = kept.sequence - 1) AND NOT EXISTS (SELECT FROM
            vitrail.frontier WHERE frontier.log = id AND size = kept.sequence - 1
            AND octet_length(peaks) > 0)
        ORDER BY 1 LIMIT 5"""  # noqa: S608 -- one of our numbers
    rows = _run(store, query)
    if rows:
        names = ", ".join(printable(str(name), 60) for (name,) in rows)
        raise SetupError(
            f"cannot drop the days before {before}: the later events of {names} could no "
            "longer be proved",
            hint="keep more days (--keep), or wait until the machine has shipped events with "
            "this release of Vitrail on a later day",
        )
