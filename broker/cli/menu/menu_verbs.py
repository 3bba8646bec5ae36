"""``brokerctl menu``: run the entries of the application menu."""

from __future__ import annotations

import os
import sys

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.sandboxes.desktop_entry import icon_of
from broker.core.escape import printable

_TERMINAL = ("foot",)
_MANAGERS = "nautilus thunar dolphin pcmanfm-qt pcmanfm nemo caja"
_BROWSE = (
    f'for p in {_MANAGERS}; do command -v "$p" >/dev/null && exec "$p" "$HOME"; done; '
    'cd && exec foot -T Files sh -c "ls -A -l; exec \\"${SHELL:-sh}\\""'
)
_FILES = ("sh", "-c", _BROWSE)
_ACTIONS = {"start": (), "terminal": _TERMINAL, "files": _FILES}


@click.group("menu")
def command() -> None:
    """Start and stop sandboxes, and open files in them, with notifications."""


@command.command("start")
@click.argument("sandbox", shell_complete=sandboxes)
def start(sandbox: str) -> None:
    """Start the program of SANDBOX, and show progress and failure as notifications.

    A notification of a failure has a button for the suggested fix.

    Exit code: 0 done, otherwise the exit code of 'brokerctl run'.
    """
    _start(sandbox, "start")


@command.command("terminal")
@click.argument("sandbox", shell_complete=sandboxes)
def terminal(sandbox: str) -> None:
    """Open a terminal in SANDBOX."""
    _start(sandbox, "terminal")


@command.command("files")
@click.argument("sandbox", shell_complete=sandboxes)
def files(sandbox: str) -> None:
    """Open a file manager in SANDBOX, or a terminal if it has none."""
    _start(sandbox, "files")


@command.command("stop")
@click.argument("sandbox", shell_complete=sandboxes)
def stop(sandbox: str) -> None:
    """Stop SANDBOX, and show a notification when it has stopped."""
    from broker.cli.menu.reported_start import stop as stopped

    title, _ = _title(sandbox)
    sys.exit(trio.run(stopped, sandbox, title, icon_of(sandbox), os.environ).code)


@command.command("open")
@click.argument("objects", nargs=-1, required=True, metavar="URL|FILE…")
def open_objects(objects: tuple[str, ...]) -> None:
    """Open addresses and files as 'brokerctl open' does, with notifications.

    For the desktop's default programs and file managers, which show no output: what
    takes long and what fails is shown, with a button for the suggested fix.

    Exit code: 0 done, otherwise the exit code of the last failure.
    """
    _each("open", objects)


@command.command("sanitize")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
def sanitize(files: tuple[str, ...]) -> None:
    """Make files harmless as 'brokerctl sanitize' does, with notifications.

    Exit code: 0 done, otherwise the exit code of the last failure.
    """
    _each("sanitize", files)


@command.command("file-managers")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def file_managers(*, as_json: bool) -> None:
    """Put 'Open in a sandbox' into the menus of Nautilus, Dolphin and Thunar.

    Also write the entry that the desktop can use as the default program for links and
    documents.  'brokerctl uninstall' removes them.
    """
    from broker.cli.menu.file_managers import write_file_managers

    render.written_files(write_file_managers(), as_json=as_json)


@command.command("refresh")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def refresh(*, as_json: bool) -> None:
    """Write menu entries and icons again, with current names and colours.

    Entries for open windows are written, too, because task bars find the icon of a
    window by its application ID.
    """
    from broker.cli.menu.entries import refresh as refreshed

    written, removed = refreshed()
    if as_json:
        render.json_line(
            {"written": [str(p) for p in written], "removed": [str(p) for p in removed]}
        )
        return
    for path in written:
        render.note(f"wrote {path}")
    for path in removed:
        render.note(f"removed {path}")


def _each(verb: str, objects: tuple[str, ...]) -> None:
    """Run a verb for each object, one by one; report it by notification."""
    from broker.cli.menu.reported_start import run_each

    sys.exit(trio.run(run_each, verb, objects, os.environ))


def _start(name: str, action: str) -> None:
    """Start a record's sandbox as the menu entry does; report by notification."""
    from functools import partial

    from broker.cli.menu.entries import expect, follow_windows
    from broker.cli.menu.reported_start import start as started

    title, attached = _title(name)
    expect(name)
    run = partial(
        started,
        name,
        title,
        icon_of(name),
        _ACTIONS[action],
        attached=attached,
        env=os.environ,
    )
    result = trio.run(run)
    if result.code == 0 and not attached:
        follow_windows()
    sys.exit(result.code)


def _title(name: str) -> tuple[str, bool]:
    """Return a record's label, and whether its sandbox ends with the starter.

    Reads the records, and the machine's role, by which its key may be created
    (``role_here``).
    """
    from broker.cli.policy.records import read_records
    from broker.cli.run.connect import offline_paths
    from broker.cli.run.request import held_record

    record = read_records(offline_paths()).records.get(name)
    if record is None:
        return printable(name, 60), False
    return record.viewer.label.name, held_record(name) is not None
