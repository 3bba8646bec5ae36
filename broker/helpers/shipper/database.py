"""The fleet's database: its tables, their versions, and connecting to it.

Everything is in the schema ``vitrail``.  ``log`` has one row for each log that
was ever shipped there, ``event`` the events with the columns that are asked
for most, ``gap`` what a log had lost before it could be shipped, ``checkpoint`` what the
logs have signed of themselves, ``leaf`` hashes of events that were removed.

A machine's role may be anybody's: what it may put into a row is bounded by checks
and by policies.  ``received_ns`` is the time of the transaction that brought an
event; ``place_ns`` is where it stands in the order: no more than a minute later.
"""

from __future__ import annotations

from pathlib import Path

from broker.core.errors import (
    IntegrityError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits

try:
    import psycopg
except ImportError as _error:  # pragma: no cover -- tested in a process without it
    raise SetupError(
        f"PostgreSQL needs a package that is not installed ({_error.name})",
        hint="pip install 'vitrail[fleet]', or Debian's python3-psycopg",
    ) from _error

Error = psycopg.Error
"""Any error of a database; used from here, so a missing package is reported above."""

Connection = psycopg.Connection[tuple[object, ...]]

_LOCK = 0x56545241  # "VTRA": one migration at a time (advisory lock)
_OTHER = "VT001"  # what is there differs from what came (fleet-tables-7.sql)

NAMES = """
    -- The role that ships first under a machine's name has that name.
    CREATE TABLE vitrail.machine (
        name text PRIMARY KEY CHECK (octet_length(name) <= 1020),
        owner name NOT NULL
    );
    INSERT INTO vitrail.machine SELECT DISTINCT ON (machine) machine, owner
        FROM vitrail.log ORDER BY machine, first_seen, id;
    UPDATE vitrail.log SET machine = machine || ' (role ' || log.owner || ')'
        FROM vitrail.machine there
        WHERE there.name = log.machine AND there.owner <> log.owner;
    INSERT INTO vitrail.machine SELECT machine, owner FROM vitrail.log
        ON CONFLICT DO NOTHING;
    ALTER TABLE vitrail.machine ENABLE ROW LEVEL SECURITY;
    CREATE FUNCTION vitrail.take_name() RETURNS trigger LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO vitrail.machine VALUES (NEW.machine, NEW.owner)
            ON CONFLICT DO NOTHING;
        IF NEW.owner <> (SELECT owner FROM vitrail.machine WHERE name = NEW.machine)
        THEN
            RAISE EXCEPTION 'another role ships under the name %', NEW.machine
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER take_name BEFORE INSERT ON vitrail.log
        FOR EACH ROW EXECUTE FUNCTION vitrail.take_name();
"""
"""The fifth script."""

# One script for each version; vitrail.migration counts those done.
MIGRATIONS = (
    """
    CREATE TABLE vitrail.log (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name bytea NOT NULL UNIQUE CHECK (octet_length(name) = 16),
        machine text NOT NULL,
        broker text NOT NULL DEFAULT '',
        owner name NOT NULL DEFAULT current_user,
        first_seen timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE vitrail.event (
        log integer NOT NULL REFERENCES vitrail.log,
        sequence bigint NOT NULL CHECK (sequence > 0),
        time_ns bigint NOT NULL,
        kind text NOT NULL,
        sandbox text NOT NULL,
        lease text NOT NULL,
        service text NOT NULL,
        verdict text NOT NULL,
        rule text NOT NULL,
        peer text NOT NULL,
        outcome text NOT NULL,
        boot text NOT NULL,
        body text NOT NULL,
        leaf bytea NOT NULL,
        arrived xid8 NOT NULL DEFAULT pg_current_xact_id(),
        PRIMARY KEY (log, sequence)
    );
    CREATE INDEX event_time ON vitrail.event (time_ns, log, sequence);
    CREATE INDEX event_kind ON vitrail.event (kind, time_ns);
    CREATE INDEX event_sandbox ON vitrail.event (sandbox, time_ns) WHERE sandbox <> '';
    CREATE INDEX event_lease ON vitrail.event (lease, time_ns) WHERE lease <> '';
    CREATE INDEX event_service ON vitrail.event (service, time_ns) WHERE service <> '';
    CREATE INDEX event_verdict ON vitrail.event (verdict, time_ns) WHERE verdict <> '';
    CREATE INDEX event_rule ON vitrail.event (rule, time_ns) WHERE rule <> '';
    CREATE INDEX event_peer ON vitrail.event (peer, time_ns) WHERE peer <> '';
    CREATE INDEX event_outcome ON vitrail.event (outcome, time_ns) WHERE outcome <> '';
    CREATE INDEX event_arrived ON vitrail.event (arrived, log, sequence);
    CREATE TABLE vitrail.gap (
        log integer NOT NULL REFERENCES vitrail.log,
        first bigint NOT NULL,
        last bigint NOT NULL,
        noted timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (log, first)
    );
    COMMENT ON TABLE vitrail.log IS 'one row for each audit log that is shipped here';
    COMMENT ON TABLE vitrail.event IS 'events; body is the JSON as it was recorded';
    COMMENT ON TABLE vitrail.gap IS 'events that were lost before they were shipped';
    """,
    """
    -- A machine that was taken over adds to its own logs only: what another role
    -- has begun it neither sees nor extends.  Readers are members of
    -- vitrail_reader, which a database's owner may make.
    ALTER TABLE vitrail.log ENABLE ROW LEVEL SECURITY;
    ALTER TABLE vitrail.event ENABLE ROW LEVEL SECURITY;
    ALTER TABLE vitrail.gap ENABLE ROW LEVEL SECURITY;
    CREATE FUNCTION vitrail.reads() RETURNS boolean LANGUAGE sql STABLE AS $$
        SELECT coalesce((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles
                         WHERE rolname = 'vitrail_reader'), false)
    $$;
    CREATE POLICY own ON vitrail.log
        USING (owner = current_user) WITH CHECK (owner = current_user);
    CREATE POLICY reading ON vitrail.log FOR SELECT USING (vitrail.reads());
    CREATE POLICY own ON vitrail.event
        USING (log IN (SELECT id FROM vitrail.log WHERE owner = current_user))
        WITH CHECK (log IN (SELECT id FROM vitrail.log WHERE owner = current_user));
    CREATE POLICY reading ON vitrail.event FOR SELECT USING (vitrail.reads());
    CREATE POLICY own ON vitrail.gap
        USING (log IN (SELECT id FROM vitrail.log WHERE owner = current_user))
        WITH CHECK (log IN (SELECT id FROM vitrail.log WHERE owner = current_user));
    CREATE POLICY reading ON vitrail.gap FOR SELECT USING (vitrail.reads());
    """,
    """
    CREATE TABLE vitrail.checkpoint (
        log integer NOT NULL REFERENCES vitrail.log,
        size bigint NOT NULL,
        kind text NOT NULL,
        note text NOT NULL,
        arrived timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (log, size, kind)
    );
    COMMENT ON TABLE vitrail.checkpoint IS 'what the logs have signed of themselves';
    ALTER TABLE vitrail.checkpoint ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON vitrail.checkpoint
        USING (log IN (SELECT id FROM vitrail.log WHERE owner = current_user))
        WITH CHECK (log IN (SELECT id FROM vitrail.log WHERE owner = current_user));
    CREATE POLICY reading ON vitrail.checkpoint FOR SELECT USING (vitrail.reads());
    """,
    """
    -- Hashes of events that the owner has removed: without them no root of the log
    -- can be computed any more, and whoever changes the store would remove one event.
    CREATE TABLE vitrail.leaf (
        log integer NOT NULL REFERENCES vitrail.log,
        sequence bigint NOT NULL,
        leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
        PRIMARY KEY (log, sequence)
    );
    COMMENT ON TABLE vitrail.leaf IS 'hashes of events that the owner has removed';
    ALTER TABLE vitrail.leaf ENABLE ROW LEVEL SECURITY;
    CREATE POLICY reading ON vitrail.leaf FOR SELECT USING (vitrail.reads());
    DO $$ BEGIN
        GRANT SELECT ON vitrail.leaf TO vitrail_reader;
    EXCEPTION WHEN undefined_object THEN NULL;  -- the role is made later
    END $$;
    """,
    NAMES,
    """
    -- AUDIT_EVENT_BYTES and AUDIT_NOTE_BYTES: what is there already is not looked at.
    ALTER TABLE vitrail.event ADD CONSTRAINT sizes CHECK (
        octet_length(body) <= 65536 AND octet_length(leaf) <= 32 AND
        octet_length(kind || sandbox || lease || service || verdict || rule || peer
            || outcome || boot) <= 65536) NOT VALID;
    ALTER TABLE vitrail.log ADD CONSTRAINT sizes CHECK (
        octet_length(machine) <= 1020 AND octet_length(broker) <= 1020) NOT VALID;
    ALTER TABLE vitrail.checkpoint ADD CONSTRAINT sizes CHECK (
        octet_length(note) <= 4096 AND octet_length(kind) <= 256) NOT VALID;
    CREATE FUNCTION vitrail.now_ns() RETURNS bigint LANGUAGE sql STABLE AS $$
        SELECT (extract(epoch FROM now()) * 1000000000)::bigint
    $$;
    ALTER TABLE vitrail.event DROP COLUMN arrived,
        ADD COLUMN received_ns bigint NOT NULL DEFAULT vitrail.now_ns();
    ALTER TABLE vitrail.event ADD COLUMN place_ns bigint NOT NULL
        GENERATED ALWAYS AS (CASE WHEN time_ns > received_ns + 60000000000
            THEN received_ns ELSE time_ns END) STORED;
    DROP POLICY own ON vitrail.event;
    CREATE POLICY own ON vitrail.event
        USING (log IN (SELECT id FROM vitrail.log WHERE owner = current_user))
        WITH CHECK (log IN (SELECT id FROM vitrail.log WHERE owner = current_user)
            AND received_ns = vitrail.now_ns());
    DROP INDEX vitrail.event_time;
    CREATE INDEX event_place ON vitrail.event (place_ns, log, sequence);
    DROP INDEX vitrail.event_kind;
    CREATE INDEX event_kind ON vitrail.event (kind, place_ns);
    DO $$ DECLARE field text; BEGIN
        FOREACH field IN ARRAY ARRAY['sandbox', 'lease', 'service', 'verdict', 'rule',
            'peer', 'outcome']
        LOOP
            EXECUTE format('DROP INDEX vitrail.%I', 'event_' || field);
            EXECUTE format('CREATE INDEX %I ON vitrail.event (%I, place_ns) '
                'WHERE %I <> %L', 'event_' || field, field, field, '');
        END LOOP;
    END $$;
    """,
    (Path(__file__).parents[2] / "data/sql/fleet-tables-7.sql").read_text(),
)

_OLDEST = (*range(1, len(MIGRATIONS)), 6)
"""For each version the oldest release that works with its tables: a release of the
version before ships and reads for as long as the fleet is updated."""


def connect(
    address: str, *, read_only: bool = False, plaintext: bool = False
) -> Connection:
    """Connect; raises SetupError or UpstreamError.

    Nothing is a setting of the session, so a pooler may give each transaction another
    one (PgBouncer, pool_mode=transaction).
    """
    seconds = int(audit_limits.SHIP_SECONDS)
    try:
        connection: Connection = psycopg.connect(
            _checked(address, plaintext),
            connect_timeout=10,
            application_name="vitrail",
            # A server that is there and says nothing: the kernel gives up first.
            tcp_user_timeout=seconds * 1000,
            keepalives_idle=seconds,
            prepare_threshold=None,
        )
    except psycopg.Error as error:
        raise problem(error) from error
    connection.read_only = read_only or None
    return connection


def _checked(address: str, plaintext: bool) -> str:  # noqa: FBT001 -- one caller
    named = psycopg.conninfo.conninfo_to_dict(address)
    ends = f"{named.get('host') or ''},{named.get('hostaddr') or ''}".split(",")
    near = {"", "localhost", "127.0.0.1", "::1"}
    away = any(end not in near and end[0] not in "/@" for end in ends)
    proven = plaintext or named.get("sslmode") in {"verify-ca", "verify-full"}
    # guard: a database's password goes to another machine under TLS
    if any("@" in end[1:] for end in ends) or (away and not proven):
        raise SetupError("a database on another machine needs sslmode=verify-full")
    # libpq takes what is not set from the environment, and from a service's file.
    # guard: the environment says not where the database is
    return psycopg.conninfo.make_conninfo("", **{"host": "", "hostaddr": "", **named})


def problem(error: psycopg.Error) -> VitrailError:
    """Our error for a database's error."""
    said = printable(str(error).strip().splitlines()[0] if str(error) else "", 300)
    if error.sqlstate == _OTHER:
        return IntegrityError(said, hint=error.diag.message_hint or "")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return SetupError(
            f"the database does not allow it: {said}",
            hint="docs/audit.md, 'A fleet's database', has the roles and grants",
        )
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        # libpq repeats the text that it could not read; it may contain a password.
        return SetupError(
            "the address is not one of a database",
            hint="postgresql://USER@HOST/DATABASE?sslmode=verify-full, for example",
        )
    return UpstreamError(
        f"the database fails: {said or type(error).__name__}",
        hint="is it running, and may this machine connect to it?",
    )


def version_of(connection: Connection) -> int:
    """Which version of the tables is there; 0: none.  Raises psycopg.Error."""
    return _versions(connection)[0]


def _versions(connection: Connection) -> tuple[int, int]:
    """The tables' version, and the oldest release that works with them."""
    (row,) = connection.execute(
        "SELECT to_regclass('vitrail.migration'), to_regclass('vitrail.revision')"
    ).fetchall()
    if row[0] is None:
        return 0, 0
    # The release before reads vitrail.migration alone.
    query = "SELECT coalesce(max(version), 0), coalesce(max(version), 0) "
    versions = connection.execute(f"{query} FROM vitrail.migration").fetchall()
    if row[1] is not None:
        versions += connection.execute(
            "SELECT version, oldest FROM vitrail.revision ORDER BY version DESC LIMIT 1"
        ).fetchall()
    return (
        max(int(str(version)) for version, _ in versions),
        max(int(str(oldest)) for _, oldest in versions),
    )


def usable(connection: Connection) -> int:
    """Return the tables' version; 0: none.

    Raises SetupError when they are too new for this release, psycopg.Error.
    """
    version, oldest = _versions(connection)
    if oldest > len(MIGRATIONS):
        raise SetupError(
            f"the database was made by a newer Vitrail (version {version}, this "
            f"one knows {len(MIGRATIONS)})",
            hint="update this machine; its log keeps the unshipped events",
        )
    return version


def migrate(connection: Connection) -> int:
    """Bring the tables up to date and return how many versions that took.

    Raises SetupError when they are of a newer Vitrail, psycopg.Error.
    """
    with connection.transaction():
        if usable(connection) >= len(MIGRATIONS):
            return 0
    with connection.transaction():
        # Each statement sees what another migration has committed meanwhile.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        return _migrate(connection)


def _migrate(connection: Connection) -> int:
    version = usable(connection)
    if version >= len(MIGRATIONS):
        return 0
    if version == 0:
        connection.execute("CREATE SCHEMA IF NOT EXISTS vitrail")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS vitrail.migration (version integer "
            "PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())"
        )
    if version < _OLDEST[-1] + 1:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS vitrail.revision (version integer PRIMARY KEY, "
            "oldest integer NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute(script)
        oldest = _OLDEST[number - 1]
        if oldest == number:
            connection.execute("INSERT INTO vitrail.migration VALUES (%s)", [number])
        else:
            connection.execute(
                "INSERT INTO vitrail.revision (version, oldest) VALUES (%s, %s)",
                [number, oldest],
            )
    return len(MIGRATIONS) - version
