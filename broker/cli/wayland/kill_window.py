"""``brokerctl kill-window``: close a window, even if its application refuses."""

from __future__ import annotations

import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask as ask_broker
from broker.core.escape import printable
from broker.ipc.control.api import WindowCloseRequest
from broker.ipc.control.methods import WINDOW_CLOSE


@click.command("kill-window")
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("window", type=click.IntRange(min=1))
@click.option(
    "--ask", is_flag=True, help="Ask the application to close the window instead."
)
def command(sandbox: str, window: int, *, ask: bool) -> None:
    """Close WINDOW of SANDBOX; 'brokerctl windows' lists the numbers.

    The application's connection to the screen is closed, and with it all of its windows;
    most applications then exit.  With --ask, the application receives a request to close
    this window, as when its close button is clicked, and may refuse.

    Exit code: 0 done, 1 the window does not exist or no broker is running.
    """
    request = WindowCloseRequest(sandbox=sandbox, window=window, ask=ask)
    ask_broker(WINDOW_CLOSE, request)
    name = printable(sandbox, 60)
    render.note(
        f"window {window} of {name} was asked to close"
        if ask
        else f"window {window} of {name} was closed"
    )
