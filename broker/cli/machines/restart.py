"""``brokerctl restart``: replace the broker; the new one takes over the machines.

The broker is killed, because an orderly end ends its sandboxes first; the next
one leases the machines that live on, as after any death of a broker.
"""

from __future__ import annotations

import os
import signal

import rich_click as click
import trio

from broker.cli import render
from broker.cli.policy.records import read_records
from broker.cli.run.connect import offline_paths, open_client
from broker.cli.run.start import ensure_broker
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.paths import find_paths
from broker.helpers.process.spawn import wait_ended
from broker.ipc.control.api import Nothing, SandboxStatus, WindowsRequest
from broker.ipc.control.client import Client
from broker.ipc.control.methods import GET_VERSION, STATUS, WINDOWS
from policy.rules.world import DISPOSABLE


@click.command("restart")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, yes: bool, as_json: bool) -> None:
    """Restart the broker, for example after an update; machines keep running.

    All windows are closed, and listed first.  Disposable sandboxes end with their
    programs; the new broker uses the other machines again.

    Exit code: 0 done, 1 no broker is running, another machine shares its sandboxes, or
    you declined.
    """
    pid, ending = trio.run(_look)
    if ending and not as_json:
        render.note(
            "these windows will be closed:\n"
            + "\n".join(f"  {title}" for title in ending)
        )
    if ending and not yes:
        click.confirm("restart the broker?", abort=True, err=True)
    kept, ends, ended = trio.run(_restart, pid)
    if as_json:
        names = {"kept": kept, "ends": ends, "ended": ended}
        render.json_line({"windows": ending, **names})
        return
    render.note("restarted the broker")
    for name in kept:
        render.note(
            f"{printable(name)} is still running; to open its windows again, run "
            f"'brokerctl run {printable(name)}'"
        )
    for name in ends:
        render.note(
            f"{printable(name)} is still running, without windows; it ends when its "
            "program exits"
        )
    for name in ended:
        render.note(f"{printable(name)} has ended")


async def _look() -> tuple[int, list[str]]:
    """Return the broker's process and the titles of its windows."""
    async with open_client() as client:
        version = await client.call(GET_VERSION, Nothing())
        if version.role != "local":
            raise RefusedError(
                f"cannot restart the broker: this machine is the {version.role} of "
                "two machines that share their sandboxes",
                hint="to see what would end, run 'brokerctl status'; then restart "
                f"the unit vitrail-{version.role} with systemctl",
            )
        answer = await client.call(WINDOWS, WindowsRequest())
    titles = [f"[{window.sandbox}] {window.title}" for window in answer.windows]
    silent = [f"all windows of {name}, which does not answer" for name in answer.silent]
    more = [f"{answer.omitted} more"] if answer.omitted else []
    return version.pid, [printable(text, 200) for text in (*titles, *silent, *more)]


async def _restart(pid: int) -> tuple[list[str], list[str], list[str]]:
    """Kill the broker and start another.

    Returns the machines that it uses again, other sandboxes that live on, and those
    that have ended.
    """
    async with open_client() as client:
        pidfd = os.pidfd_open(pid)
        try:
            # The number belongs to the broker that was asked about only if it still answers so.
            version = await client.call(GET_VERSION, Nothing())
            if version.pid != pid:
                raise RefusedError(
                    "the broker was not restarted: another broker was started in "
                    "the meantime",
                    hint="run the command again",
                )
            before = await _sandboxes(client)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await wait_ended(pidfd)
        finally:
            os.close(pidfd)
    await ensure_broker(find_paths())
    async with open_client() as client:
        now = await _sandboxes(client)
    records = read_records(offline_paths()).records
    live = [one for name, one in now.items() if name in before]
    kept = [
        one.name
        for one in live
        if one.sandbox_class != DISPOSABLE
        and (record := records.get(one.record)) is not None
        and record.host.launch.kind.agent
    ]
    ends = sorted({one.name for one in live} - {*kept})
    return kept, ends, sorted(before.keys() - now.keys())


async def _sandboxes(client: Client) -> dict[str, SandboxStatus]:
    """Return the status of each sandbox."""
    status = await client.call(STATUS, Nothing())
    return {one.name: one for one in status.sandboxes}
