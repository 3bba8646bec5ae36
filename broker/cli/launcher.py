"""``brokerctl launcher``: make other programs' sandboxes start with their lease."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.launchers.flatpak_setup import install_flatpak, remove_flatpak
from broker.cli.launchers.libvirt import install_libvirt, prepare, remove_libvirt
from broker.cli.launchers.podman_rootful import install_rootful
from broker.cli.launchers.setup import hook_written, setup_errors
from broker.cli.launchers.shared_box import (
    BOXES,
    BoxProgram,
    opener_files,
    run_shared_box,
    write_opener,
)
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

_PROGRAMS = click.Choice(["flatpak", "libvirt", "podman", *sorted(BOXES)])
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


@dataclass(frozen=True)
class _Words:
    """The words of 'install'; ``app`` is empty where there is none."""

    uid: int | None
    app: str
    as_json: bool


@dataclass(frozen=True)
class _Launcher:
    """A program whose sandboxes can be set up; ``remove`` gets the application."""

    name: str
    install: Callable[[_Words], None]
    remove: Callable[[str], None]
    of_an_app: bool = False


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
    chosen = _LAUNCHERS[program]
    _check_app(chosen, app)
    chosen.install(_Words(uid, app or "", as_json))


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


def _install_box(box: BoxProgram, words: _Words) -> None:
    program = box.name
    wrapper = _wrapper(box)
    real = _real(box.command, wrapper)
    record = find_paths().config[0] / FOLDER / f"{program}.toml"
    written = [wrapper]
    with setup_errors(f"{program} cannot be set up"):
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not record.exists():
            text = _BOX_RECORD.format(program=program, colour=box.colour)
            record.write_text(text)
            written.append(record)
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        text = _WRAPPER.format(program=program, real=shlex.quote(str(real)))
        replace_file(wrapper, text.encode(), mode=0o755)
        written.append(write_opener())
    render.written_files(written, as_json=words.as_json)
    if not words.as_json:
        render.note(
            f"{program} gives a label, not a boundary; see docs/launchers/boxes.md"
        )


def _wrapper(box: BoxProgram) -> Path:
    return Path.home() / ".local" / "bin" / box.command


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
    chosen = _LAUNCHERS[program]
    _check_app(chosen, app)
    chosen.remove(app or "")


def remove_files() -> None:
    """Remove what 'install' wrote for podman, toolbox and distrobox, if anything."""
    for name in (_PODMAN.name, *sorted(BOXES)):
        _LAUNCHERS[name].remove("")


def _remove_podman() -> None:
    paths = [*hook_files(_hooks_folder()), _program(), _drop_in()]
    _remove([*rootful_files(), ROOTFUL_CONF] if os.geteuid() == 0 else paths)


def _remove_box(box: BoxProgram, _app: str) -> None:
    paths = [_wrapper(box)]
    if not any(_wrapper(other).exists() for other in BOXES.values() if other != box):
        paths += opener_files()
    _remove(paths)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        render.note(f"removed {path}")


def _check_app(chosen: _Launcher, app: str | None) -> None:
    if chosen.of_an_app != (app is not None):
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


def _install_podman(words: _Words) -> None:
    if os.geteuid() == 0:
        install_rootful(words.uid, as_json=words.as_json)
        return
    paths = find_paths()
    folder, conf = _hooks_folder(), _drop_in()
    control, records = paths.control, search_path(paths.runtime, paths.config)
    with hook_written():
        written = write_hooks(folder, _program(), control, records)
        other = name_hooks(folder, conf)
        if other is None:
            written.append(conf)
    render.written_files(written, as_json=words.as_json, add_to=other)
    if words.as_json:
        return
    if other is not None:
        render.note(f"add this directory to hooks_dir in {other}: {folder}")
    render.note("try it: podman run --annotation io.vitrail.sandbox=RECORD …")


_FLATPAK = _Launcher(
    "flatpak",
    lambda words: install_flatpak(words.app, as_json=words.as_json),
    remove_flatpak,
    of_an_app=True,
)
_LIBVIRT = _Launcher(
    "libvirt",
    lambda words: install_libvirt(words.uid, as_json=words.as_json),
    lambda _app: remove_libvirt(),
)
_PODMAN = _Launcher("podman", _install_podman, lambda _app: _remove_podman())
_LAUNCHERS = {
    row.name: row
    for row in (
        *(_FLATPAK, _LIBVIRT, _PODMAN),
        *(
            _Launcher(box.name, partial(_install_box, box), partial(_remove_box, box))
            for box in BOXES.values()
        ),
    )
}
"""What 'install' and 'remove' do, by the program's name."""
