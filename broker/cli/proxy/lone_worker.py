"""The worker of a filter that runs without a broker (``brokerctl proxy``).

All bytes of its clients are parsed in a worker's jail, as in a broker: this process
accepts connections, passes them on, and prints what the worker reports.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from broker.cli import render
from broker.core import limits
from broker.core.errors import PeerError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.names import SandboxName
from broker.core.stderr_log import log_stderr
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.fork_start import start_server
from broker.ipc import worker
from broker.ipc.wayland_rules import print_trace
from broker.net.display_header import read_header
from broker.viewer.workers.pool import open_workers
from broker.viewer.workers.process import Worker
from broker.wire import fdpass

_REASON = 2000


@asynccontextmanager
async def open_lone_worker(
    rules: WindowRules, display: Path | None, *, allow_unjailed: bool
) -> AsyncIterator[Worker]:
    """Start a worker, which ends with the block.

    ``display``: the compositor's socket; None: its sandbox has no windows.
    ``allow_unjailed``: on a machine without user namespaces, too, with the other walls.

    Raises SetupError where the jail cannot be built, UpstreamError when the worker does
    not start, or has ended in the meantime.
    """
    # Its own socket, which no program is given: connections come by this process.
    with tempfile.TemporaryDirectory(prefix="vitrail-proxy-") as place:
        # guard: the keeper of a sound filter connects nowhere
        compositor = Path(place) / "no-compositor" if display is None else display
        start = partial(start_server, compositor=os.fspath(compositor))
        async with open_workers(None, start, allow_unjailed=allow_unjailed) as workers:
            yield await workers.open_worker(
                SandboxName(rules.name),
                Path(place),
                compositor,
                rules=rules,
                # The fork server starts with it, and there is no second attempt.
                seconds=limits.FORK_SERVER_START_SECONDS,
            )


class LoneWindows:
    """Programs' connections to the compositor, served by a worker."""

    def __init__(self, mine: Worker) -> None:
        self._worker = mine
        self._streams = 0

    async def program(self, client: socket.socket) -> None:
        """Have the worker serve a program's connection; close our copy."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with client, ours, theirs:
            fdpass.send(ours, b"\0", [client.fileno()])
            await self._send(worker.WaylandStream(self._next()), theirs)

    async def waypipe(self, stream: socket.socket) -> None:
        """Have the worker decode a stream of 'waypipe server'; close our copy."""
        with stream:
            try:
                head = await read_header(stream)
            except VitrailError as error:
                render.error(error)
                return
            await self._send(worker.DisplayStream(self._next(), head), stream)

    def _next(self) -> int:
        self._streams += 1
        return self._streams

    async def _send(self, order: worker.ToWorker, sock: socket.socket) -> None:
        with suppress(UpstreamError):  # ``report`` says why it has ended
            await self._worker.send(order, [sock.fileno()])

    async def report(self) -> None:
        """Print why connections end.  Raises UpstreamError when the worker ends."""
        await report_worker(self._worker, _take)


async def report_worker(mine: Worker, take: Callable[[object], None]) -> None:
    """Pass a worker's messages on, but print its complaints.

    Raises UpstreamError when the worker has ended.
    """
    async for message in mine.messages:
        match message:
            case worker.Broken(reason):
                log_stderr(printable(reason, _REASON))
            case worker.Violation(reason):
                render.error(PeerError(printable(reason, _REASON)))
            case _:
                take(message)
    reason = await mine.wait_closed()
    raise UpstreamError(
        f"the filter's process has ended, and all its connections with it: {reason}",
        hint="run the command again",
    )


def _take(untrusted: object) -> None:
    """Print the end or the trace of a connection; the rest is for a broker."""
    match untrusted:
        case worker.WaylandClosed():
            _print_end(untrusted)
        case worker.Traced():
            print_trace(untrusted)
        case _:
            pass


def _print_end(end: worker.WaylandClosed) -> None:
    """Print the end of a connection that did not end by itself."""
    reason = printable(end.reason, _REASON)
    match end.fault:
        case worker.Fault.CLIENT:
            render.error(PeerError(reason))
        case worker.Fault.COMPOSITOR:
            render.error(UpstreamError(reason))
        case worker.Fault.OURS:
            # guard: mistakes of the Wayland proxy drive no terminal
            log_stderr(reason)
        case worker.Fault.NONE:
            pass
