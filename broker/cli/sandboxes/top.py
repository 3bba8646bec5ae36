"""``brokerctl top``: running sandboxes on a live screen."""

from __future__ import annotations

import time

import rich_click as click

from broker.cli import render
from broker.cli.homes.snapshot import Cpu, take
from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.ipc.control.blocking import open_blocking

_BETWEEN = 0.5
"""Seconds between the two looks of --json: processor time needs two."""


@click.command("top")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, once.")
def command(*, as_json: bool) -> None:
    """Show sandboxes, questions and events on a live screen.

    Keys: s stop, k close the newest window, m mute, l log, a allow, d deny, q quit.

    Exit code: 0 done, 1 no broker is running.
    """
    paths = find_paths()
    cpu = Cpu()
    with open_blocking(paths) as client:
        first = take(client, cpu)
        if as_json:
            time.sleep(_BETWEEN)
            render.json_line(take(client, cpu).as_json())
            return
    del first
    try:
        from broker.cli.sandboxes.top_screen import TopScreen
    except ModuleNotFoundError as error:
        raise SetupError(
            f"cannot show the live screen: the Python package {error.name} is not "
            "installed",
            hint="in a checkout run: pipx install --force '.[top]'; to watch "
            "without the package, run 'brokerctl status --watch'",
        ) from error
    screen = TopScreen(paths, cpu)
    while chosen := screen.run():
        _show_log(chosen)
        screen = TopScreen(paths, cpu)
    if screen.return_code:
        raise SystemExit(screen.return_code)


def _show_log(sandbox: str) -> None:
    """Print the log files of a sandbox's newest program and wait for Enter."""
    from broker.cli.run import logs

    words = {"console": False, "program": None, "follow": False, "raw": False}
    try:
        assert logs.command.callback is not None
        logs.command.callback(sandbox=sandbox, **words)
    except SetupError as error:
        render.error(error)
    click.prompt("Press Enter to return", default="", show_default=False, err=True)
