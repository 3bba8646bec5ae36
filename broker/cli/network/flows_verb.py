"""``brokerctl network``: where sandboxes are connected to."""

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
    """List open flows of sandboxes with network = "rules"; only SANDBOX's if given.

    Each with the name that led to its address, its bytes and rates (from the
    sandbox, and to it), and the rule that allows it.

    Exit code: 0, or 1 when no broker runs or it knows no such sandbox.
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
            f"{answer.omitted} more flows: 'brokerctl network SANDBOX' lists those of one"
        )
