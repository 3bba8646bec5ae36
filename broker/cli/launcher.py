"""``brokerctl launcher``: make other programs' sandboxes start with their lease."""

from __future__ import annotations

from types import MappingProxyType

import rich_click as click

from broker.cli import render
from broker.cli.late_group import LateGroup
from broker.cli.launchers.setup import Setup, SetupWords
from broker.cli.launchers.table import PROGRAMS, setup_of
from broker.core.parts.absent import AbsentPartError

_PROGRAM = click.Choice(PROGRAMS)


@click.group("launcher", cls=LateGroup)
def command() -> None:
    """Set up Podman, libvirt, boxes and Flatpak applications for Vitrail."""


command.later = MappingProxyType(
    {
        "exec": "launchers.shared_box:run_box",
        "prepare": "launchers.libvirt:prepare",
    }
)


@command.command("install")
@click.argument("program", type=_PROGRAM)
@click.option(
    "--uid",
    type=click.IntRange(min=1),
    help="For libvirt and root's Podman: ID of the user whose broker leases what root "
    "starts; default: the user who called sudo.",
)
@click.option("--app", metavar="APP", help="For flatpak: ID of the application.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def install(program: str, *, uid: int | None, app: str | None, as_json: bool) -> None:
    """Install the hooks or wrappers with which PROGRAM starts sandboxes.

    podman: an OCI hook for containers with the annotation io.vitrail.sandbox=RECORD.
    Rootless Podman reads the hook from this user's containers.conf.d.  If root runs this
    command, the hook of root's Podman is written, for 'sudo podman run'.

    toolbox, distrobox: a record of that name, and a command of that name in
    ~/.local/bin, which precedes the original command in PATH.  These boxes share your
    home directory and sockets: their windows have a label, but there is no boundary.

    libvirt: a qemu hook, which root must install (also for qemu:///session), for domains
    that a record names with [peer] libvirt = "DOMAIN".  libvirtd reads hooks when it
    starts.

    flatpak --app APP: replaces the permissions of an installed application, so that it
    has a display and sound only under 'brokerctl run --flatpak APP', and its menu
    entries, so that they run this command.
    """
    chosen = setup_of(program)
    _check_app(chosen, app)
    chosen.install(SetupWords(uid, app or "", as_json))


@command.command("remove")
@click.argument("program", type=_PROGRAM)
@click.option("--app", metavar="APP", help="For flatpak: ID of the application.")
def remove(program: str, *, app: str | None) -> None:
    """Remove the files that 'install' wrote, except the record of a box.

    flatpak --app APP: restore the permissions and menu entries that the application had
    before 'install' or 'brokerctl run' replaced them.
    """
    chosen = setup_of(program)
    _check_app(chosen, app)
    chosen.remove(app or "")


def remove_files() -> None:
    """Remove what 'install' wrote for podman, toolbox and distrobox, if anything."""
    for program in ("podman", "distrobox", "toolbox"):
        try:
            setup_of(program).remove("")
        except AbsentPartError as error:
            render.note(f"cannot look for files of {program}: {error}; {error.hint}")


def _check_app(chosen: Setup, app: str | None) -> None:
    if chosen.of_an_app != (app is not None):
        raise click.UsageError(
            "flatpak requires --app APP"
            if chosen.of_an_app
            else "--app can be used only with flatpak"
        )
