"""*Open in a sandbox* in the menus of file managers, and among the default programs.

The files are the user's own.  Each has the whole path of this brokerctl, because a desktop
has another PATH than a shell.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from broker.cli.policy.install import put
from broker.cli.policy.records import EXAMPLES
from broker.cli.sandboxes.desktop_entry import (
    brokerctl_program,
    config_home,
    quoted,
)
from broker.core.errors import RefusedError
from broker.session.menu_icons import data_home

_SHIPPED: Final = EXAMPLES.parent / "desktop"
_OPEN: Final = "io.vitrail.Open.desktop"
_COMMAND: Final = "brokerctl menu open"
_THUNAR: Final = Path("Thunar/uca.xml")
_ACTION: Final = re.compile(
    r"<action>(?:(?!</action>).)*<unique-id>io-vitrail-open</unique-id>.*?</action>\s*",
    re.DOTALL,
)
_EMPTY: Final = '<?xml version="1.0" encoding="UTF-8"?>\n<actions>\n</actions>\n'


def write_file_managers() -> list[Path]:
    """Write the entries of the file managers that are installed; return the files.

    Raises RefusedError.
    """
    written = []
    for program, path, shipped in _files():
        if not program or shutil.which(program):
            # Dolphin and Nautilus run no entry of a user that is not executable.
            put(path, _with_program(shipped, path), mode=0o755 if program else 0o644)
            written.append(path)
    if shutil.which("thunar"):
        path = config_home() / _THUNAR
        put(path, _with_action(path).encode())
        written.append(path)
    return written


def file_manager_entries() -> Iterator[Path]:
    """Yield the entries that are there and ours alone: Thunar's file has the user's, too."""
    return (path for _, path, _ in _files() if path.is_file())


def forget_thunar_action() -> None:
    """Take our action out of Thunar's file of actions."""
    path = config_home() / _THUNAR
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if (left := _ACTION.sub("", text)) != text:
            put(path, left.encode())


def _files() -> tuple[tuple[str, Path, str], ...]:
    """Return file manager, path and shipped file of each entry of its own."""
    data = data_home()
    return (
        ("", data / "applications" / _OPEN, _OPEN),
        (
            "nautilus",
            data / "nautilus/scripts/Open in a sandbox",
            "nautilus-open-in-a-sandbox",
        ),
        (
            "dolphin",
            data / "kio/servicemenus" / _OPEN,
            "io.vitrail.Open.dolphin.desktop",
        ),
    )


def _with_program(shipped: str, path: Path) -> bytes:
    """Return a shipped entry that runs this brokerctl."""
    quote = quoted if path.suffix == ".desktop" else shlex.quote
    command = f"{quote(brokerctl_program())} menu open"
    text = (_SHIPPED / shipped).read_text(encoding="utf-8")
    return text.replace(_COMMAND, command).encode()


def _with_action(path: Path) -> str:
    """Return Thunar's actions, the user's or else the machine's, with ours as the last."""
    found = (one for one in (path, Path("/etc/xdg") / _THUNAR) if one.is_file())
    text = next((one.read_text(encoding="utf-8") for one in found), _EMPTY)
    action = (_SHIPPED / "thunar-action.xml").read_text(encoding="utf-8")
    command = f"{shlex.quote(brokerctl_program())} menu open"
    action = action.replace(_COMMAND, escape(command))
    head, end, tail = _ACTION.sub("", text).rpartition("</actions>")
    if not end:
        raise RefusedError(
            f"{path} has no end of actions",
            hint="correct the file, or move it away, and try again",
        )
    return f"{head}{action}{end}{tail}"
