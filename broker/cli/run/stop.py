"""``brokerctl stop``: end sandboxes, or the broker."""

from __future__ import annotations

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import open_client
from broker.cli.run.force import force_end
from broker.cli.run.start import end_broker
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.names import sandboxes_named
from broker.core.paths import find_paths
from broker.helpers.process.spawn import run_tool
from broker.ipc.control.api import Nothing, StopRequest
from broker.ipc.control.client import Client
from broker.ipc.control.methods import GET_VERSION, STATUS, STOP

_ASK_SECONDS = 5.0
_SOCKETS = (
    "vitrail-local.socket",
    "vitrail-host.socket",
    "vitrail-viewer.socket",
    "vitrail-viewer-link.socket",
)


@click.command("stop")
@click.argument("sandbox", nargs=-1, shell_complete=sandboxes)
@click.option("--all", "everything", is_flag=True, help="Stop every sandbox.")
@click.option(
    "--broker",
    is_flag=True,
    help="Stop every sandbox, then the broker; on a viewer, the broker alone.",
)
@click.option(
    "--force",
    is_flag=True,
    help="With --broker: end a broker that does not answer, by signals.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0, max=3600),
    help="Time in which a machine must power off, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    sandbox: tuple[str, ...],
    everything: bool,
    broker: bool,
    force: bool,
    grace: float | None,
    as_json: bool,
) -> None:
    """Stop each SANDBOX: shut its machine down, kill it after a time, close its streams.

    The name of a record stops all of its sandboxes.  The command returns after they have
    stopped.

    'stop --broker --force' ends a broker that does not answer: it signals the process
    that the broker wrote down at its start.

    Exit code: 0 done, 1 no broker is running or a sandbox does not exist, 2 usage error.
    """
    if force and not broker:
        raise click.UsageError("--force ends a broker: specify --broker with it")
    if sum([bool(sandbox), everything, broker]) != 1:
        raise click.UsageError(
            "specify one of: sandboxes, --all (every sandbox), --broker (the "
            "broker too)"
        )
    if force:
        _force(as_json=as_json)
        return
    stopped = trio.run(_stop, sandbox or (None,), broker, grace)
    if as_json:
        render.json_line({"stopped": stopped, "broker": broker})
        return
    for name in stopped:
        render.note(f"stopped {printable(name)}")
    if broker:
        render.note("stopped the broker")
        for unit in trio.run(_listening_units):
            render.note(
                f"{unit} starts a broker at the next connection; to prevent that, "
                f"run 'systemctl --user stop {unit}'"
            )
    elif not stopped:
        render.note("no sandbox was running")


async def _listening_units() -> list[str]:
    """Return the socket units of systemd that would start the broker again."""
    try:
        words = ["systemctl", "--user", "is-active", *_SOCKETS]
        said = await run_tool(words, deadline=_ASK_SECONDS)
    except (UpstreamError, SetupError):
        return []  # no unit is active, or there is no systemd
    states = said.decode(errors="replace").splitlines()
    found = zip(_SOCKETS, states, strict=False)
    return [unit for unit, state in found if state == "active"]


def _force(*, as_json: bool) -> None:
    """End a broker that need not answer, and print how it ended."""
    ended = force_end(find_paths())
    if as_json:
        render.json_line({"broker": True, "pid": ended.pid, "killed": ended.killed})
    elif ended.killed:
        render.note(
            f"killed the broker (process {ended.pid}), which did not end when it "
            "was asked to"
        )
        # Late: most brokers end when they are asked to.
        from broker.cli.run.living import living_words

        render.note(living_words(find_paths()) or "no sandbox is running")
    else:
        render.note(f"stopped the broker (process {ended.pid}) and its sandboxes")


async def _stop(
    names: tuple[str | None, ...],
    broker: bool,  # noqa: FBT001
    grace: float | None,
) -> list[str]:
    """Have the broker stop each sandbox; with ``broker``, end it and wait for its end.

    Prints which sandboxes of a record are stopped.  An unknown one ends the command.
    """
    stopped: list[str] = []
    async with open_client() as client:
        # It has a deadline, and the end of a sandbox has none: a silent broker is named.
        role = (await client.call(GET_VERSION, Nothing())).role
        if broker and role == "viewer":
            # A viewer's end is not the end of the host's machines: its next start
            # shows them again.
            names = ()
            render.note(
                "the host's sandboxes keep running; to stop them, run 'brokerctl "
                "stop --all'"
            )
        for name in names:
            if name is not None:
                await _announce(client, name)
            answer = await client.call(STOP, StopRequest(sandbox=name, grace=grace))
            stopped += answer.stopped
        if broker:
            await end_broker(client)
    return stopped


async def _announce(client: Client, name: str) -> None:
    """Print the sandboxes to stop if a record has several."""
    status = await client.call(STATUS, Nothing())
    named = sandboxes_named(name, [(s.name, s.record) for s in status.sandboxes])
    if len(named) > 1:
        names = ", ".join(printable(sandbox) for sandbox in named)
        render.note(
            f"stopping {len(named)} sandboxes of {printable(name, 60)}: {names}"
        )
