"""A fleet's database of version 6, and how the release with it shipped."""

from __future__ import annotations

from broker.core.errors import IntegrityError, UpstreamError
from broker.helpers.shipper.database import _SCRIPTS, Connection, Error
from broker.helpers.shipper.postgres import Postgres
from broker.helpers.shipper.terms import Batch
from tests.kit.audit.postgres import Postgres as Server

_TEXTS = ("sandbox", "lease", "service", "verdict", "rule", "peer", "outcome", "boot")
_COLUMNS = f"sequence, time_ns, kind, {', '.join(_TEXTS)}, body, leaf"


def make_tables(server: Server) -> None:
    """Make the tables as that release did, with its page's grants for a role desk."""
    server.run(
        _SCRIPTS[6].read_text()
        + "CREATE ROLE desk LOGIN; CREATE ROLE vitrail_reader; CREATE ROLE reader LOGIN "
        "IN ROLE vitrail_reader;"
        "GRANT USAGE ON SCHEMA vitrail TO desk, vitrail_reader;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO desk, vitrail_reader;"
        "GRANT INSERT ON vitrail.log, vitrail.event, vitrail.gap, vitrail.checkpoint "
        "TO desk"
    )


class PostgresV6(Postgres):
    """Ships by the statements of that release."""

    def position(self, log: bytes) -> tuple[int, str] | None:
        with self._connection() as connection, connection.transaction():
            row = connection.execute(
                "SELECT sequence, leaf FROM vitrail.event JOIN vitrail.log ON id = log "
                "WHERE name = %s ORDER BY sequence DESC LIMIT 1",
                [log],
            ).fetchone()
        self.close()
        if row is None or not isinstance(row[1], bytes):
            return None
        return int(str(row[0])), row[1].hex()

    def send(self, batch: Batch) -> None:
        try:
            with self._connection() as connection, connection.transaction():
                # The newest version that it may find there (its 'version_of').
                (version,) = connection.execute(
                    "SELECT max(version) FROM vitrail.migration"
                ).fetchone() or (0,)
                assert version == 6, "a newer Vitrail has made this database"
                self._send(connection, batch)
        except Error as error:
            raise UpstreamError(f"the database fails: {error}") from error
        finally:
            self.close()

    def _send(self, connection: Connection, batch: Batch) -> None:
        connection.execute(
            "INSERT INTO vitrail.log (name, machine, broker) VALUES (%s, %s, '') "
            "ON CONFLICT (name) DO NOTHING",
            [batch.log, batch.machine],
        )
        (log,) = connection.execute(
            "SELECT id FROM vitrail.log WHERE name = %s", [batch.log]
        ).fetchone() or (0,)
        connection.execute(
            "CREATE TEMPORARY TABLE arriving ON COMMIT DROP AS "
            f"SELECT {_COLUMNS} FROM vitrail.event LIMIT 0"
        )
        with connection.cursor().copy(f"COPY arriving ({_COLUMNS}) FROM STDIN") as copy:
            for item in batch.items:
                texts = [item.text(name).replace("\0", "\\x00") for name in _TEXTS]
                copy.write_row(
                    (
                        item.sequence,
                        item.time_ns,
                        item.kind,
                        *texts,
                        item.body,
                        item.leaf,
                    )
                )
        connection.execute(
            f"INSERT INTO vitrail.event (log, {_COLUMNS}) "
            f"SELECT %s, {_COLUMNS} FROM arriving ORDER BY sequence "
            "ON CONFLICT (log, sequence) DO NOTHING",
            [log],
        )
        (differs,) = connection.execute(
            "SELECT min(sequence) FROM arriving JOIN vitrail.event there "
            "USING (sequence) WHERE there.log = %s AND there.leaf <> arriving.leaf",
            [log],
        ).fetchone() or (None,)
        if differs is not None:
            raise IntegrityError(
                f"the database has another event {differs} of this log"
            )
        for sealed in batch.notes:
            connection.execute(
                "INSERT INTO vitrail.checkpoint (log, size, kind, note) "
                "VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [log, sealed.size, sealed.kind, sealed.note],
            )
