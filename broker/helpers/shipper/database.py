"""The fleet's database: its tables, their versions, and connecting to it.

Everything is in the schema ``vitrail``; broker/data/sql has the tables.

The shipper in its jail connects to it, a fleet's ingest service, and brokerctl for
``audit fleet``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.core.errors import IntegrityError, SetupError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits

try:
    import psycopg
except ImportError as _error:  # pragma: no cover -- tested in a process without it
    raise SetupError(
        f"the package {_error.name}, which PostgreSQL requires, is not installed",
        hint="install Debian's python3-psycopg, or in a checkout run: pipx install --force '.[fleet]'",
    ) from _error

Error = psycopg.Error
"""Any error of a database; used from here, so a missing package is reported above."""

Connection = psycopg.Connection[tuple[object, ...]]

_LOCK = 0x56545241  # "VTRA": one migration at a time (advisory lock)
# A fleet's database believes a machine only about its own logs. A role for each
# machine, row level security, no right to change or remove: a compromised machine
# cannot change events that it or others have shipped. The signed checkpoints go there
# as well, so that the database can be checked against the machines and the machines
# against the database.
_OTHER = "VT001"  # what is there differs from what came (fleet-tables-7.sql)

_SCRIPTS = {
    version: Path(__file__).parents[2] / f"data/sql/fleet-tables-{version}.sql"
    for version in (6, 7)
}
"""Each makes the tables of its version out of those before, and says so in them."""
VERSION = max(_SCRIPTS)


def connect(
    address: str, *, read_only: bool = False, plaintext: bool = False
) -> Connection:
    """Connect to the fleet's database; raises SetupError or UpstreamError.

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


@contextmanager
def opened(address: str, *, read_only: bool = False) -> Iterator[Connection]:
    """Connect for a block, in which the database's errors are ours.  Raises as they do."""
    connection = connect(address, read_only=read_only)
    try:
        yield connection
    except psycopg.Error as error:
        raise problem(error) from error
    finally:
        connection.close()


def _checked(address: str, plaintext: bool) -> str:  # noqa: FBT001 -- one caller
    """Return the address, if TLS protects its password.  Raises SetupError."""
    named = psycopg.conninfo.conninfo_to_dict(address)
    ends = f"{named.get('host') or ''},{named.get('hostaddr') or ''}".split(",")
    near = {"", "localhost", "127.0.0.1", "::1"}
    away = any(end not in near and end[0] not in "/@" for end in ends)
    proven = plaintext or named.get("sslmode") in {"verify-ca", "verify-full"}
    # guard: a host with a password's rest in it is refused
    if any("@" in end[1:] for end in ends):
        raise SetupError("the database's host contains '@'; in a password, write %40")
    # guard: a database's password goes to another machine under TLS
    if away and not proven:
        raise SetupError("a database on another machine needs sslmode=verify-full")
    # libpq takes settings that are missing from the environment, and from a service's file.
    # guard: libpq's variables do not choose the database's host
    return psycopg.conninfo.make_conninfo("", **{"host": "", "hostaddr": "", **named})


def problem(error: psycopg.Error) -> VitrailError:
    """Convert an error of PostgreSQL to ours."""
    said = printable(str(error).strip().splitlines()[0] if str(error) else "", 300)
    if error.sqlstate == _OTHER:
        return IntegrityError(said, hint=error.diag.message_hint or "")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return SetupError(
            f"the database denied the access: {said}",
            hint="see docs/audit.md, 'A fleet's database', for the roles and grants",
        )
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        # libpq repeats the text that it could not read; it may contain a password.
        return SetupError(
            "cannot parse the address of the database",
            hint="use an address such as postgresql://USER@HOST/DATABASE?sslmode=verify-full",
        )
    return UpstreamError(
        f"the database failed: {said or type(error).__name__}",
        hint="check that the database is running and accepts connections from this machine",
    )


def usable(connection: Connection) -> int:
    """Return the tables' version; 0: none.

    Raises SetupError when they are too new for this release, psycopg.Error.
    """
    # Not to_regclass(): it takes the server's cache of names, which is as old as this
    # transaction, while a migration that it waited for has made the tables.
    rows = connection.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
        " ON n.oid = c.relnamespace WHERE n.nspname = 'vitrail'"
        " AND c.relname IN ('migration', 'revision')"
    ).fetchall()
    tables = {str(name) for (name,) in rows}
    if "migration" not in tables:
        return 0
    # Of those that release alone works with that has made them.
    query = "SELECT coalesce(max(version), 0), max(version) FROM vitrail.migration"
    if "revision" in tables:
        query += " UNION SELECT version, oldest FROM vitrail.revision"
    rows = connection.execute(f"{query} ORDER BY 1 DESC LIMIT 1").fetchall()
    version, oldest = (int(str(number or 0)) for number in rows[0])
    if oldest > VERSION:
        raise SetupError(
            f"the database was created by a newer Vitrail (version {version}; this one supports up to {VERSION})",
            hint="update this machine; its log keeps the unshipped events",
        )
    return version


def migrate(connection: Connection) -> int:
    """Bring the tables up to date and return how many versions that took.

    Raises SetupError when they are of a newer Vitrail, or older than all that has a
    script, psycopg.Error.
    """
    with connection.transaction():
        if usable(connection) >= VERSION:
            return 0
    with connection.transaction():
        # Each statement sees what another migration has committed meanwhile.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        version = usable(connection)
        if 0 < version < min(_SCRIPTS):
            raise SetupError(
                f"the database's tables have version {version}, which is too old",
                hint="name another database, or drop the schema vitrail with all its events; machines then ship the events that their logs still contain",
            )
        missing = [script for number, script in _SCRIPTS.items() if number > version]
        for script in missing:
            connection.execute(script.read_text())
    return len(missing)
