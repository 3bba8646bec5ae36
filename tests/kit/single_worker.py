"""A worker without a broker, for programs that put one filter before a server.

``tests.kit.wayland.filter_process`` and ``tests.kit.sound.filter_process`` start one, in
its jail: they are processes of their own, whose time and memory a benchmark counts.
"""

from __future__ import annotations

import argparse
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc import worker
from broker.viewer.workers.process import Worker
from tests.kit.accept_loop import serve
from tests.kit.workers import open_workers


def filter_arguments(program: str) -> argparse.ArgumentParser:
    """Return the options that both programs have."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--sandbox", required=True)
    parser.add_argument("--listen", required=True, type=Path)
    return parser


@asynccontextmanager
async def single_worker(
    rules: WindowRules, compositor: Path | None
) -> AsyncIterator[Worker]:
    """Start a worker, which ends with the block; None: its sandbox has no windows."""
    with tempfile.TemporaryDirectory(prefix="vt-") as name:
        directory = Path(name)
        async with open_workers() as workers:
            yield await workers.open_worker(
                SandboxName(rules.name),
                directory,
                compositor or directory / "no-compositor",
                rules=rules,
                # The fork server starts with it, and there is no second attempt.
                seconds=limits.FORK_SERVER_START_SECONDS,
            )


async def serve_until_signal(
    listen: Path,
    client: Callable[[socket.socket], Awaitable[None]],
    *others: Callable[[], Awaitable[None]],
) -> None:
    """Serve the clients of a socket, and run other tasks, until SIGTERM or SIGINT."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(listen))
        try:
            listener.listen(limits.BACKLOG)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, listener, client)
                for other in others:
                    nursery.start_soon(other)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()
        finally:
            listen.unlink()


async def report_worker(process: Worker, take: Callable[[object], None]) -> None:
    """Pass a worker's messages on, and print its complaints.

    Raises UpstreamError when the worker has ended.
    """
    async for message in process.messages:
        match message:
            case worker.Broken(reason) | worker.Violation(reason):
                print_line(reason)
            case _:
                take(message)
    raise UpstreamError(f"the filter has ended: {await process.wait_closed()}")


def print_line(line: object) -> None:
    """Print a line to standard error; tests read it."""
    print(printable(str(line), 4000), file=sys.stderr, flush=True)
