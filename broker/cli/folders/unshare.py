"""``brokerctl unshare``: end the sharing of a directory."""

from __future__ import annotations

import os

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.argument_order import sandbox_first
from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask
from broker.core.escape import printable
from broker.ipc.control.api import FolderUnshareRequest
from broker.ipc.control.methods import FOLDER_UNSHARE


@click.command("unshare")
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("folder", type=click.Path())
@click.option(
    "--force",
    is_flag=True,
    help="Stop the sandbox if it has open files in the folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(sandbox: str, folder: str, *, force: bool, as_json: bool) -> None:
    """End the sharing with SANDBOX of FOLDER: a path, or a name in the sandbox.

    Exit code: 0 unmounted, 1 the folder is not shared, or files of it are open.
    """
    sandbox, folder = sandbox_first(sandbox, folder)
    if "/" in folder:
        folder = os.path.realpath(folder)
    request = FolderUnshareRequest(folder=folder, sandbox=sandbox, force=force)
    answer = ask(FOLDER_UNSHARE, request)
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
        return
    render.note(f"{answer.sandbox} can no longer access {printable(answer.path, 400)}")
