"""Both roles on one machine, wired together and run.

Ownership: the runtime owns store, workers and pump; the viewer role owns the
guests, the host role the leases and through them every stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import trio

from broker.authority.channel.authority_client import AuthorityClient
from broker.authority.channel.log_client import LogClient
from broker.authority.channel.open_authority import (
    authority_process,
    open_authority,
    serve_calls,
)
from broker.authority.control.handlers import Shared, SharedControl
from broker.authority.options import AuthorityHandle, Options
from broker.authority.runtime import Runtime, open_runtime
from broker.authority.status import StatusCollector
from broker.helpers.pump.handle import PumpHandle
from broker.host.folders.part import FolderHost, LocalHost
from broker.host.launches import LaunchControl, Launches
from broker.host.part import HostPart, end_sandboxes
from broker.ipc.control.methods import Owner
from broker.ipc.host_viewer import LaterViewer
from broker.viewer.control import viewer_parts
from broker.viewer.folders.control import FolderControl
from broker.viewer.part import (
    make_viewer,
    open_sandbox_workers,
    viewer_warnings,
)
from broker.viewer.role import ViewerRole
from broker.viewer.runner import Runner
from broker.viewer.settings_watch import SettingsWatch
from broker.viewer.status import ViewerRows
from broker.viewer.workers.pool import Workers

__all__ = ["Options", "run_local"]


async def run_local(
    handle: AuthorityHandle,
    options: Options,
    pump: PumpHandle,
    ready: Callable[[], None],
) -> None:
    """Run a local broker until it is asked to end.

    ``ready`` is called once the control socket can be connected to.  Raises
    SetupError when it cannot start.
    """
    async with (
        authority_process(handle),
        # Two channels, as host and viewer on two machines have: neither may record or
        # ask what is the other's.
        open_authority(handle, "host", LogClient) as log,
        open_authority(handle, "viewer", AuthorityClient) as authority,
        open_runtime("local", options, authority, authority, pump) as ground,
        open_sandbox_workers(ground) as workers,
    ):
        clients = _Clients(log, authority)
        await _serve(ground, clients, workers, handle, ready)


class _Clients(NamedTuple):
    """Both of the authority's, by the part of the broker that has it."""

    host: LogClient
    viewer: AuthorityClient


async def _serve(
    ground: Runtime,
    clients: _Clients,
    workers: Workers,
    handle: AuthorityHandle,
    ready: Callable[[], None],
) -> None:
    authority = clients.viewer
    of_host = replace(ground, log=clients.host, records=clients.host)
    later = LaterViewer(lambda: viewer, authority.reload)
    host = HostPart(of_host, later, alarm=authority.notify)
    folders = FolderHost(host.role, ground.paths.runtime)
    local = LocalHost(host.role, folders, of_host.records.reload)
    viewer = make_viewer(ground, workers, authority, local)
    launches = Launches(
        ground.paths,
        host.role,
        of_host.log,
        records=lambda: of_host.records.now,
        reload=of_host.records.reload,
    )
    settings = SettingsWatch(ground.paths, authority.notify)

    def warnings() -> list[str]:
        found = [*host.warnings(), *launches.warnings[-10:]]
        return found + viewer_warnings(viewer, settings)

    report = StatusCollector(
        role=ground.role,
        parts=[ViewerRows(viewer, workers), host.rows],
        pump=ground.pump,
        report=authority.report,
        warnings=warnings,
    )
    shared = SharedControl(_shared(ground, host, viewer, report))
    of_the_host = [shared, host.leasing, LaunchControl(launches)]
    of_the_viewer = [
        shared,
        *viewer_parts(viewer, _runner(ground, host, viewer), ground.paths),
        FolderControl(viewer.folders),
    ]
    async with trio.open_nursery() as nursery:
        await nursery.start(viewer.run)
        nursery.start_soon(settings.run)
        await host.run(nursery)
        await host.adopt(launches)
        await nursery.start(launches.run)
        await nursery.start(
            serve_calls, handle, "host", "local", of_the_host, {Owner.HOST}
        )
        await nursery.start(
            serve_calls,
            handle,
            "viewer",
            "local",
            of_the_viewer,
            {Owner.VIEWER, Owner.AUTHORITY},
        )
        await authority.serve_control()
        ready()
        await ground.shutdown.wait()
        ground.options.stopping()
        await end_sandboxes(host, shared)
        nursery.cancel_scope.cancel()


def _shared(
    ground: Runtime, host: HostPart, viewer: ViewerRole, report: StatusCollector
) -> Shared:
    return Shared(
        role=ground.role,
        live=host.live,
        power_off=viewer.power_off,
        status=report.status,
        leases=report.leases,
        shutdown=ground.shutdown,
    )


def _runner(ground: Runtime, host: HostPart, viewer: ViewerRole) -> Runner:
    return Runner(
        host=host.role,
        viewer=viewer,
        log=ground.log,
        records=lambda: ground.records.now,
        reload=viewer.authority.reload,
        running=host.running,
    )
