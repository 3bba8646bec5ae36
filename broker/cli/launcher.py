"""``brokerctl launcher``: make other programs' sandboxes start with their lease."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.machines.flatpak import install_flatpak, remove_flatpak
from broker.cli.machines.libvirt import install_libvirt, prepare, remove_libvirt
from broker.cli.machines.rootful import install_rootful
from broker.cli.machines.setup import hook_written, setup_errors
from broker.cli.run.shared_box import opener_files, run_shared_box, write_opener
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.core.paths import find_paths
from broker.host.launchers.podman.containers_conf import (
    DROP_IN,
    ROOTFUL_CONF,
    name_hooks,
)
from broker.host.launchers.podman.hooks import (
    PROGRAM,
    hook_files,
    rootful_files,
    write_hooks,
)
from policy.records.loader import FOLDER, search_path

_BOXES = {"toolbox": "toolbox", "distrobox": "distrobox-enter"}
"""The program of each that starts commands in a box."""
_COLOURS = {"toolbox": "grey", "distrobox": "purple"}
_PROGRAMS = click.Choice(["flatpak", "libvirt", "podman", *sorted(_BOXES)])
_WRAPPER = """\
#!/bin/sh
# Written by 'brokerctl launcher install {program}'; 'launcher remove' removes it.
exec brokerctl launcher exec {program} {real} "$@"
"""
_BOX_RECORD = """\
# Written by 'brokerctl launcher install {program}'.  A label, not a boundary: programs
# in a box can reach your files and your sockets.
class = "disposable"
display = "allow"
tags = ["box"]
[label]
name = "{program}"
colour = "{colour}"
[audio]
playback = "allow"
microphone = "deny"
[launch]
kind = "shared-box"
"""


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
    _check_app(program, app)
    if app is not None:
        install_flatpak(app, as_json=as_json)
        return
    if program == "libvirt":
        install_libvirt(uid, as_json=as_json)
        return
    if program != "podman":
        _install_box(program, as_json=as_json)
        return
    if os.geteuid() == 0:
        install_rootful(uid, as_json=as_json)
        return
    paths = find_paths()
    folder, conf = _hooks_folder(), _drop_in()
    control, records = paths.control, search_path(paths.runtime, paths.config)
    with hook_written():
        written = write_hooks(folder, _program(), control, records)
        other = name_hooks(folder, conf)
        if other is None:
            written.append(conf)
    render.written_files(written, as_json=as_json, add_to=other)
    if as_json:
        return
    if other is not None:
        render.note(f"add this directory to hooks_dir in {other}: {folder}")
    render.note("try it: podman run --annotation io.vitrail.sandbox=RECORD …")


@command.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("kind", type=click.Choice(sorted(_BOXES)))
@click.argument("program", type=click.Path(path_type=Path, exists=True))
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def run_box(kind: str, program: Path, words: tuple[str, ...]) -> None:
    """Run PROGRAM, a real toolbox or distrobox, with the sockets of a label."""
    sys.exit(run_shared_box(kind, program, words))


def _install_box(program: str, *, as_json: bool) -> None:
    name = _BOXES[program]
    wrapper = _wrapper(program)
    real = _real(name, wrapper)
    record = find_paths().config[0] / FOLDER / f"{program}.toml"
    written = [wrapper]
    with setup_errors(f"{program} cannot be set up"):
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not record.exists():
            text = _BOX_RECORD.format(program=program, colour=_COLOURS[program])
            record.write_text(text)
            written.append(record)
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        text = _WRAPPER.format(program=program, real=shlex.quote(str(real)))
        replace_file(wrapper, text.encode(), mode=0o755)
        written.append(write_opener())
    render.written_files(written, as_json=as_json)
    if not as_json:
        render.note(
            f"{program} gives a label, not a boundary; see docs/launchers/boxes.md"
        )


def _wrapper(program: str) -> Path:
    return Path.home() / ".local" / "bin" / _BOXES[program]


def _real(name: str, wrapper: Path) -> Path:
    """The program that our wrapper replaces.  Raises SetupError when there is none."""
    folders = [
        folder
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
        if Path(folder).resolve() != wrapper.parent.resolve()
    ]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise SetupError(f"{name} is not installed", hint="install its package first")
    return Path(found)


@command.command("remove")
@click.argument("program", type=_PROGRAMS)
@click.option("--app", metavar="APP", help="flatpak: the application's ID.")
def remove(program: str, *, app: str | None) -> None:
    """Remove what 'install' wrote; a record of a box stays.

    flatpak --app APP: give an application back the permissions that it had before
    'install', or 'brokerctl run' of it, replaced them, and its menu entries.
    """
    _check_app(program, app)
    if app is not None:
        remove_flatpak(app)
        return
    if program == "libvirt":
        remove_libvirt()
        return
    remove_files(program)


def remove_files(program: str) -> None:
    """Remove what 'install' wrote for podman, toolbox or distrobox, if anything."""
    paths = [*hook_files(_hooks_folder()), _program(), _drop_in()]
    if program == "podman" and os.geteuid() == 0:
        paths = [*rootful_files(), ROOTFUL_CONF]
    if program != "podman":
        paths = [_wrapper(program)]
        if not any(_wrapper(other).exists() for other in _BOXES if other != program):
            paths += opener_files()
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        render.note(f"removed {path}")


def _check_app(program: str, app: str | None) -> None:
    if (program == "flatpak") != (app is not None):
        raise click.UsageError(
            "--app APP is required for flatpak, and only for flatpak"
        )


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _hooks_folder() -> Path:
    return _config_home() / "containers" / "oci" / "hooks.d"


def _drop_in() -> Path:
    return _config_home() / "containers" / "containers.conf.d" / DROP_IN


def _program() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "vitrail" / PROGRAM
