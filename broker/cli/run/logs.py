"""``brokerctl logs``: show the console and the output of a sandbox's programs.

All of it is the sandbox's own text, so it is escaped; the bytes themselves
are only for a file or a pipe.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import logged_sandboxes
from broker.cli.interrupts import reader_may_leave
from broker.cli.run.connect import offline_paths, systemd_runs
from broker.cli.sandboxes.ended_disposables import is_disposable_of
from broker.core import limits
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.paths import Paths
from policy.suggestions import did_you_mean

_CONSOLE = "console.log"
_PROGRAM = re.compile(r"program-(\d+)\.log")
_LOOK_SECONDS = 0.2
_LINE = 4096
"""A longer line is shown in pieces: a sandbox may never send the line's end."""


@click.command("logs")
@click.argument("sandbox", shell_complete=logged_sandboxes)
@click.option("--console", is_flag=True, help="Show the console of the guest.")
@click.option(
    "--program", type=click.IntRange(min=1), help="Show the output of program N."
)
@click.option("-f", "--follow", is_flag=True, help="Keep running, and show new output.")
@click.option(
    "--raw", is_flag=True, help="Print the bytes unchanged; not allowed on a terminal."
)
def command(
    sandbox: str, *, console: bool, program: int | None, follow: bool, raw: bool
) -> None:
    """Show the output of the newest program of SANDBOX, or another log.

    A running broker is not required.

    Exit code: 0 done, 1 there is no such log.
    """
    if console and program is not None:
        raise click.UsageError("--console and --program cannot be used together")
    if raw and sys.stdout.isatty():
        raise click.UsageError(
            "--raw output can control the terminal; redirect it to a file"
        )
    folder = _folder(offline_paths(), take_sandbox_name(sandbox))
    sandbox = folder.name
    name = _choose(folder, sandbox, console=console, program=program)
    path = folder / name
    render.note(f"{name} of {sandbox}:")
    show = _write if raw else _Lines().write
    with reader_may_leave():
        older = path.with_name(f"{name}.1")
        if older.exists():
            _copy(older, show)
        trio.run(_follow, path, show, follow)
        show(b"")


def _folder(paths: Paths, name: SandboxName) -> Path:
    """Return the log directory of a sandbox, or of a record's newest one."""
    folder = paths.logs(name)
    if folder.is_dir() or not folder.parent.is_dir():
        return folder
    folders = [p for p in folder.parent.iterdir() if is_disposable_of(p.name, name)]
    if not folders:
        return folder
    if len(folders) > 1:
        render.note(
            f"{name} has logs of {len(folders)} sandboxes; these are the logs of "
            "the newest one"
        )
    return max(folders, key=lambda path: path.stat().st_mtime)


def _choose(folder: Path, sandbox: str, *, console: bool, program: int | None) -> str:
    """Return the log file's name.  Raises SetupError when none exists."""
    found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    numbers = sorted(int(m[1]) for n in found if (m := _PROGRAM.fullmatch(n)))
    if console or (program is None and not numbers):
        wanted = _CONSOLE
    else:
        wanted = f"program-{program if program is not None else numbers[-1]}.log"
    if wanted in found:
        return wanted
    if not found:
        raise SetupError(
            f"there are no logs of '{sandbox}'",
            hint=_without_logs(folder, sandbox),
        )
    raise SetupError(
        f"{sandbox} has no log {wanted}",
        hint=f"select a log with --program N or --console; {folder} contains "
        f"{', '.join(sorted(found))}",
    )


def _without_logs(folder: Path, sandbox: str) -> str:
    """Return the hint about a sandbox that has no directory of logs."""
    # Imported late: a log is shown without reading records.
    from broker.cli.policy.records import read_records

    records = read_records(offline_paths()).records
    matches = (r for r in records.values() if is_disposable_of(sandbox, r.name))
    record = records.get(sandbox) or next(matches, None)
    if record is not None and record.host.launch.kind.holds:
        terminal = (
            "a box or container has no logs: its output goes to the terminal of "
            "'brokerctl run', and is lost if the menu has started it"
        )
        if not systemd_runs():
            return terminal
        return (
            f"{terminal}; if systemd has started it, run 'journalctl --user -u "
            f"vitrail-run@{sandbox}'"
        )
    if record is not None and not record.host.keep_logs:
        return (
            "the logs of a disposable sandbox are deleted at its end; to keep those "
            f"of the next ones, run 'brokerctl set {record.name} logs keep'"
        )
    names = folder.parent.iterdir() if folder.parent.is_dir() else ()
    return (
        did_you_mean(sandbox, [path.name for path in names])
        or "to list the sandboxes, run 'brokerctl list'; the first start creates the logs"
    )


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class _Lines:
    """Shows hostile bytes line by line, escaped."""

    def __init__(self) -> None:
        self._rest = b""

    def write(self, untrusted_data: bytes) -> None:
        """Print the lines that are complete; empty data: also the rest."""
        self._rest += untrusted_data
        *lines, self._rest = self._rest.split(b"\n")
        if not untrusted_data and self._rest:
            lines, self._rest = [self._rest], b""
        while len(self._rest) > _LINE:
            lines.append(self._rest[:_LINE])
            self._rest = self._rest[_LINE:]
        for line in lines:
            # A terminal ends lines with \r\n; tabs are harmless.
            pieces = line.removesuffix(b"\r").split(b"\t")
            text = "\t".join(printable(piece, 8 * _LINE) for piece in pieces)
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _copy(path: Path, show: Callable[[bytes], None]) -> None:
    with path.open("rb") as file:
        while data := file.read(65536):
            show(data)


async def _follow(path: Path, show: Callable[[bytes], None], on: bool) -> None:  # noqa: FBT001
    """Show the file to its end; with ``on``, also later output, across a rotation."""
    file: BinaryIO = path.open("rb")
    try:
        while True:
            if data := file.read(65536):
                show(data)
                continue
            if not on:
                return
            if (newer := _rotated(path, file.fileno())) is not None:
                # Output between our last read and the rotation is still in the old
                # file.
                if data := file.read(limits.LOG_BYTES):
                    show(data)
                file.close()
                file = newer
                continue
            await trio.sleep(_LOOK_SECONDS)
    finally:
        file.close()


def _rotated(path: Path, fd: int) -> BinaryIO | None:
    """Open the log where it is another file by now; None if it is not, or not yet."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    if os.path.samestat(os.fstat(file.fileno()), os.fstat(fd)):
        file.close()
        return None
    return file
