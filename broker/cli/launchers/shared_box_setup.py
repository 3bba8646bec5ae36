"""``brokerctl launcher install toolbox`` and ``distrobox``: a record and a command."""

from __future__ import annotations

import os
import shlex
import shutil
from functools import partial
from pathlib import Path

from broker.cli import render
from broker.cli.launchers.setup import Setup, SetupWords, remove_files, setup_errors
from broker.cli.launchers.shared_box import (
    BOXES,
    BoxProgram,
    opener_files,
    write_opener,
)
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.core.paths import find_paths
from policy.records.loader import FOLDER

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


def _install_box(box: BoxProgram, words: SetupWords) -> None:
    program = box.name
    wrapper = _wrapper(box)
    real = _real(box.command, wrapper)
    record = find_paths().config[0] / FOLDER / f"{program}.toml"
    written = [wrapper]
    with setup_errors(f"cannot set up {program}"):
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
            f"boxes of {program} are labels, not boundaries; see docs/launchers/boxes.md"
        )


def _wrapper(box: BoxProgram) -> Path:
    return Path.home() / ".local" / "bin" / box.command


def _real(name: str, wrapper: Path) -> Path:
    """Return the program that our wrapper replaces.

    Raises SetupError when none exists.
    """
    folders = [
        folder
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
        if Path(folder).resolve() != wrapper.parent.resolve()
    ]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise SetupError(
            f"{name} is not installed",
            hint=f"install the package of {name}, and run the command again",
        )
    return Path(found)


def _remove_box(box: BoxProgram, _app: str) -> None:
    paths = [_wrapper(box)]
    if not any(_wrapper(other).exists() for other in BOXES.values() if other != box):
        paths += opener_files()
    remove_files(paths)


BOX_SETUPS = {
    box.name: Setup(box.name, partial(_install_box, box), partial(_remove_box, box))
    for box in BOXES.values()
}
"""By the program's name."""
