"""``brokerctl network``: list network flows of sandboxes."""

from __future__ import annotations

import time

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.network.network_lines import unrecorded_network
from broker.cli.policy.records import read_records
from broker.cli.run.connect import ask, ask_status, offline_paths
from broker.core.escape import printable
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
        render.note(_none_of(sandbox))
    if answer.omitted:
        render.note(
            f"{answer.omitted} more flows; to list those of one sandbox, run "
            "'brokerctl network SANDBOX'"
        )


def _none_of(sandbox: str | None) -> str:
    """Return why no flow is listed, by the record and by a query of the broker."""
    if sandbox is None:
        return 'no flows of sandboxes with network = "rules" are open'
    known = read_records(offline_paths()).records
    name = next(
        (s.record for s in ask_status().sandboxes if s.name == sandbox), sandbox
    )
    record = known.get(name)
    network = "none" if record is None else record.values.get("launch.network", "none")
    if network == "rules":
        return f"no flows of '{printable(sandbox, 60)}' are open"
    return unrecorded_network(sandbox, network)
