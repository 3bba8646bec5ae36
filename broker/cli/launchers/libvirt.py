"""``brokerctl launcher`` for libvirt: its hook, and the vsock of its domains."""

from __future__ import annotations

import os

import rich_click as click

from broker.cli import render
from broker.cli.launchers.adoption.domain_folders import with_places
from broker.cli.launchers.adoption.domains import (
    NAME_CHARS,
    confirmed,
    define,
    description,
    show_change,
)
from broker.cli.launchers.setup import Setup, SetupWords, hook_written, sudo_caller
from broker.cli.policy.records import read_records
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.host.launchers.libvirt.domain import DomainError
from broker.host.launchers.libvirt.hook import (
    FOLDER,
    SETTINGS,
    hook_program,
    install_hook,
)
from policy.records.model import LibvirtPeer, is_of_others


def _install_libvirt(words: SetupWords) -> None:
    """Write libvirt's hook; ``uid``: whose broker the system's libvirtd reports to.

    Raises SetupError.
    """
    uid = words.uid
    if uid is None:
        uid = sudo_caller() or None
    with hook_written("'sudo brokerctl launcher install libvirt'"):
        written = install_hook(uid)
    render.written_files(written, as_json=words.as_json)
    if words.as_json:
        return
    if uid is None:
        render.note(
            "domains of qemu:///system do not report to a broker; to specify the "
            "user whose broker they report to, pass --uid NUMBER"
        )
    render.note(
        "now run 'sudo systemctl restart libvirtd' (or virtqemud); the libvirtd of "
        "a session exits when it is idle"
    )


def _remove_libvirt(_app: str) -> None:
    """Delete libvirt's hooks and their settings.  Raises SetupError."""
    for path in (hook_program(FOLDER), hook_program(FOLDER, "lxc"), SETTINGS):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SetupError(
                f"cannot remove {path}: {error.strerror}",
                hint=(
                    "run 'sudo brokerctl launcher remove libvirt'"
                    if os.geteuid() != 0
                    else ""
                ),
            ) from error
        render.note(f"removed {path}")


@click.command()
@click.argument("domain")
@click.option(
    "--connect",
    default="qemu:///session",
    show_default=True,
    help="Connection URI of libvirt, as for 'virsh --connect'.",
)
@click.option(
    "--yes", is_flag=True, help="Define the domain without asking for confirmation."
)
@click.option("--dry-run", is_flag=True, help="Show the change; write nothing.")
def prepare(domain: str, *, connect: str, yes: bool, dry_run: bool) -> None:
    """Add a vsock to the libvirt DOMAIN, with which its guest connects to the broker.

    And a virtiofs device for each folder that its record lists in [folders] or counts
    by 'folders' in [launch]; such a domain starts only while the broker runs.

    Show the change of the XML, and ask before 'virsh define'.  The change takes effect
    at the next start of the domain.

    Exit code: 0 done (also if no change is needed), 1 refused.
    """
    old = description(connect, domain)
    paths = offline_paths()
    try:
        record = record_of(paths, domain, old)
        if record is None:
            raise RefusedError(
                f"no record names domain '{printable(domain, NAME_CHARS)}'",
                hint="to write one and prepare the domain, run 'brokerctl adopt "
                f'"{domain}"\'',
            )
        new = with_places(paths, read_records(paths).records[record], connect, old)
    except DomainError as error:
        raise RefusedError(
            f"cannot prepare domain '{printable(domain, NAME_CHARS)}': {error}"
        ) from error
    if new is None:
        render.note(
            f"domain '{printable(domain, NAME_CHARS)}' already has this vsock; "
            "nothing was changed"
        )
        return
    show_change(old, new)
    if dry_run or not confirmed("Define the domain with this change?", yes=yes):
        return
    define(connect, new)
    render.note(
        f"defined domain '{printable(domain, NAME_CHARS)}'; the vsock takes effect "
        "at its next start"
    )


def record_of(paths: Paths, domain: str, xml: str) -> str | None:
    """Return the record about the domain, whose directory has the helper's socket."""
    for record in read_records(paths).records.values():
        launch = record.host.launch
        if is_of_others(launch) and isinstance(launch.peer, LibvirtPeer):
            name = launch.peer.domain
            if name == domain or f"<uuid>{name}</uuid>" in xml:
                return record.name
    return None


LIBVIRT_SETUP = Setup("libvirt", _install_libvirt, _remove_libvirt)
