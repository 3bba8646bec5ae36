"""All workers of a broker: ask for one by name.

``open_workers`` alone starts nothing; the first ``open_worker`` starts the fork server
of jailed halves (``programs.forks.workers``).  Keepers are forked by that of helpers
(``programs.forks.helpers``), which runs already.  A dead one is started again
for the next worker.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.names import SandboxName
from broker.core.stderr_log import log_exception
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.process.fork_client import (
    ForkServer,
    ForkServerProgram,
    StartServer,
)
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.ipc.clipboard import ChordsMessage
from broker.ipc.fork_server import (
    FORK_KEEPER,
    FORK_WORKER,
    ForkKeeper,
    ForkServerKind,
    ForkWorker,
)
from broker.viewer.workers.process import Worker, WorkerProcesses
from broker.wire.one_way import one_way_pair
from broker.wire.packets import pair

WAYLAND_SOCKET = "wayland.sock"
"""The socket in a sandbox's display directory for its Wayland clients."""

FORK_SERVER = ForkServerProgram(
    ForkServerKind.WORKERS, "a worker", lambda: limits.FORK_SERVER_START_SECONDS
)
KEEPERS = ForkServerProgram(
    ForkServerKind.HELPERS, "a keeper", lambda: limits.FORK_SERVER_START_SECONDS
)


@asynccontextmanager
async def open_workers(
    keepers: ForkServerHandle | None,
    start: StartServer,
    *,
    allow_unjailed: bool = False,
) -> AsyncIterator[Workers]:
    """Own all workers for the length of the block; they end with it.

    ``keepers`` is the broker's fork server of helpers; without it the first worker
    has one started.  ``start`` starts fork servers.

    ``allow_unjailed``: a machine without user namespaces gets workers with
    the other walls only; ``Worker.jail`` says so.
    """
    async with trio.open_nursery() as nursery:
        workers = Workers(nursery, keepers, start, allow_unjailed=allow_unjailed)
        try:
            yield workers
        finally:
            with trio.CancelScope(shield=True):
                await workers.close()
            nursery.cancel_scope.cancel()


class Workers:
    """The workers of one broker, and the fork servers that they come from."""

    def __init__(
        self,
        nursery: trio.Nursery,
        keepers: ForkServerHandle | None,
        start: StartServer,
        *,
        allow_unjailed: bool,
    ) -> None:
        self._nursery = nursery
        self._allow_unjailed = allow_unjailed
        program = replace(FORK_SERVER, allow_unjailed=allow_unjailed)
        self._server = ForkServer(program, start)
        self._keepers = ForkServer(KEEPERS, start, first=keepers)
        for server in (self._server, self._keepers):
            nursery.start_soon(server.reap, self._died)
        self._workers: set[Worker] = set()
        self._closing = False
        self.on_server_death: Callable[[int, int | None], Awaitable[None]] | None = None
        """Called with (pid, code) when a fork server dies without a request."""

    @property
    def fork_server_pid(self) -> int:
        """The fork server's process id; 0 before the first worker."""
        return self._server.pid

    async def open_worker(
        self,
        sandbox: SandboxName,
        display_dir: Path,
        compositor: Path,
        *,
        rules: WindowRules | None = None,
        clients: int = limits.WAYLAND_CLIENTS_PER_SANDBOX,
        chords: ChordsMessage | None = None,
        seconds: float = limits.WORKER_START_SECONDS,
    ) -> Worker:
        """Start a worker and return it once it has confined itself, in ``seconds``.

        Binds ``wayland.sock`` in ``display_dir``, which is the sandbox's own
        (0700).  ``compositor`` is the path of the compositor's socket; it is
        first connected to when the first client comes; ``clients`` is the most
        connections to it at one time.  ``rules`` say how windows are treated;
        without them it is the default frame, with nothing allowed beyond the
        default list.  ``chords`` are the user's choice of them.

        Raises SetupError when the jail cannot be built on this machine,
        UpstreamError when the worker does not come up.
        """
        path = display_dir / WAYLAND_SOCKET
        started = False
        try:
            with _bound(path) as display, trio.fail_after(seconds):
                processes = await self._fork(
                    display, os.fspath(compositor), sandbox, clients
                )
                rules = rules or WindowRules(sandbox)
                worker = Worker(sandbox, processes, rules, chords)
                await self._nursery.start(self._live, worker, path)
                started = True
        except trio.TooSlowError as error:
            raise UpstreamError(
                f"the worker of {sandbox} was not ready within {seconds:g} s",
                hint="check whether the machine is out of memory or processes",
            ) from error
        finally:
            if not started:
                _unlink(path)
        return worker

    async def _live(
        self,
        worker: Worker,
        path: Path,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run one worker to its end; log its internal errors."""
        self._workers.add(worker)
        try:
            await worker.run(task_status)
        except Exception as error:
            if not worker.ready:
                raise
            log_exception(error)  # a mistake about one worker ends no other
        finally:
            self._workers.discard(worker)
            _unlink(path)

    async def _fork(
        self,
        display: socket.socket,
        compositor: str,
        sandbox: SandboxName,
        clients: int,
    ) -> WorkerProcesses:
        """Have both processes of a worker forked: keeper and jailed half.

        Raises UpstreamError, SetupError.
        """
        with ExitStack() as undo, ExitStack() as theirs:
            keeper_channel, keeper_end = pair()
            undo.callback(keeper_channel.close)
            theirs.enter_context(keeper_end)
            worker_channel, worker_end, pipe = one_way_pair()
            undo.callback(worker_channel.close)
            theirs.enter_context(worker_end)
            theirs.callback(os.close, pipe)
            outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.enter_context(outer)
            theirs.enter_context(inner)
            jailed = await self._server.fork(
                FORK_WORKER,
                ForkWorker(self._allow_unjailed),
                [worker_end.fileno(), display.fileno(), inner.fileno(), pipe],
            )
            undo.callback(jailed.close)
            undo.callback(jailed.kill)
            keeper = await self._keepers.fork(
                FORK_KEEPER,
                ForkKeeper(sandbox, compositor, clients),
                [keeper_end.fileno(), outer.fileno(), jailed.fileno()],
            )
            undo.pop_all()
        return WorkerProcesses(keeper, jailed, keeper_channel, worker_channel)

    async def _died(self, pid: int, code: int | None) -> None:
        if not self._closing and self.on_server_death is not None:
            await self.on_server_death(pid, code)

    async def close(self) -> None:
        """End every worker and the fork server; returns when all are gone."""
        self._closing = True
        async with trio.open_nursery() as nursery:
            for worker in list(self._workers):
                nursery.start_soon(worker.close)
        await self._server.close()
        await self._keepers.close()


def _bound(path: Path) -> socket.socket:
    """Bind the sandbox's Wayland socket, on which the worker's keeper listens.

    Removes one that was left there.
    """
    _unlink(path)  # of a worker that was killed with its broker
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fspath(path))  # its keeper listens
    except BaseException:
        sock.close()
        raise
    return sock


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
