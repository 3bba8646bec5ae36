"""``brokerctl policy import``: policies of other systems, and what changes."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.launchers.flatpak import take_app
from broker.cli.policy.load import JSON
from broker.cli.policy.records import print_problems
from broker.cli.transfer.named_path import NamedPath
from broker.core.distribution import install_command
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.helpers.process.spawn import run_tool
from policy.errors import Problem
from policy.records.loader import load_records
from policy.rules.rulefiles import load_rules
from policy.tools import limits as tool_limits
from policy.tools.importers import Imported, ImportFileError, ImportNote
from policy.tools.importers.flatpak import import_flatpak
from policy.tools.importers.qubes import import_qubes, notes_once
from policy.tools.importers.qubes_xml import QubesSystem, read_qubes_xml

_TO = click.option(
    "--to",
    type=NamedPath(file_okay=False, path_type=Path),
    default="vitrail-import",
    show_default=True,
    help="New directory for policy.d and sandboxes.d.",
)
_STORES = ("qubes.xml", "var/lib/qubes/qubes.xml")
_RULES = ("run/qubes/policy.d", "etc/qubes/policy.d", "policy.d", ".")


@click.group("import")
def import_from() -> None:
    """Convert the policy of another system to rules and records, with a report."""


@import_from.command()
@click.argument(
    "directory", type=NamedPath(exists=True, file_okay=False, path_type=Path)
)
@_TO
@JSON
def qubes(directory: Path, to: Path, *, as_json: bool) -> None:
    """Import DIRECTORY, copied from dom0: policy.d and qubes.xml.

    DIRECTORY contains policy.d (or etc/qubes/policy.d, run/qubes/policy.d, or the
    rule files) and, for labels, tags and classes, qubes.xml (or
    var/lib/qubes/qubes.xml).  Lines with a different meaning in Vitrail are reported.
    The files are written to --to, and are not in force.

    Exit code: 0 done, 1 the result has errors, which are shown.
    """
    rules = _rules(directory)
    store = _first(directory, _STORES)
    if not rules and store is None:
        raise RefusedError(
            f"{directory} contains neither rules (*.policy) nor qubes.xml",
            hint="copy /etc/qubes/policy.d and /var/lib/qubes/qubes.xml from dom0 "
            "into one directory, then specify that directory",
        )
    system = None if store is None else _system(store)
    write_import(import_qubes(rules, system), to, as_json=as_json)


@import_from.command()
@click.argument("app")
@_TO
@JSON
def flatpak(app: str, to: Path, *, as_json: bool) -> None:
    """Write a record for APP, an installed Flatpak application.

    The record has fewer permissions than the application has in Flatpak; each omitted
    permission is reported.  The file is written to --to, and is not in force.
    """
    if shutil.which("flatpak") is None:
        raise SetupError("flatpak is not installed", hint=install_command("flatpak"))
    words = ["flatpak", "info", "--show-permissions", take_app(app)]
    try:
        text = trio.run(partial(run_tool, words)).decode("utf-8", "replace")
    except UpstreamError as error:
        raise RefusedError(
            f"cannot read the permissions of the Flatpak application {app}: {error}",
            hint="to list the installed applications, run 'flatpak list --app "
            "--columns=application'",
        ) from error
    try:
        imported = import_flatpak(app, text, Path.home())
    except ImportFileError as error:
        raise UpstreamError(f"{app}: {error}") from error
    write_import(imported, to, as_json=as_json)


def write_import(imported: Imported, to: Path, *, as_json: bool) -> None:
    """Write the files of an import to a new directory, and print its report.

    Exits with 1 when the result has mistakes.  Raises RefusedError when the
    directory is there already.
    """
    try:
        to.mkdir(mode=0o700)
    except FileExistsError as error:
        raise RefusedError(
            f"{to} already exists",
            hint="specify a new directory with --to",
        ) from error
    for name, text in imported.files.items():
        path = to / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
    problems = _problems(to)
    notes = list(notes_once(imported.notes))
    if as_json:
        render.json_line(_as_json(to, imported, notes, problems))
    else:
        _print(to, imported, notes, problems)
    sys.exit(1 if problems else 0)


def _problems(to: Path) -> list[Problem]:
    rules = load_rules((to / "policy.d",), check_owner=False)
    return [*rules.problems, *load_records([to / "sandboxes.d"]).problems]


def _print(
    to: Path, imported: Imported, notes: list[ImportNote], problems: list[Problem]
) -> None:
    """Print the notes, problems and files of an import."""
    for note in notes:
        sys.stdout.write(f"{printable(note.text(), 1000)}\n")
    print_problems(problems)
    counts = dict.fromkeys(("policy.d", "sandboxes.d"), 0)
    for name in imported.files:
        counts[name.partition("/")[0]] += 1
    render.note(
        f"wrote {render.count(counts['policy.d'], 'file')} of rules and "
        f"{render.count(counts['sandboxes.d'], 'record')} to {to}; lines with a "
        f"different meaning in Vitrail: {len(notes)}"
    )
    render.note(
        f"errors to correct: {len(problems)}"
        if problems
        else "these files are not in force yet; to apply them, check them, then "
        f"run: cp -r {to}/. ~/.config/vitrail/"
    )


def _as_json(
    to: Path, imported: Imported, notes: list[ImportNote], problems: list[Problem]
) -> dict[str, object]:
    return {
        "directory": str(to),
        "files": sorted(imported.files),
        "notes": [note._asdict() for note in notes],
        "problems": [
            {"where": problem.where, "message": problem.message} for problem in problems
        ],
    }


def _first(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / n for n in names if (directory / n).is_file()), None)


def _system(store: Path) -> QubesSystem:
    try:
        return read_qubes_xml(_read(store))
    except ImportFileError as error:
        raise RefusedError(f"{store}:{error}") from error


def _rules(directory: Path) -> dict[str, str]:
    """Return rule files by name; the first directory's have precedence, as in Qubes."""
    found: dict[str, str] = {}
    for name in _RULES:
        for path in _files(directory / name):
            key = path.relative_to(directory / name).as_posix()
            if key not in found:
                found[key] = _read(path).decode("utf-8", "surrogateescape")
        if found and name == "policy.d":
            break  # "." would be the directory above it
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Yield the rule files of a folder and its ``include``."""
    if not folder.is_dir():
        return
    count = 0
    places = [folder, *(p for p in (folder / "include",) if p.is_dir())]
    for place in places:
        for path in sorted(place.iterdir()):
            wanted = place != folder or path.suffix == ".policy"
            if wanted and path.is_file() and not path.name.startswith("."):
                count += 1
                if count > tool_limits.IMPORT_FILES:
                    raise RefusedError(
                        f"cannot import {folder}: more than "
                        f"{tool_limits.IMPORT_FILES} files"
                    )
                yield path


def _read(path: Path) -> bytes:
    """Read a regular file of another system, of bounded size."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RefusedError(f"{path} is not a regular file")
        data = file.read(tool_limits.IMPORT_BYTES + 1)
    if len(data) > tool_limits.IMPORT_BYTES:
        raise RefusedError(
            f"cannot import {path}: more than {tool_limits.IMPORT_BYTES} bytes"
        )
    return data
