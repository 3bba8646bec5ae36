"""The viewer of two machines: it owns screen and person, and decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import trio

from broker.authority.audit.checkpoints import CheckpointWitness
from broker.authority.control.handlers import LogControl, Shared, SharedControl
from broker.authority.decisions.question_control import QuestionControl
from broker.authority.log_runtime import LogRuntime, open_log_runtime
from broker.authority.parts import make_authority
from broker.authority.runtime import Options, Runtime, open_runtime, serve_until_asked
from broker.core.lease import Lease
from broker.core.names import SandboxName
from broker.helpers.pump.process import PumpHandle
from broker.ipc.control.dispatch import Dispatcher
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.key_store import LinkStore
from broker.viewer.control import viewer_parts
from broker.viewer.host_link import RemoteHost
from broker.viewer.part import (
    make_viewer,
    open_sandbox_workers,
    viewer_warnings,
)
from broker.viewer.runner import Runner
from broker.viewer.settings_files import SettingsWatch
from broker.viewer.status import ViewerStatus
from broker.viewer.workers.pool import Workers


async def run_viewer(
    options: Options, link: LinkConfig, pump: PumpHandle, ready: Callable[[], None]
) -> None:
    """Run a viewer broker until it is asked to end; the host's machines live on.

    ``ready`` is called once the link's listener and the control socket can be
    connected to.  Raises SetupError when it cannot start.
    """
    async with (
        open_log_runtime("viewer", options, os.getpid()) as log,
        open_runtime("viewer", options, log.journal, log.records, pump) as ground,
        open_sandbox_workers(ground) as workers,
    ):
        await _Viewer(ground, log, link, workers).serve(ready)


class _Viewer:
    def __init__(
        self, ground: Runtime, log: LogRuntime, link: LinkConfig, workers: Workers
    ) -> None:
        self._ground = ground
        self._log = log
        self._witness = CheckpointWitness(log.store, log.sealing, log.journal)
        ground.pump.max_write, ground.pump.mode = link.pieces, link.relay
        self._deciding = make_authority(ground.paths, log)
        authority = self._deciding.authority
        self._host = RemoteHost(
            link,
            LinkStore(ground.paths),
            viewer=lambda: self._viewer,
            log=ground.log,
            reload=authority.reload,
            warnings=self._link_warnings,
            witness=self._witness,
        )
        self._viewer = make_viewer(ground, workers, authority, self._host)
        self._settings = SettingsWatch(ground.paths, authority.notify)
        self._report = ViewerStatus(
            role=ground.role,
            viewer=self._viewer,
            pump=ground.pump,
            workers=workers,
            report=self._deciding.reported,
            records=lambda: ground.records.now,
            link=self._host.state,
            warnings=self._warnings,
        )
        shared = SharedControl(
            Shared(
                role=ground.role,
                live=self._live,
                power_off=self._viewer.power_off,
                status=self._report.status,
                leases=self._report.leases,
                shutdown=ground.shutdown,
            )
        )
        runner = Runner(
            host=self._host,
            viewer=self._viewer,
            log=ground.log,
            records=lambda: ground.records.now,
            reload=authority.reload,
            running=self._running,
        )
        parts = viewer_parts(self._viewer, runner)
        questions = QuestionControl(self._deciding.questions, authority.decider)
        self._api = Dispatcher(
            "viewer", [shared, LogControl(log.retention.prune), questions, *parts]
        )

    async def serve(self, ready: Callable[[], None]) -> None:
        """Run until asked to end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._deciding.run)
            await nursery.start(self._viewer.run)
            nursery.start_soon(self._settings.run)
            await nursery.start(
                self._host.run, self._ground.options.sockets.get("link")
            )
            end = partial(self._host.close, "the viewer's broker ends")
            await serve_until_asked(self._ground, self._api, ready, end)
            nursery.cancel_scope.cancel()

    def _live(self) -> list[Lease]:
        return [guest.lease for guest in self._viewer.guests()]

    def _running(self, name: SandboxName) -> Lease | None:
        return next((lease for lease in self._live() if lease.sandbox == name), None)

    def _warnings(self) -> list[str]:
        seen = viewer_warnings(self._viewer, self._settings)
        return [*self._witness.warnings(), *seen]

    def _link_warnings(self) -> list[str]:
        return [*self._log.journal.warnings(), *self._warnings()]
