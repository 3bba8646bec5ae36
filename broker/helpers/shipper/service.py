"""The process that makes the shipper's jails: as ``ship.toml`` says, and when it changes.

It reads ``ship.toml``, and of a jail single bytes and lines for the broker's log.  What a
receiver answers is read in the jail (``broker.programs.shipper_jailed``).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeAlias

import msgspec
import trio

from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.files.replace_file import replace_file
from broker.core.limits import audit as audit_limits
from broker.core.paths import Paths
from broker.core.stderr_log import log_stderr
from broker.core.token_bucket import TokenBucket
from broker.helpers.filters.box_filters import box_filter
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import Child, spawn
from broker.helpers.shipper.config import ShipConfig, load_config
from broker.helpers.shipper.jail import ShipperJail, jails_of
from broker.helpers.shipper.jailed import ShipperOrders
from broker.helpers.shipper.local_receivers import LocalTarget, serve_receiver
from broker.helpers.shipper.state import find_config, problem_file
from broker.ipc.sealed_memfd import sealed

_Stamp: TypeAlias = tuple[object, ...]
"""Which file it is, and its last change; and which files the jails show."""
_END_SECONDS = 2.0
"""For a batch that is under way: its cursor has not moved, so it is sent again."""
_LINE_BYTES = 4096
_LOCK_SECONDS = 1.0
"""Two of them are less than the time for which the log's writer waits."""
_WRITER_LOCKS = (120, 121, 122)
"""Bytes of the log's ``-shm`` (SQLite's documentation, "WAL-mode File Format")."""
_FLOCK = struct.Struct("hhqqi4x")


async def serve(paths: Paths, stop: trio.Event) -> None:
    """Run the shipper's jails as ``ship.toml`` says, and restart them at its change.

    A file that cannot be used is a SetupError at the start; later the last
    good one stays in force.  Raises UpstreamError when a jail ends by itself.
    """
    # Before the file is read: a change since then is noticed, however soon it comes.
    file: object = _stamp(paths.config)
    config = load(paths)
    while not stop.is_set():
        paths.shipping.mkdir(mode=0o700, parents=True, exist_ok=True)
        jails = jails_of(paths, config.target, os.environ)
        stamp = (file, _shown(jails))
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for jail in jails:
                nursery.start_soon(_run, jail, config, over)
            file, config = await _next(paths, stop, stamp, (config, jails))
            over.set()


async def _next(
    paths: Paths,
    stop: trio.Event,
    stamp: _Stamp,
    current: tuple[ShipConfig, Sequence[ShipperJail]],
) -> tuple[object, ShipConfig]:
    """Wait for another file that can be used, for other files in a jail, or ``stop``.

    Returns the file's stamp, too.
    """
    config, jails = current
    refused: _Stamp = ()
    while not stop.is_set():
        with trio.move_on_after(4 * audit_limits.SHIP_LOOK_SECONDS):
            await stop.wait()
        fresh = (_stamp(paths.config), _shown(jails))
        if fresh not in {stamp, refused}:
            try:
                return fresh[0], load(paths)
            except SetupError:
                refused = fresh  # 'brokerctl status' warns of it
    return stamp[0], config


def load(paths: Paths) -> ShipConfig:
    """Read the configuration; store a problem of it for the status.

    Raises SetupError.
    """
    path = find_config(paths.config)
    try:
        config = ShipConfig() if path is None else load_config(path)
    except SetupError as error:
        _note_problem(paths, str(error))
        raise
    _note_problem(paths, "")
    return config


def _shown(jails: Sequence[ShipperJail]) -> _Stamp:
    return tuple(jail.watched() for jail in jails)


def _stamp(directories: Sequence[Path]) -> _Stamp:
    """Return what identifies the current state of ``ship.toml``."""
    path = find_config(directories)
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return ()
    return (path, found.st_ino, found.st_mtime_ns, found.st_mode)


async def _run(jail: ShipperJail, config: ShipConfig, over: trio.Event) -> None:
    """Run a jail until ``over``; then give it a moment to finish its batch.

    Raises SetupError without bubblewrap, UpstreamError where it ends by itself.
    """
    with ExitStack() as ours:
        control, read, child, doors = _start(jail, config, ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_log_lines, read)
            for door, target in doors:
                nursery.start_soon(serve_receiver, door, target)
            nursery.start_soon(_end, child, control, over)
            # guard: a jailed shipper holds up no event
            nursery.start_soon(_end_by_lock, child, jail.paths.audit)
            try:
                await child.wait()
            finally:
                await child.kill_and_wait()
            nursery.cancel_scope.cancel()
    if not over.is_set():
        raise UpstreamError(
            f"the shipper ended unexpectedly (code {child.returncode})",
            hint="see the preceding lines of the log; to check bubblewrap, run 'brokerctl doctor'",
        )


async def _end(child: Child, control: socket.socket, over: trio.Event) -> None:
    await over.wait()
    control.shutdown(socket.SHUT_WR)
    await trio.sleep(_END_SECONDS)
    child.kill()


async def _end_by_lock(child: Child, log: Path) -> None:
    """Watch the log's lock; kill a jail that holds it while the log's writer waits."""
    looks = 0
    while looks < 2:  # SQLite's readers may hold one for a moment
        await trio.sleep(_LOCK_SECONDS)
        looks = looks + 1 if _holds_up(log.with_name(f"{log.name}-shm")) else 0
    log_stderr("vitrail: ending the shipper's jail: it has locked the audit log")
    child.kill()


def _holds_up(index: Path) -> bool:
    """Return whether a reader has one of the writer's locks, fcntl(2)."""
    try:
        with index.open("rb", buffering=0) as file:
            for byte in _WRITER_LOCKS:
                asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
                answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
                if _FLOCK.unpack(answer)[0] == fcntl.F_RDLCK:
                    return True
    except OSError:
        return False  # no process writes the log, or this is looked at again
    return False


def _start(
    jail: ShipperJail, config: ShipConfig, ours: ExitStack
) -> tuple[
    socket.socket,
    int,
    Child,
    list[tuple[socket.socket, LocalTarget]],
]:
    """Start a jail; return its control socket, output, process and doors."""
    with ExitStack() as theirs:

        def pair() -> tuple[socket.socket, socket.socket]:
            mine, yours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            return ours.enter_context(mine), theirs.enter_context(yours)

        control, ends = pair()
        doors, named = [], {}
        for target in jail.targets:
            if isinstance(target, LocalTarget):
                door, named_door = pair()
                doors.append((door, target))
                named[target.name] = named_door.fileno()
        orders = ShipperOrders(
            str(jail.paths.audit),
            str(jail.paths.shipping),
            config.called(),
            config.batch_seconds,
            list(jail.targets),
            named,
        )
        rules = sealed([box_filter(unix=jail.unix)])
        theirs.callback(os.close, rules)
        told = sealed([msgspec.json.encode(orders)])
        theirs.callback(os.close, told)
        read, errors = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, read)
        theirs.callback(os.close, errors)
        program = our_program(
            "broker.programs.shipper_jailed", str(told), str(ends.fileno())
        )
        # It does not have our standard streams: it could type into a terminal.
        child = spawn(
            [*jail.words(rules), *program],
            name="shipper",
            env=dict(jail.variables),
            pass_fds=(rules, told, ends.fileno(), *named.values()),
            stdout=errors,
            stderr=errors,
        )
    return control, read, child, doors


async def _log_lines(read: int) -> None:
    """Copy the jail's lines to the broker's log, at a limited rate."""
    pace = TokenBucket(1.0, 50)
    async with trio.lowlevel.FdStream(os.dup(read)) as stream:
        async for data in stream:
            for line in bytes(data[:_LINE_BYTES]).splitlines():
                # guard: a jailed shipper writes lines only, and few of them
                log_stderr(printable(line, _LINE_BYTES))
                await trio.sleep(pace.take(trio.current_time()))


def _note_problem(paths: Paths, problem: str) -> None:
    """Store why ``ship.toml`` cannot be used, for the status; "": it can be."""
    with suppress(OSError):
        if problem:
            paths.shipping.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(problem_file(paths), problem.encode("utf-8", "replace"))
        else:
            problem_file(paths).unlink()
