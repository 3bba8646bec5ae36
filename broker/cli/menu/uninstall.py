"""``brokerctl uninstall``: remove files that Vitrail wrote for this user."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import rich_click as click
import trio

from broker.cli import launcher, render
from broker.cli.menu.file_managers import file_manager_entries, forget_thunar_action
from broker.cli.run.connect import broker_runs, open_client
from broker.cli.run.start import end_broker
from broker.cli.sandboxes.desktop_entry import (
    AUTOSTART_PREFIX,
    WINDOW_PREFIX,
    autostart_home,
)
from broker.cli.tray.tray_verb import autostart_file
from broker.core.distribution import remove_command
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.trees import remove_tree
from broker.core.paths import Paths, find_paths
from broker.host.vmm.accel import ACCEL_FILE
from broker.ipc.control.api import StopRequest
from broker.ipc.control.methods import STOP
from broker.session.menu_icons import PROMPT_ENTRY, data_home
from shims.bundle import INSTALLER

_ENTRY = "vitrail-sandbox-"
_CACHED = ("images", "parents", "tools", "vmlinux", ACCEL_FILE, INSTALLER)
_SHOWN = 5
"""Files of others that are named, of those that are kept."""


@click.command("uninstall")
@click.option(
    "--purge",
    is_flag=True,
    help="Also remove all records, rules, homes, logs and images.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
def command(*, purge: bool, yes: bool) -> None:
    """Remove files that Vitrail wrote, and print how to remove the package.

    Stop all sandboxes and the broker, and remove menu entries, icons and the files of
    'launcher install'.  Records, rules, homes, logs and images are kept; with --purge,
    they are removed together with the audit log.

    Exit code: 0 done, 1 you declined.
    """
    paths = find_paths()
    doomed = [*_entries(), *(_own(paths) if purge else [])]
    for path in doomed:
        render.note(f"to be removed: {path}")
    if broker_runs(paths):
        render.note("to be stopped: the broker and all sandboxes")
    if not yes:
        if not sys.stdin.isatty():
            raise RefusedError(
                "cannot ask for confirmation: standard input is not a terminal",
                hint="pass --yes to confirm",
            )
        click.confirm("Uninstall?", abort=True, err=True)
    if broker_runs(paths):
        trio.run(_end)
    launcher.remove_files()
    forget_thunar_action()
    for path in doomed:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
    if purge:
        _leave_cache(paths)
    else:
        render.note(f"records and homes are kept: {paths.config[0]}, {paths.state}")
    render.note(f"now remove the package: {_package()}")


def _entries() -> Iterator[Path]:
    """Yield the menu entries and icons that Vitrail wrote."""
    applications = data_home() / "applications"
    icons = data_home() / "icons" / "hicolor" / "scalable" / "apps"
    if autostart_file().is_file():
        yield autostart_file()
    yield from sorted(autostart_home().glob(f"{AUTOSTART_PREFIX}*.desktop"))
    if (applications / PROMPT_ENTRY).is_file():
        yield applications / PROMPT_ENTRY
    yield from file_manager_entries()
    yield from sorted(applications.glob(f"{_ENTRY}*.desktop"))
    yield from sorted(applications.glob(f"{WINDOW_PREFIX}*.desktop"))
    yield from sorted(icons.glob(f"{_ENTRY}*.svg"))


def _own(paths: Paths) -> list[Path]:
    """What is Vitrail's of this user's, never directories of the machine in /etc.

    Other programs and the user may keep something in the cache beside it.
    """
    ours = [paths.cache / name for name in _CACHED]
    printed = paths.cache.with_name("vitrail-printing")
    places = (paths.config[0], paths.state, *ours, printed)
    return [path for path in places if path.exists()]


def _leave_cache(paths: Paths) -> None:
    """Remove the directory of the cache, unless others have something in it."""
    if not paths.cache.is_dir():
        return
    kept = sorted(paths.cache.iterdir())
    if not kept:
        paths.cache.rmdir()
        return
    names = ", ".join(printable(path.name, 60) for path in kept[:_SHOWN])
    more = f" and {len(kept) - _SHOWN} more" if len(kept) > _SHOWN else ""
    render.note(f"kept in {paths.cache}, as Vitrail did not write it: {names}{more}")


async def _end() -> None:
    """Have the broker stop all sandboxes and end; wait for its end."""
    async with open_client() as client:
        await client.call(STOP, StopRequest(sandbox=None))
        await end_broker(client)


def _package() -> str:
    """Return the command that removes the package."""
    place = Path(__file__).resolve()
    if "pipx" in place.parts:
        return "pipx uninstall vitrail"
    if {"uv", "tools"} <= {*place.parts}:
        return "uv tool uninstall vitrail"
    if place.is_relative_to("/usr"):
        return remove_command("vitrail")
    return f"delete the directory {place.parents[3]}"
