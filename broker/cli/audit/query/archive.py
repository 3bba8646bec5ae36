"""An archive of shipped events: JSON lines in files, as receivers write them.

Three shapes of lines are read: those of a ``jsonl`` target, those of OpenTelemetry's
file exporter (OTLP in JSON), and rows of ClickHouse's table of logs (FORMAT
JSONEachRow, as its exporter for OpenTelemetry makes them).  Lines may come twice, and
in any order: they are sorted on the disk, so that an archive of any size is read.
"""

from __future__ import annotations

import gzip
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from broker.cli.audit.proof.shipped import ShippedLog
from broker.core.errors import IntegrityError, SetupError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit.tree import leaf_hash

_LINE_BYTES = 64 << 20
"""A collector puts a whole batch into one line."""
_FORMATS = "specify events in a format that docs/audit.md, 'Archives', describes"
_FRONT = re.compile(r'\{"log":"([0-9a-f]{32})","machine":"((?:[^"\\]|\\.)*)",')
_LOG = re.compile("[0-9a-f]{32}")
_BATCH = 10_000


class _Checkpoint(msgspec.Struct):
    size: int
    kind: str
    note: str


class _Line(msgspec.Struct):
    log: str
    machine: str = ""
    sequence: int = 0
    checkpoint: _Checkpoint | None = None


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: str | int | None = None


class _Attribute(msgspec.Struct):
    key: str
    value: _Value


class _Record(msgspec.Struct):
    body: _Value
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct, rename="camel"):
    log_records: list[_Record] = []


class _Resource(msgspec.Struct):
    attributes: list[_Attribute] = []


class _ResourceLogs(msgspec.Struct, rename="camel"):
    resource: _Resource
    scope_logs: list[_Scope] = []


class _Otlp(msgspec.Struct, rename="camel"):
    resource_logs: list[_ResourceLogs]


class _Row(msgspec.Struct, rename="pascal"):
    """A row of ClickHouse."""

    body: str
    log_attributes: dict[str, str]
    resource_attributes: dict[str, str]


class EventArchive:
    """Events and checkpoints of an archive, sorted; made by ``open_archive``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE event (log, sequence INTEGER, body, PRIMARY KEY (log, sequence))"
            " WITHOUT ROWID; CREATE TABLE note (log, note, PRIMARY KEY (log, note));"
            "CREATE TABLE log (log PRIMARY KEY, machine)"
        )
        self.lines = 0

    def read(self, file: BinaryIO, name: str) -> None:
        """Read the JSON lines of one file into the archive.

        Raises SetupError, IntegrityError.
        """
        number = 0
        while line := file.readline(_LINE_BYTES + 1):
            number += 1
            where = f"{name}, line {number}"
            # A line of an archive does not fill the memory.
            if len(line) > _LINE_BYTES:
                raise SetupError(
                    f"{where}: the line has more than {_LINE_BYTES} bytes",
                    hint=_FORMATS,
                )
            if line.strip():
                try:
                    self._line(line.decode().strip(), where)
                except (ValueError, RecursionError) as error:
                    raise SetupError(f"{where}: {error}", hint=_FORMATS) from error
        self.lines += number

    def _line(self, text: str, where: str) -> None:
        """Add one line of an archive: an event, a checkpoint, or OTLP records."""
        front = _FRONT.match(text)
        if front is not None:
            line = msgspec.json.decode(text, type=_Line)
            if line.checkpoint is None:
                body = "{" + text[front.end() :]
                self._event(line.log, line.machine, line.sequence, body, where)
            else:
                self._note(line.log, line.machine, line.checkpoint.note)
        elif text.startswith('{"resourceLogs"'):
            for resource in msgspec.json.decode(text, type=_Otlp).resource_logs:
                whose = _texts(resource.resource.attributes)
                for scope in resource.scope_logs:
                    for record in scope.log_records:
                        fields = _texts(record.attributes)
                        body = record.body.string_value or ""
                        self._otlp(whose, fields, body, where)
        else:
            row = msgspec.json.decode(text, type=_Row)
            self._otlp(row.resource_attributes, row.log_attributes, row.body, where)

    def _otlp(
        self, whose: dict[str, str], fields: dict[str, str], body: str, where: str
    ) -> None:
        """Add a log record in OTLP's form, if it is of Vitrail."""
        log, machine = whose.get("service.instance.id", ""), whose.get("host.name", "")
        if not _LOG.fullmatch(log):
            return  # a collector's file may have others' records, too
        if fields.get("vitrail.kind") == "audit.checkpoint":
            self._note(log, machine, body)
        else:
            sequence = int(fields.get("vitrail.sequence", "0"))
            self._event(log, machine, sequence, body, where)

    def _event(
        self, log: str, machine: str, sequence: int, body: str, where: str
    ) -> None:
        """Add an event to the archive.  Raises ValueError, IntegrityError."""
        if (
            not 0 < sequence < 1 << 63
            or not body
            or len(body) > audit_limits.AUDIT_EVENT_BYTES
        ):
            raise ValueError("not an event")
        key = (log, sequence)
        self._db.execute("INSERT OR IGNORE INTO log VALUES (?, ?)", (log, machine))
        done = self._db.execute(
            "INSERT OR IGNORE INTO event VALUES (?, ?, ?)", (*key, body)
        )
        if not done.rowcount:
            (there,) = self._db.execute(
                "SELECT body FROM event WHERE log = ? AND sequence = ?", key
            ).fetchone()
            # An event that comes twice is the same.
            if there != body:
                raise IntegrityError(
                    f"{where}: event {sequence} differs from an earlier copy"
                )

    def _note(self, log: str, machine: str, note: str) -> None:
        if len(note) > audit_limits.AUDIT_NOTE_BYTES:
            raise ValueError("not a checkpoint")
        self._db.execute("INSERT OR IGNORE INTO log VALUES (?, ?)", (log, machine))
        self._db.execute("INSERT OR IGNORE INTO note VALUES (?, ?)", (log, note))

    def logs(self) -> list[ShippedLog]:
        """The logs in it and their machines."""
        rows = self._db.execute("SELECT log, machine FROM log ORDER BY 2, 1")
        return [ShippedLog(number, *row) for number, row in enumerate(rows)]

    def notes(self, log: ShippedLog) -> list[str]:
        """The log's checkpoints."""
        rows = self._db.execute("SELECT note FROM note WHERE log = ?", (log.name,))
        return [note for (note,) in rows]

    def frontiers(self, log: ShippedLog) -> dict[int, bytes]:
        """Return no edges: an archive does not store them."""
        del log
        return {}

    def leaves(
        self, log: ShippedLog, after: int = 0
    ) -> Iterator[tuple[int, str | None, bytes]]:
        """Yield the log's events in order: number, body, hash."""
        while True:
            rows = self._db.execute(
                "SELECT sequence, body FROM event WHERE log = ? AND sequence > ? "
                "ORDER BY sequence LIMIT ?",
                (log.name, after, _BATCH),
            ).fetchall()
            for sequence, body in rows:
                yield sequence, body, leaf_hash(body.encode())
                after = sequence
            if not rows:
                return


def _texts(attributes: list[_Attribute]) -> dict[str, str]:
    return {
        one.key: str(one.value.string_value or one.value.int_value or "")
        for one in attributes
    }


def _read_file(archive: EventArchive, path: Path) -> None:
    """Read a file into the archive.  Raises SetupError, IntegrityError."""
    try:
        with _opened(path) as opened:
            archive.read(opened, str(path))
    except EOFError as error:
        raise SetupError(
            f"cannot read {path}: its compressed data are incomplete",
            hint="copy the file from its source again",
        ) from error
    except OSError as error:
        raise SetupError(
            f"cannot read {path}: {error.strerror or error}",
            hint="specify a file or directory that you can read, or '-' for "
            "standard input",
        ) from error


@contextmanager
def open_archive(store: str) -> Iterator[EventArchive]:
    """Read a file, a directory of files (as of an object store's copy), or '-'.

    Files that end with ``.gz`` are unpacked.  Raises SetupError, IntegrityError.
    """
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="vitrail-"))
        db = sqlite3.connect(file.name)
        stack.callback(db.close)
        archive = EventArchive(db)
        if store == "-":
            archive.read(sys.stdin.buffer, "standard input")
        else:
            path = Path(store)
            found = sorted(path.rglob("*")) if path.is_dir() else [path]
            for one in found:
                if one.is_file() or one == path:
                    _read_file(archive, one)
        db.commit()
        if not archive.logs():
            raise SetupError(
                f"{'standard input' if store == '-' else store} does not contain any event "
                "of an audit log",
                hint=_FORMATS,
            )
        yield archive


def _opened(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")
