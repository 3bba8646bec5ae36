"""The host of two machines: it owns the VMs, and forwards.

It parses nothing of a guest's, evaluates no rule, and has no worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import trio

from broker.authority.audit.checkpoints import CheckpointWitness
from broker.authority.control.handlers import LogControl, Shared, SharedControl
from broker.authority.log_runtime import LogRuntime, open_log_runtime
from broker.authority.runtime import Options, Runtime, open_runtime, serve_until_asked
from broker.core.authority_report import AuthorityReport
from broker.core.names import LeaseId
from broker.helpers.pump.process import PumpHandle
from broker.host.part import HostPart, end_sandboxes
from broker.host.status import HostStatus
from broker.host.viewer_link import RemoteViewer
from broker.ipc.control.dispatch import Dispatcher
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.key_store import LinkStore
from broker.net.peers.identity import describe

# A guest whose agent gets no request does not listen to the power button for long.
_GRACE = 1.0


async def run_host(
    options: Options, link: LinkConfig, pump: PumpHandle, ready: Callable[[], None]
) -> None:
    """Run a host broker until it is asked to end; its machines end with it.

    ``ready`` is called once the control socket can be connected to.  Raises
    SetupError when it cannot start; a viewer that is not there is no reason.
    """
    async with (
        open_log_runtime("host", options, os.getpid()) as log,
        open_runtime("host", options, log.journal, log.records, pump) as ground,
    ):
        await _Host(ground, log, link).serve(ready)


class _Host:
    def __init__(self, ground: Runtime, log: LogRuntime, link: LinkConfig) -> None:
        self._ground = ground
        self._log = log
        self._witness = CheckpointWitness(log.store, log.sealing, log.journal)
        ground.pump.max_write, ground.pump.mode = link.pieces, link.relay
        store = LinkStore(ground.paths)
        store.identity()  # an unreadable key is reported now, not later
        self._viewer = RemoteViewer(
            link,
            store,
            host=lambda: self._host.role,
            pump=ground.pump,
            log=ground.log,
            peer_of=self._peer_of,
            reload=ground.records.reload,
            warnings=self._link_warnings,
            witness=self._witness,
        )
        self._host = HostPart(ground, self._viewer)
        self._report = HostStatus(
            role=ground.role,
            host=self._host.role,
            waiting=self._host.waiting,
            pump=ground.pump,
            report=self._reported,
            records=lambda: ground.records.now,
            link=self._viewer.state,
            warnings=self._warnings,
        )
        self._log_control = LogControl(log.retention.prune)
        self._shared = SharedControl(
            Shared(
                role=ground.role,
                live=self._host.live,
                power_off=self._power_off,
                status=self._report.status,
                leases=self._report.leases,
                shutdown=ground.shutdown,
            )
        )

    async def serve(self, ready: Callable[[], None]) -> None:
        """Run until asked to end; returns when every sandbox is gone."""
        async with trio.open_nursery() as nursery:
            await self._host.run(nursery)
            await nursery.start(self._viewer.run)
            end = partial(end_sandboxes, self._host, self._shared)
            api = Dispatcher(
                "host", [self._shared, self._log_control, self._host.leasing]
            )
            await serve_until_asked(self._ground, api, ready, end)
            nursery.cancel_scope.cancel()

    async def _power_off(self, lease: LeaseId, *, reason: str, grace: float) -> None:
        await self._host.role.stop(lease, grace=min(grace, _GRACE), reason=reason)

    def _peer_of(self, lease: LeaseId) -> str:
        for active_lease in self._host.role.active_leases():
            if active_lease.lease.id == lease:
                return describe(active_lease.held.claim)
        return ""

    def _warnings(self) -> list[str]:
        unwanted = [
            f"{active_lease.lease.sandbox}: the viewer does not want it: "
            + self._viewer.unwanted[active_lease.lease.id]
            for active_lease in self._host.role.active_leases()
            if active_lease.lease.id in self._viewer.unwanted
        ]
        return [*self._witness.warnings(), *self._host.warnings(), *unwanted]

    def _link_warnings(self) -> list[str]:
        return [*self._log.journal.warnings(), *self._warnings()]

    async def _reported(self) -> AuthorityReport:
        return self._log.report()
