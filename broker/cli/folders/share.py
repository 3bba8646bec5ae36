"""``brokerctl share``: directories of the user's in sandboxes."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.argument_order import sandbox_first
from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask
from broker.core.escape import printable
from broker.ipc.control.api import FolderShareRequest, Nothing
from broker.ipc.control.methods import FOLDER_SHARE, FOLDERS


@click.command("share")
@click.argument("sandbox", required=False, shell_complete=sandboxes)
@click.argument("directory", required=False, type=click.Path())
@click.option(
    "--write", is_flag=True, help="Allow the sandbox to change the folder's files."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    sandbox: str | None, directory: str | None, *, write: bool, as_json: bool
) -> None:
    """Share with a running SANDBOX your DIRECTORY, as /folders/NAME.

    Without arguments, list the shared folders.  A rule for vitrail.Folder must allow the
    sharing, with write=yes for --write.

    Exit code: 0 done, 1 refused or failed.
    """
    if sandbox is None:
        _list(as_json=as_json)
        return
    if directory is None:
        raise click.UsageError("one argument is missing: SANDBOX DIRECTORY")
    sandbox, directory = sandbox_first(sandbox, directory)
    request = FolderShareRequest(
        path=str(Path.cwd() / directory), sandbox=sandbox, write=write
    )
    answer = ask(FOLDER_SHARE, request)
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
        return
    how = "read-write" if answer.write else "read-only"
    path, inside = printable(answer.path, 400), printable(answer.inside, 400)
    render.note(f"shared {path} with {answer.sandbox} as {inside}, {how}")


def _list(*, as_json: bool) -> None:
    """Print the shared folders."""
    found = ask(FOLDERS, Nothing())
    if as_json:
        render.json_line(msgspec.to_builtins(found))
        return
    if not found.folders:
        sys.stdout.write("no folders are shared\n")
        return
    rows = [
        (f.sandbox, printable(f.inside, 100), "write" if f.write else "read", f.path)
        for f in found.folders
    ]
    render.table(["SANDBOX", "INSIDE", "MAY", "FOLDER"], rows)
