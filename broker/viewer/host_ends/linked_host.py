"""The way to a host on another machine, with all that the link needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from broker.host_and_viewer.checkpoints import CheckpointWitness
from broker.host_and_viewer.remote_checkpoints import RemoteCheckpoints
from broker.host_and_viewer.status_rows import StatusRows
from broker.ipc.control import api
from broker.ipc.control.method import AnyMethod
from broker.ipc.control.methods import TABLE
from broker.net.link.cures import VIEWER_ENDS
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.key_store import LinkStore
from broker.net.listeners import Listener
from broker.viewer.broker import ViewerSide
from broker.viewer.host_ends.host_link import RemoteHost
from broker.viewer.linked_status import LinkedViewerRows
from broker.viewer.role import ViewerRole
from broker.viewer.workers.pool import Workers


class LinkedHost:
    """Implements ``viewer.broker.HostEnd``."""

    table: Mapping[str, AnyMethod] = TABLE

    def __init__(self, side: ViewerSide, link: LinkConfig, listener: Listener) -> None:
        """Set up the link; ``listener`` was made before this process was confined."""
        self._side = side
        self._listener = listener
        ground, authority = side.ground, side.authority
        self._witness = CheckpointWitness(RemoteCheckpoints(authority), authority)
        ground.pump.max_write, ground.pump.mode = link.pieces, link.relay
        self.host = RemoteHost(
            link,
            LinkStore(ground.paths),
            viewer=side.viewer,
            log=ground.log,
            reload=authority.reload,
            warnings=self._link_warnings,
            witness=self._witness,
            notify=authority.notify,
        )

    @property
    def link(self) -> Callable[[], Awaitable[api.LinkStatus]] | None:
        """See ``HostEnd``."""
        return self.host.state.status

    def rows(self, viewer: ViewerRole, workers: Workers) -> Sequence[StatusRows]:
        """See ``HostEnd``."""
        return [LinkedViewerRows(viewer, workers, self.host.state)]

    def warnings(self) -> list[str]:
        """See ``HostEnd``."""
        return self._witness.warnings()

    async def _link_warnings(self) -> list[str]:
        report = await self._side.authority.report()
        return [*report.log_warnings, *self.warnings(), *await self._side.warnings()]

    async def begin(self, nursery: trio.Nursery) -> None:
        """See ``HostEnd``: a host comes when it does."""
        await nursery.start(self.host.run, self._listener)

    async def end(self, stop_all: Callable[[], Awaitable[None]]) -> None:
        """See ``HostEnd``: the host's machines live on."""
        del stop_all
        await self.host.close(VIEWER_ENDS)
