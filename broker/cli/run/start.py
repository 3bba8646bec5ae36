"""Start a broker if a verb needs one and none is running."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from broker.cli import render
from broker.cli.quick.other_display import on_another_display
from broker.cli.run.connect import broker_runs
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.paths import Paths, require_private
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import STDOUT, Child, spawn, wait_ended
from broker.ipc.control.api import Nothing
from broker.ipc.control.blocking_connection import BrokerSilentError
from broker.ipc.control.client import Client, open_client
from broker.ipc.control.methods import GET_VERSION, SHUTDOWN
from broker.net.peers.peer_process import peer_numbers

_READY_SECONDS = 30.0
_DYING_SECONDS = 4.0
_LOOK_SECONDS = 0.05
_LOG_BYTES = 1 << 20
_TAIL = 2000
_TRACEBACK = re.compile(
    r"^[ |+]*(Exception Group )?Traceback \(.*\n([ |+]+.*\n|\n)*", re.MULTILINE
)
"""Without its last line, the error; the log has it all."""
_PROGRAM = re.compile(r"^vitrail-[a-z]+: ")


def refuse_root() -> None:
    """Raise SetupError for root: neither brokers nor sway run as root."""
    if os.geteuid() == 0:
        raise SetupError(
            "brokerctl does not start a broker as root",
            hint="run the command as the user of the desktop; in a checkout, 'make "
            "demo' and './brokerctl' switch to an ordinary user",
        )


async def ensure_broker(
    paths: Paths,
    *,
    environ: Mapping[str, str] | None = None,
    module: str = "broker.programs.local",
    words: Sequence[str] = (),
) -> bool:
    """Start a broker unless one runs; return whether it was started now.

    ``module`` is the broker program, ``words`` its arguments.

    It outlives us; its standard error goes to ``broker.log`` in the state
    directory.  ``environ`` is its environment (ours by default): its
    WAYLAND_DISPLAY is where windows will be shown.

    Raises UpstreamError with the broker's own words when it does not start.
    """
    require_private(paths)
    if await _answers(paths, tell=environ is None):
        return False
    paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with _starting(paths):
        # Another process may have started one while we waited for the lock.
        if await _answers(paths):
            return False
        try:
            await _start(paths, module, words, environ)
        except UpstreamError:
            # The session's unit, which takes no lock, may have started one meanwhile.
            if not await _answers(paths):
                raise
            return False
    return True


async def _start(
    paths: Paths,
    module: str,
    words: Sequence[str],
    environ: Mapping[str, str] | None,
) -> None:
    """Start the broker's program and wait until it is ready."""
    log_file = paths.state / "broker.log"
    log = _open_log(log_file)
    try:
        with _notified(paths.runtime / f"ready-{os.getpid()}") as notify:
            env = dict(os.environ if environ is None else environ)
            env["NOTIFY_SOCKET"] = notify.getsockname()
            child = spawn(
                our_program(module, *words),
                name=f"vitrail-{module.rpartition('.')[2]}",
                env=env,
                stdout=log,
                stderr=STDOUT,
                outlive_us=True,
            )
            await _wait_ready(child, notify, log, log_file)
    finally:
        os.close(log)


@asynccontextmanager
async def _starting(paths: Paths) -> AsyncIterator[None]:
    """Hold the lock for starting a broker.

    Raises UpstreamError when another one takes longer than a start may.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(paths.runtime / "start.lock", flags, 0o600)
    try:
        with trio.move_on_after(_READY_SECONDS + _DYING_SECONDS) as patience:
            while not _try_lock(lock):  # noqa: ASYNC110 -- a lock of another process
                await trio.sleep(_LOOK_SECONDS)
        if patience.cancelled_caught:
            raise UpstreamError(
                "another command is starting a broker, which was not ready after "
                f"{_READY_SECONDS + _DYING_SECONDS:g} s",
                hint="to find the reason, run 'brokerctl doctor'",
            )
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _answers(paths: Paths, *, tell: bool = False) -> bool:
    """Return whether a broker answers; an ending one does not count.

    A killed broker's socket may live on for milliseconds in a child that it
    had forked and that had not been executed yet.  ``tell`` the user where it shows
    windows on another compositor than the environment's.
    """
    seconds, reason = answer_seconds(paths.control), ""
    with trio.move_on_after(seconds):
        while broker_runs(paths):
            try:
                async with open_client(paths.control) as client:
                    version = await client.call(GET_VERSION, Nothing())
            except (UpstreamError, SetupError) as error:
                reason = f": {error.message}"
                await trio.sleep(_DYING_SECONDS / 40)
            else:
                if tell and (told := on_another_display(version.display)):
                    render.note(told)
                return True
        return False
    raise BrokerSilentError(
        f"the broker at {paths.control} did not answer within {seconds:g} s{reason}",
        hint="to find the reason, run 'brokerctl doctor'",
    )


def answer_seconds(control: Path) -> float:
    """Connect to the control socket; return how long a broker may take, in seconds.

    A service manager listens before the broker that our connection makes it start
    (systemd.socket(5)); on a slow machine that takes longer than a dying one does.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(control))
            listener = peer_numbers(sock)[0]
            program = Path(f"/proc/{listener}/comm").read_text("utf-8", "replace")
        except OSError:
            return _DYING_SECONDS
    return _READY_SECONDS if program.startswith("systemd") else _DYING_SECONDS


async def end_broker(client: Client) -> None:
    """Ask the broker at the other end to end, and wait until its process has."""
    pid = (await client.call(GET_VERSION, Nothing())).pid
    pidfd = os.pidfd_open(pid)
    try:
        await client.call(SHUTDOWN, Nothing())
        await client.wait_closed()
        await wait_ended(pidfd)
    finally:
        os.close(pidfd)


def _open_log(path: Path) -> int:
    """Open the log to write at its end, and not to read: all of a broker has it."""
    # guard: a confined process reads nothing of the broker's log
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(path, flags, 0o600)
    if os.fstat(log).st_size > _LOG_BYTES:
        os.ftruncate(log, 0)
    return log


def _said_since(path: Path, began: int) -> bytes:
    """Return the end of what a broker has written after this place.

    Nothing where the log was removed meanwhile.
    """
    try:
        log = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.pread(log, 1 << 16, began)
    finally:
        os.close(log)


@contextmanager
def _notified(path: Path) -> Iterator[socket.socket]:
    """Create the socket on which the broker reports that it is ready, sd_notify(3)."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        try:
            yield notify
        finally:
            path.unlink(missing_ok=True)


async def _wait_ready(
    child: Child, notify: socket.socket, log: int, log_file: Path
) -> None:
    """Wait until the broker is ready.  Raises UpstreamError with its log if not."""
    began = os.fstat(log).st_size
    ready = False

    async def wait_ready(scope: trio.CancelScope) -> None:
        nonlocal ready
        await trio.lowlevel.wait_readable(notify)
        ready = True
        scope.cancel()

    async def wait_end(scope: trio.CancelScope) -> None:
        await child.wait()
        scope.cancel()

    with trio.move_on_after(_READY_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_ready, nursery.cancel_scope)
            nursery.start_soon(wait_end, nursery.cancel_scope)
    if ready:
        child.abandon()
        return
    said = _said_since(log_file, began)
    if child.returncode is None:
        await child.kill_and_wait()
        raise UpstreamError(
            f"the broker was not ready within {_READY_SECONDS:g} s: "
            f"{printable(said[-_TAIL:], _TAIL) or 'no output'}",
            hint="to find the reason, run 'brokerctl doctor'",
        )
    # Its own sentence, with its own hint, is the best there is.
    text = _TRACEBACK.sub("", said.decode("utf-8", "replace")).strip()[-_TAIL:]
    message, _, hint = text.partition("\n  hint: ")
    raise UpstreamError(
        f"the broker did not start: {_PROGRAM.sub('', message)}",
        hint=hint or f"to see the whole output, read {log_file}",
    )
