"""``brokerctl tray``: show running sandboxes in the desktop's panel."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
import trio

from broker.cli import render
from broker.cli.sandboxes.desktop_entry import autostart_home
from broker.core.errors import VitrailError
from broker.core.paths import Paths, find_paths

if TYPE_CHECKING:
    from jeepney.io.trio import DBusConnection

_AUTOSTART = """\
[Desktop Entry]
Type=Application
Name=Vitrail in the panel
Exec={program} tray
Icon=security-high
NoDisplay=true
X-GNOME-Autostart-enabled=true
"""


@click.command("tray")
@click.option(
    "--autostart", is_flag=True, help="Start the icon together with the desktop."
)
@click.option(
    "--no-autostart",
    is_flag=True,
    help="Do not start the icon together with the desktop.",
)
def command(*, autostart: bool, no_autostart: bool) -> None:
    """Show running sandboxes in the desktop's panel, with a menu to stop them.

    The icon has the colours of running sandboxes, a red spot while a sandbox uses the
    microphone, a yellow spot while a question is pending, and a red bar in a lockdown.
    The menu stops sandboxes, microphones and cameras, revokes devices and folders, denies
    questions, and starts a lockdown.

    The program runs until interrupted.  With an option, only write or remove
    ~/.config/autostart/vitrail-tray.desktop.
    """
    if autostart and no_autostart:
        raise click.UsageError("--autostart and --no-autostart cannot be used together")
    if autostart or no_autostart:
        _write(autostart=autostart)
        return
    trio.run(_run, find_paths())


def autostart_file() -> Path:
    """Return the autostart file (Desktop Application Autostart Specification)."""
    return autostart_home() / "vitrail-tray.desktop"


def _write(*, autostart: bool) -> None:
    """Write or remove the file that starts the icon with the session."""
    path = autostart_file()
    if not autostart:
        path.unlink(missing_ok=True)
        render.note(f"removed {path}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    program = shutil.which("brokerctl") or Path(sys.argv[0]).absolute()
    path.write_text(_AUTOSTART.format(program=program))
    render.note(f"wrote {path}")


async def _run(paths: Paths) -> None:
    """Show the panel's item, and carry out its clicks, until the user leaves."""
    from broker.cli.tray.item import TrayItem
    from broker.cli.tray.menu_rows import Click, Leave, TrayState
    from broker.cli.tray.watching import carry_out, watch
    from broker.net.session_bus import own_bus
    from broker.viewer.tray.panel_bus import ITEM, Panel

    @asynccontextmanager
    async def bus() -> AsyncIterator[tuple[DBusConnection, str]]:
        async with own_bus() as connection:
            yield connection, f"{ITEM}-{os.getpid()}-1"

    async def clicked(click: Click) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(click, Leave):
            nursery.cancel_scope.cancel()
        else:
            # A stop takes seconds, and the panel is served meanwhile.
            nursery.start_soon(_carried_out, click)

    async def _carried_out(click: Click) -> None:
        """Send the request of a click; print its refusal."""
        try:
            await carry_out(paths, click)
        except VitrailError as error:
            render.error(error)

    async def show(now: TrayState) -> None:
        await panel.tell(item.update(now))

    item = TrayItem()
    panel = Panel[Click](item.call, clicked, bus)
    async with trio.open_nursery() as nursery:
        await nursery.start(panel.run)
        await watch(paths, show)
