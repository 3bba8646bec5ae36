"""A sandbox's display without its machine: worker, waypipe client, waypipe server.

What a guest's ``waypipe server`` does through vsock is done here by one that
connects to the client's socket directly; everything after it is real.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core.names import SandboxName
from broker.helpers.process.spawn import Child, spawn
from broker.ipc import worker as messages
from broker.viewer.workers.pool import Workers
from broker.viewer.workers.process import Worker
from tests.kit.waypipe.stand import ALONE, SERVER


@dataclass
class Display:
    """One sandbox's way to the screen, and what its worker said."""

    worker: Worker
    streams: Path
    directory: Path
    said: list[messages.FromWorker]
    ended: trio.Event

    def run(self, *argv: str) -> Child:
        """Start an application as the guest would; all of it ends with its child."""
        return spawn(
            [
                *(*ALONE, *SERVER),
                *("-s", self.streams, "server", "--", *argv),
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.directory.parent),
                "XDG_RUNTIME_DIR": str(self.directory.parent),
                "LANG": "C.UTF-8",
            },
        )


@asynccontextmanager
async def open_display(
    workers: Workers,
    name: str,
    directory: Path,
    compositor: Path,
    **options: int,
) -> AsyncIterator[Display]:
    """Worker of one sandbox and a socket for its streams, its directory made here."""
    directory.mkdir(mode=0o700)
    worker = await workers.open_worker(
        SandboxName(name), directory, compositor, **options
    )
    streams = directory.with_name(f"{name}.streams")
    display = Display(worker, streams, directory, [], trio.Event())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(streams))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, display)
            nursery.start_soon(hand_over, listener, worker)
            try:
                yield display
            finally:
                with trio.CancelScope(shield=True):
                    await worker.close()
                nursery.cancel_scope.cancel()


async def hand_over(listener: socket.socket, worker: Worker) -> None:
    """Accept display streams and send them to the worker, as the broker does."""
    listener.settimeout(0)
    number = 0
    while True:
        await trio.lowlevel.wait_readable(listener)
        stream, _ = listener.accept()
        number += 1
        with stream:
            await worker.send(messages.DisplayStream(number, b""), [stream.fileno()])


async def _listen(display: Display) -> None:
    async for message in display.worker.messages:
        display.said.append(message)
    display.ended.set()


def processes_of(pid: int) -> set[int]:
    """This process and all below it, as /proc tells."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for child in task.read_text().split():
                found |= processes_of(int(child))
    return found


def open_descriptors() -> set[str]:
    """The descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))
