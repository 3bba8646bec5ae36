"""``brokerctl lockdown``: end microphones, cameras, copies and starts at once."""

from __future__ import annotations

import sys
import time

import msgspec
import rich_click as click

from broker.authority.lockdown import (
    LockdownState,
    keep_lockdown,
    kept_lockdown,
    lockdown_file,
)
from broker.cli import render
from broker.cli.run.connect import ask, broker_runs, offline_paths
from broker.core.errors import SetupError
from broker.core.paths import Paths
from broker.ipc.control.api import LockdownAnswer, LockdownRequest
from broker.ipc.control.methods import LOCKDOWN


@click.command("lockdown")
@click.option("--networks", is_flag=True, help="End networks that rules open, too.")
@click.option("--lift", is_flag=True, help="End the lockdown.")
@click.option("--show", is_flag=True, help="Only show whether there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, networks: bool, lift: bool, show: bool, as_json: bool) -> None:
    """End microphones, cameras, copies and new starts at once, until it is lifted.

    Windows, playback, notifications and security keys stay.  Where no broker runs, the
    next one begins in lockdown.

    Exit code: 0 done; with --show 0 a lockdown is in force, 1 there is none; 2 wrong call.
    """
    if lift + show > 1 or (networks and (lift or show)):
        raise click.UsageError("--networks, --lift and --show exclude each other")
    paths = offline_paths()
    change = None if show else "lift" if lift else "begin"
    if broker_runs(paths):
        request = LockdownRequest(change=change, networks=networks or None)
        found = ask(LOCKDOWN, request)
    else:
        found = _without_broker(paths, change, networks=networks)
    if as_json:
        render.json_line(msgspec.to_builtins(found))
    else:
        for line in _text(found):
            render.note(line)
    if show and not found.locked:
        sys.exit(1)


def _without_broker(
    paths: Paths, change: str | None, *, networks: bool
) -> LockdownAnswer:
    """Change what the next broker finds.  Raises SetupError."""
    path = lockdown_file(paths)
    try:
        before = kept_lockdown(path)
        if change == "begin":
            since = time.time() if before is None else before.since
            wide = networks or (before is not None and before.networks)
            keep_lockdown(path, LockdownState(since, networks=wide))
        elif change == "lift":
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    now = kept_lockdown(path)
    return LockdownAnswer(
        locked=now is not None,
        networks=now is not None and now.networks,
        since=0.0 if now is None else now.since,
    )


def _text(found: LockdownAnswer) -> list[str]:
    if not found.locked:
        return ["no lockdown is in force"]
    when = time.strftime("%H:%M", time.localtime(found.since)) if found.since else "?"
    what = "microphones, cameras, copies and new starts"
    what += " and networks" if found.networks else ""
    lines = [f"lockdown since {when}: {what} are denied until it is lifted"]
    if found.unkept:
        lines.append(f"it ends with the broker, as it is not on disk: {found.unkept}")
    if found.networks and found.open_networks:
        names = ", ".join(found.open_networks)
        lines.append(f"no rule decides about the network of {names}: stop them")
    return lines
