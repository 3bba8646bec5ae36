"""All workers of a broker: ask for one by name.

``open_workers`` alone starts nothing; the first ``open_worker`` starts
the template (``programs.template``), and a template that has died is started
again for the next worker.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError, VitrailError
from broker.core.names import SandboxName
from broker.core.stderr_log import log_exception
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc.clipboard import ChordsMessage
from broker.viewer.workers.process import Worker
from broker.viewer.workers.template import Forked, TemplateError, WorkerTemplate

__all__ = ["WAYLAND_SOCKET", "Worker", "Workers", "open_workers"]

WAYLAND_SOCKET = "wayland.sock"
"""The socket in a sandbox's display directory for its Wayland clients."""


@asynccontextmanager
async def open_workers(*, allow_unjailed: bool = False) -> AsyncIterator[Workers]:
    """Own all workers for the length of the block; they end with it.

    ``allow_unjailed``: a machine without user namespaces gets workers with
    the other walls only; ``Worker.jail`` says so.
    """
    async with trio.open_nursery() as nursery:
        workers = Workers(nursery, allow_unjailed=allow_unjailed)
        try:
            yield workers
        finally:
            with trio.CancelScope(shield=True):
                await workers.close()
            nursery.cancel_scope.cancel()


@dataclass(eq=False)
class _Coming:
    """A template that is being started."""

    over: trio.Event = field(default_factory=trio.Event)
    error: VitrailError | None = None


class Workers:
    """The workers of one broker, and the template that they are forked from."""

    def __init__(self, nursery: trio.Nursery, *, allow_unjailed: bool) -> None:
        self._nursery = nursery
        self._allow_unjailed = allow_unjailed
        self._template: WorkerTemplate | None = None
        self._coming: _Coming | None = None
        self._workers: set[Worker] = set()
        self._closing = False
        self.on_template_death: Callable[[int, int | None], Awaitable[None]] | None = (
            None
        )
        """Called with (pid, code) when a template dies without a request."""

    @property
    def template_pid(self) -> int:
        """The template's process id; 0 before the first worker."""
        return self._template.child.pid if self._template else 0

    async def open_worker(
        self,
        sandbox: SandboxName,
        display_dir: Path,
        compositor: Path,
        *,
        rules: WindowRules | None = None,
        clients: int = limits.WAYLAND_CLIENTS_PER_SANDBOX,
        chords: ChordsMessage | None = None,
    ) -> Worker:
        """Start a worker and return it when its jail is shut.

        Binds ``wayland.sock`` in ``display_dir``, which is the sandbox's own
        (0700).  ``compositor`` is the path of the compositor's socket; it is
        first connected to when the first client comes; ``clients`` is the most
        connections to it at one time.  ``rules`` say how windows are treated;
        without them it is the default frame, with nothing allowed beyond the
        default list.  ``chords`` are the person's choice of them.

        Raises SetupError when the jail cannot be built on this machine,
        UpstreamError when the worker does not come up.
        """
        path = display_dir / WAYLAND_SOCKET
        started = False
        try:
            with _bound(path) as display, trio.fail_after(limits.WORKER_START_SECONDS):
                forked = await self._fork(
                    display, os.fspath(compositor), sandbox, clients
                )
                worker = Worker(sandbox, forked, rules or WindowRules(sandbox), chords)
                await self._nursery.start(self._live, worker, path)
                started = True
        except trio.TooSlowError as error:
            raise UpstreamError(
                f"the worker of {sandbox} was not ready after "
                f"{limits.WORKER_START_SECONDS:g} s",
                hint="the machine may be out of memory or processes",
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
    ) -> Forked:
        """Have a keeper forked; once more if the template just died."""
        template = await self._warm_template()
        try:
            return await self._fork_by(template, display, compositor, sandbox, clients)
        except TemplateError:
            template = await self._warm_template()
            return await self._fork_by(template, display, compositor, sandbox, clients)

    async def _fork_by(
        self,
        template: WorkerTemplate,
        display: socket.socket,
        compositor: str,
        sandbox: SandboxName,
        clients: int,
    ) -> Forked:
        return await template.fork(
            display,
            compositor,
            sandbox=sandbox,
            allow_unjailed=self._allow_unjailed,
            clients=clients,
        )

    async def _warm_template(self) -> WorkerTemplate:
        while self._template is None or self._template.dead:
            # In a task of its own: ended with the worker that asked first, it
            # would begin again for each one on a slow machine, and none would come.
            if self._coming is None:
                self._coming = _Coming()
                self._nursery.start_soon(self._start_template, self._coming)
            coming = self._coming
            await coming.over.wait()
            if coming.error is not None:
                raise coming.error
        return self._template

    async def _start_template(self, mine: _Coming) -> None:
        try:
            with trio.fail_after(limits.TEMPLATE_START_SECONDS):
                template = WorkerTemplate()
                await self._nursery.start(template.run)
        except VitrailError as error:
            mine.error = error
        except OSError as error:  # no room for it; the next worker asks again
            mine.error = UpstreamError(
                f"no template of the workers: {error.strerror}",
                hint="the machine may be out of memory, processes or descriptors",
            )
        except trio.TooSlowError:
            mine.error = UpstreamError(
                "the template of the workers was not warm after "
                f"{limits.TEMPLATE_START_SECONDS:g} s",
                hint="the machine may be out of memory or processes",
            )
        else:
            self._template = template
            self._nursery.start_soon(self._watch_template, template)
        finally:
            self._coming = None
            mine.over.set()

    async def _watch_template(self, template: WorkerTemplate) -> None:
        pid = template.child.pid
        await template.wait_gone()
        if not self._closing and self.on_template_death is not None:
            await self.on_template_death(pid, template.child.returncode)

    async def close(self) -> None:
        """End every worker and the template; returns when all are gone."""
        self._closing = True
        async with trio.open_nursery() as nursery:
            for worker in list(self._workers):
                nursery.start_soon(worker.close)
        if self._template is not None:
            await self._template.close()


def _bound(path: Path) -> socket.socket:
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
