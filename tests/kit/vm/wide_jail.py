"""A wider jail for a script that stands for a program without further files.

A script is run by an interpreter, so a ``bwrap`` in front of the real one adds what that
reads, and leaves the system-call filter away, which lets the program start no other.
"""

from __future__ import annotations

import shutil
from pathlib import Path

_BWRAP = """\
#!/usr/bin/python3 -I
import os, sys
arguments = sys.argv[1:]
if "{program}" in arguments and "--seccomp" in arguments:
    index = arguments.index("--seccomp")
    del arguments[index : index + 2]
    index = arguments.index("--remount-ro")
    arguments[index:index] = {more}
os.execv("{bwrap}", ["bwrap", *arguments])
"""


def widen_jail(program: Path, more: list[str]) -> None:
    """Write a bwrap to the directory of ``program``; it adds ``more`` to its jail."""
    bwrap = _BWRAP.format(program=program, more=more, bwrap=shutil.which("bwrap"))
    _write(program.with_name("bwrap"), bwrap)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
