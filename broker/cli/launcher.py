"""``brokerctl launcher``: make other programs' sandboxes start with their lease."""

from __future__ import annotations

import os
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.launcher_libvirt import install_libvirt, prepare, remove_libvirt
from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.launch.podman.hooks import PROGRAM, hook_files, write_hooks
from policy.records.loader import search_path

_DROP_IN = "50-vitrail.conf"
_DEFAULT_HOOKS = ("/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d")


@click.group("launcher")
def command() -> None:
    """Set up Podman and libvirt so that Vitrail shows their windows."""


command.add_command(prepare)


@command.command("install")
@click.argument("program", type=click.Choice(["libvirt", "podman"]))
@click.option(
    "--uid",
    type=click.IntRange(min=1),
    help="libvirt: the user whose broker qemu:///system reports to; default: who "
    "called sudo.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def install(program: str, *, uid: int | None, as_json: bool) -> None:
    """Install what PROGRAM calls when it starts a sandbox.

    podman: an OCI hook for containers with the annotation io.vitrail.sandbox=RECORD.
    Rootless Podman reads it from this user's containers.conf.d.

    libvirt: a qemu hook (root installs it, for qemu:///session too) for domains
    that a record names by [peer] libvirt = "DOMAIN".  libvirtd looks for hooks at
    its start.
    """
    if program == "libvirt":
        install_libvirt(uid, as_json=as_json)
        return
    paths = find_paths()
    folder, conf = _hooks_folder(), _drop_in()
    control, records = paths.control, search_path(paths.runtime, paths.config)
    try:
        written = write_hooks(folder, _program(), control, records)
        other = _other_setting(conf)
        if other is None:
            conf.parent.mkdir(parents=True, exist_ok=True)
            conf.write_text(_engine(folder))
            written.append(conf)
    except OSError as error:
        raise SetupError(
            f"the hook cannot be installed: {error.strerror}",
            where=str(error.filename or ""),
        ) from error
    if as_json:
        words = [str(path) for path in written]
        render.json_line({"written": words, "add_to": other and str(other)})
        return
    for path in written:
        render.note(f"wrote {path}")
    if other is not None:
        render.note(f"add this directory to hooks_dir in {other}: {folder}")
    render.note("try it: podman run --annotation io.vitrail.sandbox=RECORD …")


@command.command("remove")
@click.argument("program", type=click.Choice(["libvirt", "podman"]))
def remove(program: str) -> None:
    """Remove what 'install' wrote."""
    if program == "libvirt":
        remove_libvirt()
        return
    for path in (*hook_files(_hooks_folder()), _program(), _drop_in()):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        render.note(f"removed {path}")


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _hooks_folder() -> Path:
    return _config_home() / "containers" / "oci" / "hooks.d"


def _drop_in() -> Path:
    return _config_home() / "containers" / "containers.conf.d" / _DROP_IN


def _program() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "vitrail" / PROGRAM


def _engine(folder: Path) -> str:
    listed = ", ".join(f'"{path}"' for path in (*_DEFAULT_HOOKS, folder))
    return (
        "# Written by 'brokerctl launcher install podman'.\n"
        f"[engine]\nhooks_dir = [{listed}]\n"
    )


def _other_setting(ours: Path) -> Path | None:
    """The file that Podman reads in place of ours, or that sets hooks_dir itself."""
    alone = os.environ.get("CONTAINERS_CONF")
    if alone:
        return Path(alone)
    main = ours.parent.parent / "containers.conf"
    for path in (main, *sorted(ours.parent.glob("*.conf"))):
        if path == ours:
            continue
        try:
            text = path.read_text("utf-8", "replace")
        except FileNotFoundError:
            continue
        if any(line.strip().startswith("hooks_dir") for line in text.splitlines()):
            return path
    return None
