"""``brokerctl audit verify``, ``prove`` and ``checkpoint``."""

from __future__ import annotations

import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import rich_click as click

from broker.authority.audit.proof.keys import KeyFile
from broker.authority.audit.proof.note import Note, parse_note
from broker.cli import render
from broker.cli.audit.event_text import is_fleet
from broker.cli.audit.proof.inclusion import prove
from broker.cli.audit.proof.sealed_log import open_sealed
from broker.cli.audit.proof.verify import VerificationReport, verify
from broker.cli.run.connect import offline_paths
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import (
    IntegrityError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits
from broker.core.parts.absent import needed

_INTEGRITY = 3
_log = click.option(
    "--log",
    "path",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    help="Use this file, a copy of a log.",
)
_against = click.option(
    "--against",
    type=NamedPath(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    multiple=True,
    metavar="CHECKPOINT",
    help="File with checkpoints that were kept elsewhere; '-' for standard input.",
)


_store = click.option(
    "--store",
    default="",
    metavar="ADDRESS",
    help="Use this fleet's store: postgresql://…, or (only verify) files of JSON lines.",
)
_machine = click.option(
    "--machine",
    "machines",
    multiple=True,
    metavar="NAME",
    help="Use only logs of this machine.",
)


@click.command("verify")
@_against
@click.option("--origin", default="", help="Expected name of the log.")
@click.option("--copy", is_flag=True, help="Accept a copy without its signing key.")
@_log
@_store
@_machine
@click.option(
    "--state",
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Keep results in this file, and verify only later events next time (with --store).",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=None,
    help="Number of processes (with --store).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify_command(
    *,
    against: tuple[Path, ...],
    origin: str,
    copy: bool,
    path: Path | None,
    store: str,
    machines: tuple[str, ...],
    state: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Check whether the log has been changed, and report each change.

    The hash of every event is computed again, and the tree of all hashes is compared
    with every signed checkpoint.  With --store, the events in a fleet's database, or in
    files of shipped events, are compared with the checkpoints that each machine signed.

    Exit code: 0 the log is intact, 1 it could not be read, 2 usage error, 3 the log
    has been changed.
    """
    kept = [(str(file), note) for file in against for note in _notes(file)]
    if store:
        if path or origin or copy:
            raise click.UsageError(
                "--log, --origin and --copy cannot be used with --store"
            )
        _verify_fleet(store, machines, kept, state, jobs or 0, as_json=as_json)
        return
    if machines or state or jobs:
        raise click.UsageError("--machine, --state and --jobs require --store")
    where = path or offline_paths().audit
    report = verified(where, kept, origin=origin, copy=copy)
    if as_json:
        render.json_line({**msgspec.to_builtins(report), "good": report.good})
    else:
        _print(report)
    if not report.good:
        sys.exit(_INTEGRITY)


def _verify_fleet(
    store: str,
    machines: tuple[str, ...],
    kept: list[tuple[str, Note]],
    state: Path | None,
    jobs: int,
    *,
    as_json: bool,
) -> None:
    """Verify a fleet's store or an archive, and print the result."""
    from broker.cli.audit.proof.proven import Proven

    with needed("the verification of shipped logs"):
        from broker.cli.fleet.fleet import verify_archive, verify_fleet

    before = None if state is None else Proven(state)
    if is_fleet(store):
        found = verify_fleet(store, machines, kept, before, jobs)
    elif machines:
        raise click.UsageError("--machine requires --store postgresql://…")
    else:
        found = verify_archive(store, kept, before)
    for log, report in found:
        if as_json:
            whole = {**msgspec.to_builtins(report), "good": report.good}
            render.json_line({"machine": log.machine, "role": log.role, **whole})
        else:
            role = printable(log.role)
            click.echo(f"machine      {printable(log.machine)}, shipped by {role}")
            _print(report)
    if before is not None:
        before.save()
    if not all(report.good for _, report in found):
        sys.exit(_INTEGRITY)


def verified(
    path: Path, kept: list[tuple[str, Note]], *, origin: str, copy: bool
) -> VerificationReport:
    """Verify a log's file.  Raises VitrailError when it cannot be read."""
    keys = KeyFile(path).any()
    # SQLite looks through its structures meanwhile, on the other core: an
    # index that does not fit would hide events from every query.
    with ThreadPoolExecutor(1) as beside, open_sealed(path) as db:
        structure = beside.submit(_structure, path)
        try:
            # One state of the log, while it is written on; a key that came
            # with that state is on disk by now.
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM checkpoint").fetchone()
            keys += KeyFile(path).any()
            report = verify(db, keys=keys, copy=copy, against=kept, origin=origin)
        except sqlite3.Error as error:
            raise _unreadable(error) from error
        for line in structure.result():
            report.add(0, 0, f"the database is damaged: {line}")
    return report


_NOT_ITS_FAULT = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM),
}


def _unreadable(error: sqlite3.Error) -> VitrailError:
    """Return the error for a log that cannot be read.

    UpstreamError where the disk fails or another program holds the file, IntegrityError
    where the database is damaged.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
    if code in _NOT_ITS_FAULT:
        return UpstreamError(f"cannot read the audit log: {error}")
    return IntegrityError(
        f"the audit log's database is damaged: {error}",
        hint="keep the file for inspection; shipped and exported events are not "
        "affected",
    )


def _structure(path: Path) -> list[str]:
    """Return SQLite's complaints about the file's structure."""
    with open_sealed(path) as db:
        try:
            rows = db.execute("PRAGMA integrity_check(10)").fetchall()
        except sqlite3.Error as error:
            return [str(error)]
    return [line for (line,) in rows if line != "ok"]


def _print(report: VerificationReport) -> None:
    """Print a report of verification."""
    out = click.echo
    out(f"log          {report.origin}")
    out(f"first key    {report.first_key}")
    removed = f", {report.removed} removed by retention" if report.removed else ""
    out(f"events       {report.size}, {report.checked} read{removed}")
    unseen = f", {report.uncompared} not compared" if report.uncompared else ""
    elsewhere = f"{report.against} of them kept elsewhere{unseen}"
    out(f"checkpoints  {report.checkpoints} compared, {elsewhere}")
    out(
        f"keys         {report.keys}, the newest from event {report.sealed + 1} on: changes to "
        "earlier events are detected even if they are signed with the newest key"
    )
    if report.uncovered:
        out(f"uncovered    {report.uncovered}")
    for text in report.warnings:
        out(f"note         {text}")
    for problem in report.problems:
        out(f"WRONG        {problem.where}: {printable(problem.what, 400)}")
    if report.count > len(report.problems):
        out(f"WRONG        and {report.count - len(report.problems)} more problems")
    out(f"the log is {'intact' if report.good else 'NOT intact'}")


def _notes(file: Path) -> list[Note]:
    """Parse the checkpoints in a file: signed notes, one after the other."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read {file}: {render.cause(error)}") from error
    notes: list[Note] = []
    # A note ends with its signatures, and the next one begins with its origin.
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        signed = bool(lines) and lines[-1].startswith("\N{EM DASH} ")
        if signed and not line.startswith("\N{EM DASH} "):
            notes.append(_note("".join(f"{one}\n" for one in lines), file))
            lines = []
        if line or lines:
            lines.append(line)
    if lines and any(lines):
        raise click.UsageError(
            f"--against {file}: the file does not end with a checkpoint"
        )
    if not notes:
        raise click.UsageError(
            f"--against {file}: the file does not contain a checkpoint"
        )
    return notes


def _note(text: str, file: Path) -> Note:
    try:
        return parse_note(text)
    except RefusedError as error:
        raise click.UsageError(f"--against {file}: {error.message}") from error


@click.command("prove")
@click.argument("event", type=click.IntRange(min=1))
@click.option(
    "--against",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    metavar="CHECKPOINT",
    help="Prove the event against this checkpoint instead of the newest one.",
)
@_log
def prove_command(*, event: int, against: Path | None, path: Path | None) -> None:
    """Print a proof that the event with the number EVENT is in the log.

    The output is a JSON object with the event, the proof and the keys of the log, for
    users who do not have the log; vitrail_audit_check.py checks the proof.

    Exit code: 0 done, 1 the event does not exist, 2 usage error, 3 the log has been
    changed.
    """
    note = _notes(against)[-1] if against else None
    with open_sealed(path or offline_paths().audit) as db:
        try:
            db.execute("BEGIN")
            found = prove(db, event, note)
        except sqlite3.Error as error:
            raise _unreadable(error) from error
    render.json_line(msgspec.to_builtins(found))


@click.command("checkpoint")
@click.option(
    "--peer",
    default=None,
    help="Show the checkpoints that were kept of this other broker's log.",
)
@click.option(
    "--all", "every", is_flag=True, help="Show all checkpoints, not only the newest."
)
@_log
@_store
@_machine
def checkpoint_command(
    *,
    peer: str | None,
    every: bool,
    path: Path | None,
    store: str,
    machines: tuple[str, ...],
) -> None:
    """Print the newest checkpoint of the log, to be kept elsewhere.

    With --peer, print the checkpoints of the other broker's log that this broker has
    kept; with --store, all checkpoints of a fleet's database, for verify --against.

    Exit code: 0 done, 1 there is no checkpoint.
    """
    if machines and not store:
        raise click.UsageError("--machine requires --store")
    if store:
        with needed("reading a fleet's database"):
            from broker.cli.fleet.fleet import fleet_notes

        notes, every = fleet_notes(store, machines), True
    else:
        notes = _here(path or offline_paths().audit, peer)
    if not notes:
        raise SetupError(
            f"{'the database' if store else 'the log'} does not contain a checkpoint"
            + (f" of {printable(peer, 60)}" if peer and not store else ""),
            hint=(
                "to list the names of other brokers, run 'brokerctl link list'"
                if peer
                else ""
            ),
        )
    for text in notes if every else notes[-1:]:
        assert len(text) <= audit_limits.AUDIT_NOTE_BYTES
        click.echo(text, nl=False)


def _here(path: Path, peer: str | None) -> list[str]:
    with open_sealed(path) as db:
        try:
            return _own(db) if peer is None else _peers(db, peer)
        except sqlite3.Error as error:
            raise _unreadable(error) from error


def _own(db: sqlite3.Connection) -> list[str]:
    rows = db.execute("SELECT note FROM checkpoint ORDER BY size, kind != 'head'")
    newest = db.execute("SELECT note FROM checkpoint WHERE kind = 'head'").fetchall()
    return [*(note for (note,) in rows), *(note for (note,) in newest)]


def _peers(db: sqlite3.Connection, peer: str) -> list[str]:
    return [note for _, _, note in held_notes(db, peer)]


def held_notes(db: sqlite3.Connection, peer: str = "") -> list[tuple[str, int, str]]:
    """Return all held notes: the peer, the time of arrival (ns since 1970), the note.

    Newest last; ``peer`` keeps to one.  Raises sqlite3.Error.
    """
    return db.execute(
        "SELECT peer, time_ns, note FROM witness WHERE ?1 = '' OR peer = ?1 "
        "ORDER BY peer, origin, size",
        (peer,),
    ).fetchall()
