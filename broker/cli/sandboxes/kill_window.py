"""``brokerctl kill-window``: end a window, whatever its application wants."""

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
@click.option("--ask", is_flag=True, help="Ask the application to close it instead.")
def command(sandbox: str, window: int, *, ask: bool) -> None:
    """End WINDOW of SANDBOX ('brokerctl windows' has the numbers).

    The application's connection to the screen is cut, so all its windows go;
    most applications end then.  With --ask it receives a request to close this one, as
    by a click on its cross, and may refuse.

    Exit code: 0, or 1 when there is no such window or no broker.
    """
    request = WindowCloseRequest(sandbox=sandbox, window=window, ask=ask)
    ask_broker(WINDOW_CLOSE, request)
    said = "was asked to close" if ask else "is gone"
    render.note(f"window {window} of {printable(sandbox, 60)} {said}")
