"""``brokerctl unshare``: take a shared directory back."""

from __future__ import annotations

import os

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask
from broker.core.escape import printable
from broker.ipc.control.api import FolderUnshareRequest
from broker.ipc.control.methods import FOLDER_UNSHARE


@click.command("unshare")
@click.argument("folder", type=click.Path())
@click.argument("sandbox", shell_complete=sandboxes)
@click.option(
    "--force",
    is_flag=True,
    help="End the sandbox if it still has files of the folder open.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(folder: str, sandbox: str, *, force: bool, as_json: bool) -> None:
    """Take FOLDER (its path, or its name in the sandbox) back from SANDBOX.

    Exit code: 0 it is unmounted, 1 it is not shared, or files of it are open.
    """
    if "/" in folder:
        folder = os.path.realpath(folder)
    request = FolderUnshareRequest(folder=folder, sandbox=sandbox, force=force)
    answer = ask(FOLDER_UNSHARE, request)
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
        return
    render.note(f"{answer.sandbox} no longer has {printable(answer.path, 400)}")
