"""``brokerctl launcher``: make other programs' sandboxes start with their lease."""

from __future__ import annotations

import sys
from operator import attrgetter
from pathlib import Path

import rich_click as click

from broker.cli.launchers.flatpak_setup import FLATPAK_SETUP
from broker.cli.launchers.libvirt import LIBVIRT_SETUP, prepare
from broker.cli.launchers.podman_setup import PODMAN_SETUP
from broker.cli.launchers.setup import Setup, SetupWords
from broker.cli.launchers.shared_box import BOXES, run_shared_box
from broker.cli.launchers.shared_box_setup import BOX_SETUPS

_SETUPS = {
    row.program: row
    for row in (
        FLATPAK_SETUP,
        LIBVIRT_SETUP,
        PODMAN_SETUP,
        *sorted(BOX_SETUPS, key=attrgetter("program")),
    )
}
_PROGRAMS = click.Choice(list(_SETUPS))


@click.group("launcher")
def command() -> None:
    """Set up Podman, libvirt, boxes and Flatpaks so that Vitrail shows their windows."""


command.add_command(prepare)


@command.command("install")
@click.argument("program", type=_PROGRAMS)
@click.option(
    "--uid",
    type=click.IntRange(min=1),
    help="libvirt, and Podman of root's: the user whose broker leases what root "
    "starts; default: who called sudo.",
)
@click.option("--app", metavar="APP", help="flatpak: the application's ID.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def install(program: str, *, uid: int | None, app: str | None, as_json: bool) -> None:
    """Install what makes PROGRAM's sandboxes start with their lease.

    podman: an OCI hook for containers with the annotation io.vitrail.sandbox=RECORD.
    Rootless Podman reads it from this user's containers.conf.d.  Called by root, it
    writes the hook of root's Podman, for 'sudo podman run'.

    toolbox, distrobox: a record of that name, and a command of that name in
    ~/.local/bin, before the real one in PATH.  These boxes share your home directory
    and sockets: their windows get a label, and there is no boundary.

    libvirt: a qemu hook (root installs it, for qemu:///session too) for domains
    that a record names by [peer] libvirt = "DOMAIN".  libvirtd looks for hooks at
    its start.

    flatpak --app APP: replaces the permissions of an installed application, so that it
    has a display and sound under 'brokerctl run --flatpak APP' only, and its menu
    entries, so that the menu runs that.
    """
    chosen = _SETUPS[program]
    _check_app(chosen, app)
    chosen.install(SetupWords(uid, app or "", as_json))


@command.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("kind", type=click.Choice(sorted(BOXES)))
@click.argument("program", type=click.Path(path_type=Path, exists=True))
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def run_box(kind: str, program: Path, words: tuple[str, ...]) -> None:
    """Run PROGRAM, a real toolbox or distrobox, with the sockets of a label."""
    sys.exit(run_shared_box(BOXES[kind], program, words))


@command.command("remove")
@click.argument("program", type=_PROGRAMS)
@click.option("--app", metavar="APP", help="flatpak: the application's ID.")
def remove(program: str, *, app: str | None) -> None:
    """Remove what 'install' wrote; a record of a box stays.

    flatpak --app APP: give an application back the permissions that it had before
    'install', or 'brokerctl run' of it, replaced them, and its menu entries.
    """
    chosen = _SETUPS[program]
    _check_app(chosen, app)
    chosen.remove(app or "")


def remove_files() -> None:
    """Remove what 'install' wrote for podman, toolbox and distrobox, if anything."""
    for row in (PODMAN_SETUP, *BOX_SETUPS):
        row.remove("")


def _check_app(chosen: Setup, app: str | None) -> None:
    if chosen.of_an_app != (app is not None):
        raise click.UsageError(
            "--app APP is required for flatpak, and only for flatpak"
        )
