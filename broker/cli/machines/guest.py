"""``brokerctl guest``: install the agent in guests that Vitrail did not build."""

from __future__ import annotations

import hashlib
import shlex
import sys
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.core.paths import find_paths
from shims.bundle import (
    INSTALLER,
    MINIMAL_INSTALLER,
    BundleError,
    guest_installer,
    minimal_installer,
)


@click.group("guest")
def command() -> None:
    """Install the agent in virtual machines that Vitrail did not build."""


@command.command("install")
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write the installer to this file; '-' is standard output [default: the cache].",
)
@click.option(
    "--minimal",
    is_flag=True,
    help="Write the installer of the agent in C, for a guest without Python.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def install(*, output: str | None, minimal: bool, as_json: bool) -> None:
    """Write the installer of the guest package, and print the command that runs it.

    The installer is a shell script for Debian, Fedora, Arch and Alpine that contains all
    programs as text.  The guest needs Python 3.9 and waypipe 0.8 or later; the script
    installs them with apt, dnf, pacman or apk if possible.

    With --minimal, the guest needs waypipe alone: the agent is one static program of some
    30 KB. It starts programs, shows windows, plays sound, opens addresses, and receives
    and sends files; it has no folders, calls, notifications, dialogs or devices.
    """
    content = _minimal() if minimal else guest_installer()
    name = MINIMAL_INSTALLER if minimal else INSTALLER
    if output == "-":
        sys.stdout.write(content.decode())
        return
    path = find_paths().cache / name if output is None else Path(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, mode=0o755)
    except OSError as error:
        raise SetupError(
            f"cannot write the installer: {error.strerror}",
            where=str(path),
            hint="specify another file with --output",
        ) from error
    command_line = f"ssh root@GUEST sh -s < {shlex.quote(str(path))}"
    if as_json:
        digest = hashlib.sha256(content).hexdigest()
        render.json_line({"file": str(path), "sha256": digest, "command": command_line})
        return
    render.note(f"wrote {path} ({len(content) // 1024} KiB)")
    render.note(f"to run the installer in the guest: {command_line}")
    render.note(f"or copy it to the guest, and run as root: sh {name}")


def _minimal() -> bytes:
    """Return the installer of the agent in C.  Raises SetupError if it was not built."""
    try:
        return minimal_installer()
    except BundleError as error:
        raise SetupError(
            str(error),
            hint="install gcc and python3-dev, and install Vitrail again",
        ) from error
