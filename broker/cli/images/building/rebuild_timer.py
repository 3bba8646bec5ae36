"""Enable and disable the user timer that rebuilds guest images."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from broker.cli.sandboxes.desktop_entry import brokerctl_program
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.spawn import run_tool

TIMER = "vitrail-image-rebuild.timer"
SERVICE = "vitrail-image-rebuild.service"


def unit_directory(environ: Mapping[str, str]) -> Path:
    """Return where a user's own units are (systemd.unit(5))."""
    home = Path(environ.get("HOME", "/"))
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "systemd/user"


def write_units(directory: Path, brokerctl: str) -> None:
    """Write both systemd units so that they run this brokerctl."""
    directory.mkdir(parents=True, exist_ok=True)
    source = resources.files("broker") / "data/systemd/user"
    for name in (SERVICE, TIMER):
        text = (source / name).read_text()
        # '%' begins a specifier in a unit file.
        program = shlex.quote(brokerctl).replace("%", "%%")
        text = text.replace("ExecStart=brokerctl ", f"ExecStart={program} ")
        (directory / name).write_text(text)


def remove_units(directory: Path) -> None:
    """Remove both units, if they are there."""
    for name in (SERVICE, TIMER):
        (directory / name).unlink(missing_ok=True)


async def switch_timer(state: str) -> str:
    """Switch the timer ``on`` or ``off``, or return its ``status``.

    Returns a line for a user.  Raises SetupError when no systemd manages
    this user's units.
    """
    directory = unit_directory(os.environ)
    await _systemctl("show", "--property=Version")  # before anything is written
    if state == "on":
        write_units(directory, brokerctl_program())
        await _systemctl("daemon-reload")
        await _systemctl("enable", "--now", TIMER)
        return f"{TIMER} is enabled: it rebuilds all images every week"
    if state == "off":
        await _systemctl("disable", "--now", TIMER)
        remove_units(directory)
        await _systemctl("daemon-reload")
        return f"{TIMER} is disabled"
    fields = ("--property=ActiveState", "--property=NextElapseUSecRealtime")
    shown = await _systemctl("show", TIMER, *fields)
    return shown.strip().replace("\n", ", ")


async def _systemctl(*words: str) -> str:
    try:
        said = await run_tool(["systemctl", "--user", *words])
    except UpstreamError as error:
        raise SetupError(
            f"cannot manage {TIMER} with systemd: {error.message}",
            hint="without systemd, run 'brokerctl image rebuild' from cron",
        ) from error
    return said.decode(errors="replace")
