"""The viewer of two machines: it owns screen and sound, and asks its authority."""

from __future__ import annotations

from collections.abc import Callable

import trio

from broker.authority.audit.checkpoints import CheckpointWitness
from broker.authority.channel.authority_client import AuthorityClient
from broker.authority.channel.open_authority import (
    authority_process,
    open_authority,
    serve_calls,
)
from broker.authority.channel.remote_checkpoints import RemoteCheckpoints
from broker.authority.control.handlers import Shared, SharedControl
from broker.authority.options import AuthorityHandle, Options
from broker.authority.runtime import Runtime, open_runtime
from broker.authority.status import StatusCollector
from broker.core.lease import Lease
from broker.core.names import SandboxName
from broker.helpers.pump.handle import PumpHandle
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.key_store import LinkStore
from broker.viewer.control import viewer_parts
from broker.viewer.host_link import RemoteHost
from broker.viewer.linked_status import LinkedViewerRows
from broker.viewer.part import (
    make_viewer,
    open_sandbox_workers,
    viewer_warnings,
)
from broker.viewer.runner import Runner
from broker.viewer.settings_watch import SettingsWatch
from broker.viewer.workers.pool import Workers


async def run_viewer(
    handle: AuthorityHandle,
    options: Options,
    link: LinkConfig,
    pump: PumpHandle,
    ready: Callable[[], None],
) -> None:
    """Run a viewer broker until it is asked to end; the host's machines live on.

    ``ready`` is called once the link's listener and the control socket can be
    connected to.  Raises SetupError when it cannot start.
    """
    async with (
        authority_process(handle),
        open_authority(handle, "viewer", AuthorityClient) as authority,
        open_runtime("viewer", options, authority, authority, pump) as ground,
        open_sandbox_workers(ground) as workers,
    ):
        await _Viewer(ground, authority, link, workers).serve(handle, ready)


class _Viewer:
    def __init__(
        self,
        ground: Runtime,
        authority: AuthorityClient,
        link: LinkConfig,
        workers: Workers,
    ) -> None:
        self._ground = ground
        self._authority = authority
        self._witness = CheckpointWitness(RemoteCheckpoints(authority), authority)
        ground.pump.max_write, ground.pump.mode = link.pieces, link.relay
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
        self._report = StatusCollector(
            role=ground.role,
            parts=[LinkedViewerRows(self._viewer, workers, self._host.state)],
            pump=ground.pump,
            report=authority.report,
            link=self._host.state.status,
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
        self._parts = [
            shared,
            *viewer_parts(self._viewer, runner, ground.paths),
        ]

    async def serve(self, handle: AuthorityHandle, ready: Callable[[], None]) -> None:
        """Run until asked to end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._viewer.run)
            nursery.start_soon(self._settings.run)
            await nursery.start(
                self._host.run, self._ground.options.sockets.get("link")
            )
            await nursery.start(serve_calls, handle, "viewer", "viewer", self._parts)
            await self._authority.serve_control()
            ready()
            await self._ground.shutdown.wait()
            self._ground.options.stopping()
            await self._host.close("the viewer's broker ends")
            nursery.cancel_scope.cancel()

    def _live(self) -> list[Lease]:
        return [guest.lease for guest in self._viewer.guests()]

    def _running(self, name: SandboxName) -> Lease | None:
        return next((lease for lease in self._live() if lease.sandbox == name), None)

    def _warnings(self) -> list[str]:
        found = viewer_warnings(self._viewer, self._settings)
        return [*self._witness.warnings(), *found]

    async def _link_warnings(self) -> list[str]:
        return [*(await self._authority.report()).log_warnings, *self._warnings()]
