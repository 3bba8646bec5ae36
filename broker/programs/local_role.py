"""Both roles on one machine, wired together and run.

Ownership: the runtime owns store, workers and pump; the viewer role owns the
guests, the host role the leases and through them every stream.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from broker.authority.channel.authority_client import AuthorityClient
from broker.authority.channel.open_authority import open_authority, serve_calls
from broker.authority.control.handlers import Shared, SharedControl
from broker.authority.options import AuthorityHandle, Options
from broker.authority.runtime import Runtime, open_runtime
from broker.helpers.pump.process import PumpHandle
from broker.helpers.shipper.warnings import shipping_warnings
from broker.host.folders.part import FolderHost, LocalHost
from broker.host.launches import LaunchControl, Launches
from broker.host.part import HostPart, end_sandboxes
from broker.ipc.host_viewer import LaterViewer
from broker.programs.local_status import LocalStatus
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
        open_authority(handle, options, AuthorityClient) as authority,
        open_runtime("local", options, authority, authority, pump) as ground,
        open_sandbox_workers(ground) as workers,
    ):
        await _serve(ground, workers, authority, handle, ready)


async def _serve(
    ground: Runtime,
    workers: Workers,
    authority: AuthorityClient,
    handle: AuthorityHandle,
    ready: Callable[[], None],
) -> None:
    host = HostPart(ground, LaterViewer(lambda: viewer), alarm=authority.notify)
    folders = FolderHost(host.role, ground.paths.runtime)
    viewer = make_viewer(ground, workers, authority, LocalHost(host.role, folders))
    launches = Launches(
        ground.paths,
        host.role,
        ground.log,
        records=lambda: ground.records.now,
        reload=ground.records.reload,
    )
    settings = SettingsWatch(ground.paths, authority.notify)

    def warnings() -> list[str]:
        found = [*host.warnings(), *launches.warnings[-10:]]
        found += viewer_warnings(viewer, settings)
        return found + shipping_warnings(ground.paths)

    report = LocalStatus(
        role=ground.role,
        host=host.role,
        waiting=host.waiting,
        viewer=viewer,
        pump=ground.pump,
        workers=workers,
        report=authority.report,
        records=lambda: ground.records.now,
        warnings=warnings,
    )
    shared = SharedControl(_shared(ground, host, viewer, report))
    parts = [
        shared,
        host.leasing,
        LaunchControl(launches),
        *viewer_parts(viewer, _runner(ground, host, viewer), ground.paths),
        FolderControl(viewer.folders),
    ]
    async with trio.open_nursery() as nursery:
        await nursery.start(viewer.run)
        nursery.start_soon(settings.run)
        await host.run(nursery)
        await host.adopt(launches)
        await nursery.start(launches.run)
        await nursery.start(serve_calls, handle, "local", parts)
        await authority.serve_control()
        ready()
        await ground.shutdown.wait()
        ground.options.stopping()
        await end_sandboxes(host, shared)
        nursery.cancel_scope.cancel()


def _shared(
    ground: Runtime, host: HostPart, viewer: ViewerRole, report: LocalStatus
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
