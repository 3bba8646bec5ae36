"""``brokerctl stop``: end sandboxes, or the broker."""

from __future__ import annotations

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import open_client
from broker.cli.run.start import end_broker
from broker.core.escape import printable
from broker.core.names import sandboxes_named
from broker.ipc.control.api import Nothing, StopRequest
from broker.ipc.control.client import Client
from broker.ipc.control.methods import STATUS, STOP


@click.command("stop")
@click.argument("sandbox", nargs=-1, shell_complete=sandboxes)
@click.option("--all", "everything", is_flag=True, help="End every sandbox.")
@click.option("--broker", is_flag=True, help="End every sandbox, then the broker.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0, max=3600),
    help="Seconds that a machine has to power off.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    sandbox: tuple[str, ...],
    everything: bool,
    broker: bool,
    grace: float | None,
    as_json: bool,
) -> None:
    """End each SANDBOX: ask its machine, insist after a while, cut its streams.

    A record's name ends all of its sandboxes.  Returns when it is gone.

    Exit code: 0, 1 when no broker runs or it knows no such sandbox, 2 wrong call.
    """
    if sum([bool(sandbox), everything, broker]) != 1:
        raise click.UsageError("name sandboxes, or give --all, or --broker")
    stopped = trio.run(_stop, sandbox or (None,), broker, grace)
    if as_json:
        render.json_line({"stopped": stopped, "broker": broker})
        return
    for name in stopped:
        render.note(f"{printable(name)} was stopped")
    if broker:
        render.note("the broker was stopped")
    elif not stopped:
        render.note("no sandbox was running")


async def _stop(
    names: tuple[str | None, ...],
    broker: bool,  # noqa: FBT001
    grace: float | None,
) -> list[str]:
    """Stop each sandbox, or the broker; return the names of what ended."""
    stopped: list[str] = []
    async with open_client() as client:
        for name in names:
            if name is not None:
                await _announce(client, name)
            answer = await client.call(STOP, StopRequest(sandbox=name, grace=grace))
            stopped += answer.stopped
        if broker:
            await end_broker(client)
    return stopped


async def _announce(client: Client, name: str) -> None:
    """Announce what stops where a record's name means several sandboxes."""
    status = await client.call(STATUS, Nothing())
    named = sandboxes_named(name, [(s.name, s.record) for s in status.sandboxes])
    if len(named) > 1:
        names = ", ".join(printable(sandbox) for sandbox in named)
        render.note(f"ending {len(named)} sandboxes of {printable(name, 60)}: {names}")
