"""libvirt's domains for brokerctl: list them, read one, define one after a confirmation."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import rich_click as click
import trio

from broker.cli import render
from broker.core.distribution import install_command
from broker.core.errors import RefusedError, SetupError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.helpers.process.spawn import run_tool
from broker.host.launchers.libvirt.domain import VsockWay, normalised
from broker.host.vmm.hosttools import kernel_vsock_usable

CONNECTIONS = ("qemu:///session", "qemu:///system")
VHOST_VSOCK = Path("/dev/vhost-vsock")
_SECRET = re.compile(r"""(passwd=)("[^"]*"|'[^']*')""")
_UUID_CHARS = 36
NAME_CHARS = 60


@dataclass(frozen=True)
class DefinedDomain:
    """A domain that libvirt keeps; ``saved``: its next start resumes a saved state."""

    connect: str
    uuid: str
    name: str
    running: bool
    saved: bool

    @property
    def shown(self) -> str:
        """Return its name for messages."""
        return printable(self.name, NAME_CHARS)


def virsh(connect: str, *words: str) -> str:
    """Return the output of virsh.  Raises RefusedError, or SetupError without virsh."""
    if shutil.which("virsh") is None:
        raise SetupError(
            "virsh is not installed", hint=install_command("libvirt-clients")
        )

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
            hint=(
                "to list the domains, run 'brokerctl adopt'"
                if "dumpxml" in words
                else ""
            ),
        ) from error


def list_domains(connections: tuple[str, ...]) -> list[DefinedDomain]:
    """Return the kept domains of each connection; print why one cannot be listed.

    Raises the last reason if none can be.
    """
    found: list[DefinedDomain] = []
    failed: list[VitrailError] = []
    for connect in connections:
        try:
            found += _domains(connect)
        except RefusedError as error:
            failed.append(error)
            render.note(f"cannot list the domains of {connect}: {error.message}")
    if len(failed) == len(connections):
        raise failed[-1]
    return found


def _domains(connect: str) -> list[DefinedDomain]:
    """Return the kept domains of a connection, by four runs of virsh(1)."""

    def listed(*words: str) -> list[str]:
        text = virsh(connect, "list", "--persistent", "--uuid", *words)
        return [line.strip() for line in text.splitlines() if line.strip()]

    running = {*listed("--state-running"), *listed("--state-paused")}
    saved = set(listed("--all", "--with-managed-save"))
    lines = listed("--all", "--name")
    uuids = [(line[:_UUID_CHARS], line[_UUID_CHARS:].strip()) for line in lines]
    return [
        DefinedDomain(connect, uuid, name, uuid in running, uuid in saved)
        for uuid, name in uuids
    ]


def description(connect: str, domain: str) -> str:
    """Return the XML with which a domain starts next.  Raises RefusedError."""
    # With its passwords: 'virsh define' would remove those that the XML lacks.
    words = ("dumpxml", "--inactive", "--security-info", "--", domain)
    return virsh(connect, *words)


def vsock_way(paths: Paths, record: str, connect: str) -> VsockWay:
    """Return how a record's domain gets its vsock: by the kernel or a helper's socket."""
    if domain_vsock_usable(connect):
        return VsockWay(None)
    return VsockWay(
        paths.runtime / "libvirt" / record / "vsock" / "vhost.sock",
        (os.getuid(), os.getgid()) if is_systems(connect) else None,
    )


def domain_vsock_usable(connect: str) -> bool:
    """Return whether domains of a connection can use the kernel's vsock device."""
    if is_systems(connect):
        return VHOST_VSOCK.exists()  # its libvirtd opens the device, as root
    return kernel_vsock_usable(VHOST_VSOCK)


def is_systems(connect: str) -> bool:
    """Return whether a connection leads to the system's libvirtd."""
    # https://libvirt.org/uri.html: the path says whose libvirtd it is.
    return urlsplit(connect).path == "/system"


def show_change(old: str, new: str) -> None:
    """Print what changes in a domain's XML."""
    lines = difflib.unified_diff(
        normalised(old).splitlines(), new.splitlines(), "now", "then", lineterm=""
    )
    for line in lines:
        # guard: a domain's passwords are not printed
        shown = _SECRET.sub(r"\1'…'", line)
        sys.stdout.write(f"{printable(shown, 400)}\n")


def confirmed(question: str, *, yes: bool) -> bool:
    """Return whether the user confirms.  Raises RefusedError without a terminal."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise RefusedError(
            "cannot ask for confirmation: standard input is not a terminal",
            hint="pass --yes to confirm, or --dry-run to only show the change",
        )
    return click.confirm(question, default=False, err=True)


def define(connect: str, xml: str) -> None:
    """Have libvirt keep the XML as its domain's.  Raises RefusedError."""
    with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as file:
        file.write(xml)
        file.flush()
        virsh(connect, "define", file.name)
