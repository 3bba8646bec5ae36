"""What stops which attack, and who would notice: the machinery of the tables.

A guard is a piece of source; ``without`` is the same program without it.  The
named test must fail then.  ``*_guards.py`` are the tables, one for each room:
``python -m tests.kit.ROOM_guards [NAME…]`` turns each guard off in a copy of
the project and says which ones nobody missed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core.errors import UpstreamError
from broker.launch.process.spawn import run_tool

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Guard:
    """``source`` occurs once in ``file``; ``test`` is a path with a -k word."""

    name: str
    file: str
    source: str
    without: str
    test: str
    word: str = ""


async def passes(guard: Guard, directory: Path) -> bool:
    """Whether the guard's test passes, as things are in the copy."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", guard.test]
    if guard.word:
        argv += ["-k", guard.word]
    try:
        await run_tool(
            argv,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(directory),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            deadline=90,
        )
    except UpstreamError:
        return False
    return True


async def survives(guard: Guard, directory: Path) -> bool:
    """Whether the named test passes without the guard (it must not)."""
    path = directory / guard.file
    whole = path.read_text()
    path.write_text(whole.replace(guard.source, guard.without))
    try:
        return await passes(guard, directory)
    finally:
        path.write_text(whole)


async def missed(names: Sequence[str], guards: Sequence[Guard]) -> list[str]:
    """Guards that can go without a test noticing.

    A test that fails, or is not found, with everything in place notices
    nothing: such a guard is missed by nobody either.
    """
    found = []
    sound: dict[tuple[str, str], bool] = {}
    with tempfile.TemporaryDirectory(prefix="vt-guards-", dir="/tmp") as name:
        directory = Path(name)
        parts = ("broker", "policy", "shims", "tests", "fuzz", "docs", "pyproject.toml")
        for part in parts:
            source = ROOT / part
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, directory / part, ignore=ignore)
            else:
                shutil.copy(source, directory / part)
        for guard in guards:
            if names and guard.name not in names:
                continue
            which = guard.test, guard.word
            if which not in sound:
                sound[which] = await passes(guard, directory)
            alive = not sound[which] or await survives(guard, directory)
            print(
                f"{'MISSED BY NOBODY' if alive else 'noticed':17} {guard.name}",
                flush=True,
            )
            found += [guard.name] if alive else []
    return found


def main(guards: Sequence[Guard]) -> None:
    """Try the guards that are named on the command line, or all; exits."""
    sys.exit(1 if trio.run(missed, sys.argv[1:], guards) else 0)
