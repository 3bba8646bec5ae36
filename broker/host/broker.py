"""The host of two machines: it owns the VMs, and forwards.

It parses nothing of a guest's, evaluates no rule, and has no worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from broker.authority.options import Options
from broker.core.names import LeaseId
from broker.helpers.fork_start import start_server
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.service_manager import report
from broker.host.host_status import measure
from broker.host.part import HostPart
from broker.host.viewer_link import RemoteViewer
from broker.host_and_viewer.authority_handle import AuthorityHandle
from broker.host_and_viewer.checkpoints import CheckpointWitness
from broker.host_and_viewer.control_handlers import Shared, SharedControl
from broker.host_and_viewer.joined_status import StatusCollector
from broker.host_and_viewer.lease_listing import LeaseListing
from broker.host_and_viewer.log_client import LogClient
from broker.host_and_viewer.open_authority import (
    authority_process,
    open_authority,
    serve_calls,
)
from broker.host_and_viewer.remote_checkpoints import RemoteCheckpoints
from broker.host_and_viewer.runtime import Runtime, open_runtime
from broker.ipc.control.authority_methods import AUTHORITY_METHODS
from broker.ipc.control.host_methods import HOST_METHODS
from broker.ipc.control.shared_methods import SHARED_METHODS
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.key_store import LinkStore
from broker.net.peers.identity import describe

# A guest whose agent gets no request does not listen to the power button for long.
_GRACE = 1.0
_METHODS = {**SHARED_METHODS, **HOST_METHODS, **AUTHORITY_METHODS}


async def run_host(
    handle: AuthorityHandle,
    options: Options,
    link: LinkConfig,
    forks: Mapping[str, ForkServerHandle],
    ready: Callable[[], None],
) -> None:
    """Run a host broker until it is asked to end; its machines end with it.

    ``ready`` is called once the control socket can be connected to.  Raises
    SetupError when it cannot start; a viewer that is not there is no reason.
    """
    async with (
        authority_process(handle),
        open_authority(handle, "host", LogClient) as authority,
        open_runtime(
            "host", options, authority, authority, forks["pumps"], start=start_server
        ) as ground,
    ):
        await _Host(ground, authority, link, forks["acceptors"]).serve(handle, ready)


class _Host:
    def __init__(
        self,
        ground: Runtime,
        authority: LogClient,
        link: LinkConfig,
        acceptors: ForkServerHandle,
    ) -> None:
        self._ground = ground
        self._authority = authority
        self._witness = CheckpointWitness(RemoteCheckpoints(authority), authority)
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
            broken=lambda name: self._broken().get(name, ""),
        )
        self._host = HostPart(ground, self._viewer, acceptors)
        self._report = StatusCollector(
            role=ground.role,
            parts=[self._host.rows],
            pump=ground.pump,
            report=authority.report,
            link=self._viewer.state.status,
            measure=measure,
            warnings=self._status_warnings,
        )
        self._shared = SharedControl(
            Shared(
                role=ground.role,
                live=self._host.live,
                power_off=self._power_off,
                status=self._report.status,
                shutdown=ground.shutdown,
            )
        )

    async def serve(self, handle: AuthorityHandle, ready: Callable[[], None]) -> None:
        """Run until asked to end; returns when every sandbox is gone."""
        leases = LeaseListing(self._report.leases)
        parts = [self._shared, leases, self._host.leasing, self._host.networks]
        async with trio.open_nursery() as nursery:
            await self._host.run(nursery)
            await nursery.start(self._viewer.run)
            await nursery.start(serve_calls, handle, "host", "host", parts, _METHODS)
            await self._authority.serve_control()
            ready()
            await self._ground.shutdown.wait()
            report("STOPPING=1")
            # Machines end with their host.
            self._host.role.refuse_new()
            await self._shared.stop_all()
            await self._host.leasing.end()
            nursery.cancel_scope.cancel()

    async def _power_off(self, lease: LeaseId, *, reason: str, grace: float) -> None:
        await self._host.role.stop(lease, grace=min(grace, _GRACE), reason=reason)

    def _peer_of(self, lease: LeaseId) -> str:
        active = self._host.role.active_leases()
        found = (describe(x.held.claim) for x in active if x.lease.id == lease)
        return next(found, "")

    def _warnings(self) -> list[str]:
        """Return the warnings for ``brokerctl status``."""
        leases, unwanted = self._host.live(), self._viewer.unwanted
        found = [
            f"{lease.sandbox}: the viewer rejected its lease: {unwanted[lease.id]}"
            for lease in leases
            if lease.id in unwanted
        ]
        return [*self._witness.warnings(), *self._host.warnings(), *found]

    async def _status_warnings(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return self._warnings()

    async def _link_warnings(self) -> list[str]:
        """Read the records again; return the warnings for the viewer."""
        # Here status shows mistakes in records anyway.
        await self._ground.records.reload()
        broken = [f"mistake in a record: {text}" for text in self._broken().values()]
        logs = (await self._authority.report()).log_warnings
        return [*broken, *logs, *self._warnings()]

    def _broken(self) -> dict[str, str]:
        """Return the mistakes in records, by the names of the records."""
        broken = self._ground.records.now.broken
        return {name: problem.first_line() for name, problem in broken.items()}
