"""``brokerctl launcher`` for libvirt: its hook, and the vsock of its domains."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import rich_click as click
import trio

from broker.cli import render
from broker.cli.launchers.setup import Setup, SetupWords, hook_written, sudo_caller
from broker.cli.policy.records import read_records
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.helpers.process.spawn import run_tool
from broker.host.launchers.libvirt.domain import DomainError, VsockWay, with_vsock
from broker.host.launchers.libvirt.hook import (
    FOLDER,
    SETTINGS,
    hook_program,
    install_hook,
)
from policy.records.model import LibvirtPeer, is_of_others

_VHOST_VSOCK = Path("/dev/vhost-vsock")


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
            "domains of qemu:///system do not report to a broker; to specify the user "
            "whose broker they report to, pass --uid NUMBER"
        )
    render.note(
        "now run 'sudo systemctl restart libvirtd' (or virtqemud); the libvirtd of a "
        "session exits when it is idle"
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
                hint="run 'sudo brokerctl launcher remove libvirt'"
                if os.geteuid() != 0
                else "",
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

    Show the change of the XML, and ask before 'virsh define'.  The change takes effect
    at the next start of the domain.

    Exit code: 0 done (also if no change is needed), 1 refused.
    """
    if shutil.which("virsh") is None:
        raise SetupError(
            "virsh is not installed", hint="sudo apt install libvirt-clients"
        )
    old = _virsh(connect, "dumpxml", "--inactive", "--", domain)
    try:
        new = with_vsock(old, _way(domain, old, connect))
    except DomainError as error:
        raise RefusedError(
            f"cannot prepare domain '{printable(domain, 60)}': {error}"
        ) from error
    if new is None:
        render.note(
            f"domain '{printable(domain, 60)}' already has this vsock; nothing was changed"
        )
        return
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "now", "then", lineterm=""
    )
    for line in lines:
        sys.stdout.write(f"{printable(line, 400)}\n")
    if dry_run or not (
        yes or click.confirm("Define the domain with this change?", default=False)
    ):
        return
    with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as file:
        file.write(new)
        file.flush()
        _virsh(connect, "define", file.name)
    render.note(
        f"defined domain '{printable(domain, 60)}'; the vsock takes effect at its next start"
    )


def _way(domain: str, xml: str, connect: str) -> VsockWay:
    """Return how a domain gets its vsock: by the kernel or by a helper's socket."""
    if _VHOST_VSOCK.exists():
        return VsockWay(None)
    record = _record_of(domain, xml)
    runtime = offline_paths().runtime
    # https://libvirt.org/uri.html: the path says whose libvirtd it is.
    systems = urlsplit(connect).path == "/system"
    return VsockWay(
        runtime / "libvirt" / record / "vsock" / "vhost.sock",
        (os.getuid(), os.getgid()) if systems else None,
    )


def _record_of(domain: str, xml: str) -> str:
    """Return the record about the domain, whose directory has the helper's socket."""
    for record in read_records(offline_paths()).records.values():
        launch = record.host.launch
        if is_of_others(launch) and isinstance(launch.peer, LibvirtPeer):
            name = launch.peer.domain
            if name == domain or f"<uuid>{name}</uuid>" in xml:
                return record.name
    raise RefusedError(
        f"no record names domain '{printable(domain, 60)}'",
        hint=f'write a record with [launch] kind = "external" and [peer] libvirt = "{domain}"',
    )


def _virsh(connect: str, *words: str) -> str:
    async def ask() -> bytes:
        argv = ["virsh", "--quiet", "--connect", connect, *words]
        return await run_tool(
            argv, env=dict(os.environ), deadline=60, output_limit=32 << 20
        )

    try:
        return trio.run(ask).decode("utf-8", "replace")
    except UpstreamError as error:
        raise RefusedError(
            error.message,
            hint="to list the domains, run 'virsh --connect "
            f"{printable(connect, 100)} list --all'"
            if "dumpxml" in words
            else "",
        ) from error


LIBVIRT_SETUP = Setup("libvirt", _install_libvirt, _remove_libvirt)
