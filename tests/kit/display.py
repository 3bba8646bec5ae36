"""A sandbox's display without its machine: worker, waypipe client, waypipe server.

What a guest's ``waypipe server`` does through vsock is done here by one that
connects to the client's socket directly; everything behind is the real thing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core import worker as messages
from broker.core.names import SandboxName
from broker.launch.spawn import Child, spawn
from broker.launch.waypipe_client import WaypipeClient, start_waypipe_client
from broker.session.workers import Worker, Workers


@dataclass
class Display:
    """One sandbox's way to the screen, and what its worker said."""

    worker: Worker
    waypipe: WaypipeClient
    directory: Path
    said: list[messages.FromWorker]
    ended: trio.Event

    def run(self, *argv: str) -> Child:
        """Start an application as the guest would."""
        return spawn(
            [
                *("waypipe", "--compress", "none", "--no-gpu"),
                *("-s", self.waypipe.socket_path, "server", "--", *argv),
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
    """Worker and waypipe client of one sandbox, its directory made here."""
    directory.mkdir(mode=0o700)
    worker = await workers.open_worker(
        SandboxName(name), directory, compositor, **options
    )
    waypipe = await start_waypipe_client(directory)
    display = Display(worker, waypipe, directory, [], trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, display)
        try:
            yield display
        finally:
            with trio.CancelScope(shield=True):
                await waypipe.stop()
                await worker.close()
            nursery.cancel_scope.cancel()


async def _listen(display: Display) -> None:
    async for message in display.worker.messages:
        display.said.append(message)
    display.ended.set()


def processes_of(pid: int) -> set[int]:
    """This process and all below it, as /proc tells."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= processes_of(int(child))
    return found


def open_descriptors() -> set[str]:
    """The descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))
