"""``brokerctl network``: list network flows of sandboxes."""

from __future__ import annotations

import time

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask
from broker.ipc.control.api import NetworkRequest
from broker.ipc.control.methods import NETWORK


@click.command("network")
@click.argument("sandbox", required=False, shell_complete=sandboxes)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(sandbox: str | None, *, as_json: bool) -> None:
    """List open flows of sandboxes with network = "rules", or only those of SANDBOX.

    Each line shows the resolved name, bytes and rates from and to the sandbox, and the
    rule that allows the flow.

    Exit code: 0 done, 1 no broker is running or the sandbox does not exist.
    """
    answer = ask(NETWORK, NetworkRequest(sandbox=sandbox))
    if as_json:
        render.json_line(msgspec.to_builtins(answer))
    elif answer.flows:
        # Late: rich takes longer than the question.
        from broker.cli.network.flow_table import as_table

        render.wide_console().print(as_table(answer.flows, time.time()))
    else:
        render.note("no flows are open")
    if answer.omitted:
        render.note(
            f"{answer.omitted} more flows; to list those of one sandbox, run 'brokerctl network SANDBOX'"
        )
