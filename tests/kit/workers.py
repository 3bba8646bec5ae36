"""Workers and pumps whose fork servers the test's own process starts."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import trio

from broker.helpers import fork_command
from broker.helpers.fork_start import spawn_server, start_server
from broker.helpers.process.fork_client import ForkServerProgram
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.process.memory import ProcessMemory, read_memory
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import Child
from broker.ipc.fork_server import ForkServerKind
from broker.viewer.workers import pool
from broker.viewer.workers.process import Worker

HELPER_SERVER = "tests.kit.keeper_forks"
"""The program of the fork server of keepers."""


def open_workers(
    keepers: ForkServerHandle | None = None, *, allow_unjailed: bool = False
) -> AbstractAsyncContextManager[pool.Workers]:
    """Own workers for the length of the block, as a viewer does.

    Their keepers connect to the compositor that the test names.
    """
    return pool.open_workers(keepers, _start, allow_unjailed=allow_unjailed)


async def _start(program: ForkServerProgram, theirs: socket.socket) -> Child:
    if program.kind is not ForkServerKind.HELPERS:
        return await start_server(program, theirs)
    await trio.lowlevel.checkpoint()
    with running_as(HELPER_SERVER):
        return spawn_server(program, [theirs.fileno()])


def running_as(module: str) -> AbstractContextManager[object]:
    """Have fork servers that start in the block execute this module of a test."""

    def other(_: str, *words: str) -> list[str]:
        return our_program(module, *words)

    return patch.object(fork_command, "our_program", other)


def compositor_at(path: Path) -> Callable[[], Awaitable[Path]]:
    """Return how a guest finds a compositor that is always there."""

    async def compositor() -> Path:
        await trio.lowlevel.checkpoint()
        return path

    return compositor


def worker_memory(worker: Worker) -> ProcessMemory:
    """Return the memory of both halves together; zeroes when it has ended."""
    parts = [read_memory(pid) for pid in (worker.keeper_pid, worker.inner_pid)]
    return ProcessMemory(sum(m.resident for m in parts), sum(m.private for m in parts))
