"""``brokerctl status``: one line for each sandbox; the rest with a name or --all."""

from __future__ import annotations

import sys
import time

import msgspec
import rich_click as click

from broker.cli.completion import sandboxes
from broker.cli.quick.status import summary
from broker.core.paths import find_paths
from broker.ipc.control.api import Nothing, Status
from broker.ipc.control.blocking import open_blocking
from broker.ipc.control.methods import STATUS


@click.command("status")
@click.argument("sandbox", required=False, shell_complete=sandboxes)
@click.option("-a", "--all", "everything", is_flag=True, help="Show everything.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--watch", is_flag=True, help="Repeat once a second until interrupted.")
def command(
    sandbox: str | None, *, everything: bool, as_json: bool, watch: bool
) -> None:
    """Show running sandboxes, one line for each, and current problems.

    With SANDBOX or --all, also show leases, streams with their rates, processes with
    their memory and jail, and limits.  --json includes everything.

    Exit code: 0 done, 1 no broker is running or the sandbox does not exist.
    """
    if sandbox is None and not (everything or as_json or watch):
        sys.stdout.write(summary(msgspec.to_builtins(_ask()), time.time()))
        return
    from broker.cli.sandboxes.status_detail import show

    show(sandbox, as_json=as_json, watch=watch)


def _ask() -> Status:
    """Return the broker's status.  Raises SetupError that says how to start one."""
    paths = find_paths()

    def start() -> str:
        # Late: which broker this machine has takes a look into its files.
        from broker.cli.run.connect import how_to_start

        return how_to_start(paths, living=True)

    with open_blocking(paths, start=start) as client:
        return client.call(STATUS, Nothing())
