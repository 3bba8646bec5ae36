"""``brokerctl launcher install toolbox`` and ``distrobox``: a record and a command."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path

from broker.cli import render
from broker.cli.launchers.box_entries import replace_all
from broker.cli.launchers.setup import Setup, SetupWords, remove_files, setup_errors
from broker.cli.launchers.shared_box import (
    BOXES,
    BoxProgram,
    commands,
    opener_files,
    program_behind,
    write_opener,
)
from broker.cli.sandboxes.desktop_entry import brokerctl_program
from broker.core.errors import SetupError
from broker.core.files.replace_file import replace_file
from broker.core.paths import find_paths
from policy.records.loader import FOLDER

_WRAPPER = """\
#!/bin/sh
# Written by 'brokerctl launcher install {program}'; 'launcher remove' removes it.
exec {brokerctl} launcher exec {program} {real} "$@"
"""
_FRONT = """\
#!/bin/sh
# Written by 'brokerctl launcher install distrobox'; 'launcher remove' removes it.
if [ "$1" = enter ]; then
    shift
    exec {wrapper} "$@"
fi
exec {real} "$@"
"""
"""distrobox itself would start the distrobox-enter that is beside it."""
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
    """Write a program's record, wrapper and starters; print what was written."""
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
        # By its whole path: the menu has another PATH than a shell.
        ours = shlex.quote(brokerctl_program())
        quoted = shlex.quote(str(real))
        text = _WRAPPER.format(program=program, real=quoted, brokerctl=ours)
        replace_file(wrapper, text.encode(), mode=0o755)
        written += [*_write_front(box, wrapper), write_opener()]
        written += replace_all(partial(_is_program, real), wrapper)
    render.written_files(written, as_json=words.as_json)
    if not words.as_json:
        render.note(
            f"boxes of {program} are labels, not boundaries; see "
            "docs/launchers/boxes.md"
        )


def _wrapper(box: BoxProgram) -> Path:
    return commands() / box.command


def _write_front(box: BoxProgram, wrapper: Path) -> list[Path]:
    """Write a command for 'distrobox enter', where there is a distrobox."""
    real = program_behind(box.name, wrapper.parent)
    if box.name == box.command or real is None:
        return []
    path = wrapper.with_name(box.name)
    text = _FRONT.format(wrapper=shlex.quote(str(wrapper)), real=shlex.quote(str(real)))
    replace_file(path, text.encode(), mode=0o755)
    return [path]


def _real(name: str, wrapper: Path) -> Path:
    """Return the program that our wrapper replaces.

    Raises SetupError when none exists.
    """
    found = program_behind(name, wrapper.parent)
    if found is None:
        raise SetupError(
            f"{name} is not installed",
            hint=f"install the package of {name}, and run the command again",
        )
    return found


def _is_program(program: Path, word: str) -> bool:
    """Return whether the first word of an Exec line starts a program."""
    if "/" not in word:
        return word == program.name
    return os.path.realpath(word) == os.path.realpath(program)


def _remove_box(box: BoxProgram, _app: str) -> None:
    wrapper = _wrapper(box)
    real = program_behind(box.command, wrapper.parent) or Path(box.command)
    with setup_errors(f"cannot restore menu entries of {box.name}"):
        for path in replace_all(str(wrapper).__eq__, real):
            render.note(f"restored {path}")
    front = wrapper.with_name(box.name)
    paths = [wrapper]
    if front != wrapper and _is_ours(front):
        paths.append(front)
    if not any(_wrapper(other).exists() for other in BOXES.values() if other != box):
        paths += opener_files()
    remove_files(paths)


def _is_ours(path: Path) -> bool:
    """Return whether 'launcher install' wrote a command."""
    try:
        return b"Written by 'brokerctl launcher install" in path.read_bytes()[:200]
    except FileNotFoundError:
        return False


BOX_SETUPS = {
    box.name: Setup(box.name, partial(_install_box, box), partial(_remove_box, box))
    for box in BOXES.values()
}
"""By the program's name."""
