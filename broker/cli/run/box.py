"""``brokerctl run --bwrap``: a program of this machine's in a box, without a record.

The record is made for the run: a sandbox of its own with the label "untrusted",
windows and sound through the filters, and nothing else.  The rules are asked about
it as about any other.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from broker.cli import render
from broker.cli.run.connect import open_client
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker, refuse_root
from broker.control.api import LeaseItem, LeaseRequest
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths, find_paths
from broker.launch.bubblewrap.arguments import Box
from broker.launch.bubblewrap.process import HeldBox, start_held
from broker.services.link.role import role_here
from policy.records.loader import FOLDER

_RECORD = """\
# Made by 'brokerctl run --bwrap', and removed when that ends.
class = "persistent"
display = "allow"
tags = ["box"]
[label]
name = "untrusted"
colour = "red"
[audio]
playback = "allow"
microphone = "deny"
[launch]
kind = "external"
[peer]
unix = "{sockets}"
"""
_SOCKET_SECONDS = 10.0
_LOOK_SECONDS = 0.005
_READ_BYTES = 65536


def run_box(argv: Sequence[str], *, quiet: bool, as_json: bool) -> int:
    """Run it to its end; returns its exit code, 128 and more for a signal."""
    name = f"box-{secrets.token_hex(3)}"
    code = trio.run(_run, name, tuple(argv), Steps(quiet=quiet, as_json=as_json))
    code = code if code >= 0 else 128 - code
    if as_json:
        render.json_line({"sandbox": name, "code": code})
    return code


async def _run(name: str, argv: tuple[str, ...], steps: Steps) -> int:
    refuse_root()
    paths = find_paths()
    if role_here(paths) is not None:
        raise SetupError(
            "boxes are for one machine, and this is one of two",
            hint="'brokerctl run SANDBOX' runs a sandbox of the host's",
        )
    words, files = with_files(argv, Path.cwd())
    async with steps.shown():
        await ensure_broker(paths)
        with_sockets = _made_record(paths, name)
        async with with_sockets as sockets, open_client(paths) as client:
            box = Box(
                words,
                sockets,
                files,
                language=os.environ.get("LANG") or "C.UTF-8",
                terminal=os.environ.get("TERM") or "dumb",
            )
            held = await start_held(box)
            try:
                leased = trio.Event()

                async def told(item: LeaseItem) -> None:
                    if item.lease is not None:
                        leased.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_output, held, steps)
                    request = LeaseRequest(
                        record=name, unix=str(sockets), leader=held.leader
                    )
                    nursery.start_soon(client.hold_lease, request, told)
                    await leased.wait()
                    await _sockets_there(sockets)
                    held.release()
                    code = await held.child.wait()
                    nursery.cancel_scope.deadline = trio.current_time() + 1
                return code
            finally:
                await held.end()


def with_files(
    argv: tuple[str, ...], here: Path
) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """The command with whole paths, and the files that it names.

    A word that is the path of a regular file of the person's is readable inside;
    the person has named it.  Files below /usr are there already.
    """
    words, files = [argv[0]], []
    for word in argv[1:]:
        path = Path(here, word)
        try:
            real = path.resolve(strict=True) if word else None
        except OSError:
            real = None
        if real is None or not real.is_file() or real.is_relative_to("/usr"):
            words.append(word)
            continue
        words.append(str(real))
        files.append(real)
    return tuple(words), tuple(files)


@asynccontextmanager
async def _made_record(paths: Paths, name: str) -> AsyncIterator[Path]:
    """The directory of the box's sockets, with a record that names it."""
    folder = paths.runtime / "boxes"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    base = folder / name
    # Held for as long as we live: a process that finds it free may remove the remains.
    held = _taken(paths, folder, base)
    try:
        record = paths.runtime / FOLDER / f"{name}.toml"
        record.parent.mkdir(mode=0o700, exist_ok=True)
        record.touch(mode=0o600, exist_ok=False)
        record.write_text(_RECORD.format(sockets=base))
        yield base
    finally:
        _clear(paths, base)
        os.close(held)


def _taken(paths: Paths, folder: Path, base: Path) -> int:
    """Make and lock a box's directory, with no other run sweeping meanwhile."""
    turn = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        _sweep(paths, folder)
        # Beside the directory: the broker locks that itself, for the lease.
        held = os.open(_lock(base), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        base.mkdir(mode=0o700)
    finally:
        os.close(turn)
    return held


def _sweep(paths: Paths, folder: Path) -> None:
    """Clear away what runs that were killed could not."""
    for base in [lock.with_suffix("") for lock in folder.glob("box-*.lock")]:
        try:
            fd = os.open(_lock(base), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its own run has just removed it
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(paths, base)
        except BlockingIOError:
            pass  # it runs
        finally:
            os.close(fd)


def _clear(paths: Paths, base: Path) -> None:
    with suppress(FileNotFoundError):
        (paths.runtime / FOLDER / f"{base.name}.toml").unlink()
    shutil.rmtree(base, ignore_errors=True)
    with suppress(FileNotFoundError):
        _lock(base).unlink()


def _lock(base: Path) -> Path:
    return base.with_suffix(".lock")


async def _sockets_there(sockets: Path) -> None:
    """Wait until the lease's sockets can be connected to."""
    with trio.move_on_after(_SOCKET_SECONDS):
        while not (sockets / "wayland-0").exists():  # noqa: ASYNC110 -- no event
            await trio.sleep(_LOOK_SECONDS)
        return
    raise UpstreamError(
        "the broker has made no display socket for the box",
        hint="'brokerctl logs' and 'brokerctl status' say more",
    )


async def _output(held: HeldBox, steps: Steps) -> None:
    """Pass on its output, escaped where a person reads it."""
    async with trio.open_nursery() as nursery:
        for pipe in (held.child.popen.stdout, held.child.popen.stderr):
            assert pipe is not None
            nursery.start_soon(_copy, pipe.fileno(), steps)


async def _copy(fd: int, steps: Steps) -> None:
    os.set_blocking(fd, False)
    while True:
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, _READ_BYTES)
        if not data:
            return
        steps.output(data)
