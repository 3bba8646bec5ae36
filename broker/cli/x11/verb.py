"""``brokerctl x11``: X11 programs in a container or session that has only Wayland."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import rich_click as click

from broker.cli.transfer.named_path import NamedPath
from broker.core.distribution import install_command
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.ipc.sealed_memfd import sealed
from shims.bundle import x11_bridge


@click.command("x11", context_settings={"allow_interspersed_args": False})
@click.option(
    "--write",
    type=NamedPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the program to FILE, for use in a container; run nothing.",
)
@click.argument("command_words", metavar="[-- COMMAND…]", nargs=-1)
def command(write: Path | None, command_words: tuple[str, ...]) -> None:
    """Run COMMAND with an X server that shows windows on this Wayland display.

    The X server is a rootless Xwayland, which starts when the first X11 program connects.
    It shows windows on WAYLAND_DISPLAY and needs no privileges: run it where COMMAND runs.

    With --write, write the program to a file instead: in a container, it needs only
    Python 3.9 and Xwayland.
    """
    if write is not None:
        write_bridge(write)
        return
    if not command_words:
        raise click.UsageError("COMMAND is missing: brokerctl x11 -- COMMAND…")
    program, words = bridge_here()
    os.set_inheritable(program, True)  # noqa: FBT003
    argv = [*words, *command_words]
    os.execv(argv[0], argv)  # noqa: S606 -- it takes our place


def bridge_here() -> tuple[int, list[str]]:
    """Return a descriptor of the bridge, and words that start it before a command.

    The process that they start inherits the descriptor.  Raises as ``require_xwayland``.
    """
    require_xwayland()
    program = sealed([x11_bridge()])
    script = f"/proc/self/fd/{program}"
    return program, [sys.executable, "-I", "-S", "-B", script, "--"]


def require_xwayland() -> None:
    """Raise SetupError where this machine has no Xwayland."""
    if shutil.which("Xwayland") is None:
        raise SetupError(
            "cannot run X11 programs: Xwayland is not installed",
            hint=install_command("xwayland"),
        )


def write_bridge(file: Path) -> Path:
    """Write the bridge to a file that a container runs; returns it.  Raises OSError."""
    replace_file(file, x11_bridge(), mode=0o755)
    return file
