"""``brokerctl suspend``: stop the programs of a sandbox for a time."""

from __future__ import annotations

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import open_client
from broker.core.escape import printable
from broker.ipc.control.api import SuspendAnswer, SuspendRequest
from broker.ipc.control.methods import SUSPEND


@click.command("suspend")
@click.argument("sandbox", shell_complete=sandboxes)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, sandbox: str, as_json: bool) -> None:
    """Stop the programs of a running micro VM, until 'brokerctl resume'.

    Its windows stay, show what they showed, and get what you type after it is resumed.
    Its memory stays in use.  'run', 'open', 'cp' and calls into it are refused meanwhile;
    'stop' ends it.  The name of a record suspends all of its sandboxes.

    Boxes, containers and machines that other programs started are suspended by these
    programs; the error says how.

    Exit code: 0 done, 1 no broker is running, the sandbox does not exist or cannot be
    suspended, 2 usage error.
    """
    carry_out(sandbox, suspended=True, as_json=as_json)


def carry_out(sandbox: str, *, suspended: bool, as_json: bool) -> None:
    """Suspend or resume sandboxes, and print their names."""
    answer = trio.run(_ask, SuspendRequest(sandbox=sandbox, suspended=suspended))
    if as_json:
        names = {"sandboxes": answer.sandboxes, "unchanged": answer.unchanged}
        render.json_line({**names, "suspended": suspended})
        return
    for name in map(printable, answer.sandboxes):
        if name not in answer.unchanged:
            render.note(f"{'suspended' if suspended else 'resumed'} {name}")
        elif suspended:
            render.note(f"{name} was already suspended")
        else:
            render.note(f"{name} was not suspended")


async def _ask(request: SuspendRequest) -> SuspendAnswer:
    async with open_client() as client:
        return await client.call(SUSPEND, request)
