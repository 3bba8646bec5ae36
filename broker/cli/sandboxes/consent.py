"""What the verbs of ``brokerctl sandbox`` share: consent, progress and results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.homes.home_copies import HomeCopies
from broker.cli.policy.records import require_own
from broker.cli.run.connect import ask_status, broker_runs, offline_paths
from broker.core.errors import RefusedError
from broker.core.escape import displayed
from broker.core.paths import find_paths
from broker.host.homes.renaming import recover
from broker.host.homes.store import Home
from policy.records.model import Record

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
NAME = click.argument("name", shell_complete=sandboxes)


def home_store() -> HomeCopies:
    """Return the store of homes; complete a renaming that a crash interrupted."""
    store = HomeCopies(offline_paths().homes)
    if store.root.is_dir():
        recover(store)
    return store


def refuse_running(record: Record) -> None:
    """Raise RefusedError while a sandbox of a record runs, and for a run's record.

    Queries a running broker.
    """
    paths = find_paths()
    require_own(paths, record.name)
    if not broker_runs(paths):
        return
    running = [s.name for s in ask_status().sandboxes if s.record == record.name]
    if running:
        raise RefusedError(
            f"cannot rename or remove the record '{record.name}' while its "
            f"sandboxes are running: {', '.join(running)}",
            hint=f"to stop them, run 'brokerctl stop {' '.join(running)}'",
        )


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much is done, on a terminal."""
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    # Elsewhere than on a terminal the bar would leave an empty line.
    shown = console.is_terminal
    with Progress(
        *columns, console=console, transient=True, disable=not shown
    ) as progress:
        # guard: the name of a backup drives no terminal
        text = displayed(text)
        task = progress.add_task(text, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield update


@dataclass(frozen=True)
class Consent:
    """How a user agrees to a loss: by ``--yes``, or when asked; ``--check`` only looks."""

    yes: bool
    check: bool
    as_json: bool

    def ask(self, question: str, lost: str) -> None:
        """Ask for confirmation; with ``--check`` print the loss, and end the verb.

        Raises RefusedError without a confirmation.
        """
        if self.check:
            print_result(
                f"would be lost: {lost}",
                {"lost": lost},
                as_json=self.as_json,
            )
            sys.exit(0)
        confirm(question, yes=self.yes)


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation unless ``yes``.  Raises RefusedError without it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError(
            "cannot ask for confirmation: standard input is not a terminal: "
            f"{question}",
            hint="pass --yes to confirm",
        )
    click.confirm(question, abort=True, err=True)


def print_result(text: str, facts: Mapping[str, object], *, as_json: bool) -> None:
    """Report the result: one object on standard output, or a line for a user."""
    if as_json:
        render.json_line(facts)
    else:
        render.note(text)


def count_passed(bar: Callable[[int, int], None], total: int, done: int) -> None:
    """Show a count that may be more than was expected."""
    bar(min(done, total) if total else done, total)


def report_home(
    home: Home,
    files: list[Path],
    *,
    as_json: bool,
    backup: Mapping[str, object] | None = None,
) -> None:
    """Print a new home and the files that were written."""
    if as_json:
        facts = {"name": home.name, "files": [str(path) for path in files]}
        render.json_line({**facts, **({"backup": backup} if backup else {})})
        return
    for path in files:
        render.note(f"wrote {path}")
    render.note(f"created the home of '{home.name}' ({render.size(home.used())})")
