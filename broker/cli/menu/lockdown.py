"""``brokerctl lockdown``: stop microphones, cameras, copies and starts."""

from __future__ import annotations

import sys

import msgspec
import rich_click as click

from broker.authority.lockdown import keep_lockdown, kept_lockdown, lockdown_file
from broker.cli import render
from broker.cli.menu.lockdown_lines import lockdown_lines
from broker.cli.run.connect import ask, broker_runs
from broker.core.errors import SetupError
from broker.core.paths import Paths, find_paths
from broker.ipc.control.api import LockdownAnswer, LockdownRequest
from broker.ipc.control.methods import LOCKDOWN


@click.command("lockdown")
@click.option(
    "--networks", is_flag=True, help="Also cut the networks of all sandboxes."
)
@click.option("--lift", is_flag=True, help="Lift the lockdown.")
@click.option(
    "--show", is_flag=True, help="Show whether a lockdown is in force; change nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, networks: bool, lift: bool, show: bool, as_json: bool) -> None:
    """Stop microphones, cameras, copies and new starts until the lockdown is lifted.

    Windows, playback, notifications and security keys are not affected.  If no broker is
    running, the next one starts in lockdown.

    Exit code: 0 done; with --show, 0 a lockdown is in force, 1 none is; 2 usage error.
    """
    if lift + show > 1 or (networks and (lift or show)):
        raise click.UsageError("--networks, --lift and --show cannot be used together")
    # Without a runtime directory a running broker would not be found, and would continue.
    paths = find_paths()
    begin = None if show else not lift
    request = LockdownRequest(begin=begin, networks=networks or None)
    found = None
    if not broker_runs(paths):
        found = _without_broker(paths, begin=begin, networks=networks)
    # A broker that answers by now may have looked for a lockdown before.
    # guard: a lockdown is of the broker that answers once it is stored
    runs = broker_runs(paths)
    if runs or found is None:
        found = ask(LOCKDOWN, request)
    if as_json:
        render.json_line(msgspec.to_builtins(found))
    else:
        for line in lockdown_lines(found, runs=runs, lifted=lift and not found.locked):
            render.note(line)
    if show and not found.locked:
        sys.exit(1)


def _without_broker(
    paths: Paths, *, begin: bool | None, networks: bool
) -> LockdownAnswer:
    """Store the lockdown for the next broker.  Raises SetupError."""
    path = lockdown_file(paths)
    try:
        if begin:
            keep_lockdown(path, networks=networks or bool(kept_lockdown(path)))
        elif begin is False:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot change the lockdown of the next broker: {error.strerror}",
            where=str(path),
        ) from error
    now = kept_lockdown(path)
    return LockdownAnswer(now is not None, bool(now))
