"""``brokerctl windows``: the windows on the screen, and their sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask
from broker.core.escape import printable
from broker.ipc.control.api import WindowsRequest, WindowStatus
from broker.ipc.control.methods import WINDOWS

if TYPE_CHECKING:
    from rich.table import Table


@click.command("windows")
@click.argument("sandbox", required=False, shell_complete=sandboxes)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(sandbox: str | None, *, as_json: bool) -> None:
    """List windows and their sandboxes, or only the windows of SANDBOX.

    Applications set the titles, which are escaped; the size is the size of the content.

    Exit code: 0 done, 1 no broker is running, the sandbox does not exist, or a sandbox
    did not answer.
    """
    answer = ask(WINDOWS, WindowsRequest(sandbox=sandbox))
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
    elif answer.windows:
        render.wide_console().print(as_table(answer.windows))
    else:
        render.note("there are no windows")
    if answer.omitted:
        render.note(
            f"{answer.omitted} more windows; to list those of one sandbox, run "
            "'brokerctl windows SANDBOX'"
        )
    for name in answer.silent:
        render.note(f"{printable(name)} does not answer; its windows are not listed")
    if answer.silent:
        raise SystemExit(1)


def as_table(windows: list[WindowStatus]) -> Table:
    """Return the table as text; ``*`` marks windows with the keyboard focus."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ["SANDBOX", "WINDOW", "SIZE", "APPLICATION", "TITLE"]:
        table.add_column(column, overflow="fold")
    for window in windows:
        cells = (
            window.sandbox,
            f"{window.window}{'*' if window.focused else ''}",
            f"{window.width}x{window.height}",
            window.app_id or "-",
            window.title or "-",
        )
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table
