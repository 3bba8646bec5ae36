"""Both roles on one machine, wired together and run.

Ownership: the runtime owns store, workers and pump; the viewer role owns the
guests, the host role the leases and through them every stream.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from broker.authority.control.handlers import Shared, SharedControl
from broker.authority.question_control import QuestionControl
from broker.authority.runtime import Options, Runtime, open_runtime, serve_until_asked
from broker.helpers.pump.process import PumpHandle
from broker.host.folders.part import FolderHost, LocalHost
from broker.host.launches import LaunchControl, Launches
from broker.host.part import HostPart, end_sandboxes
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.host_viewer import LaterViewer
from broker.programs.local_status import LocalStatus
from broker.viewer.control import viewer_parts
from broker.viewer.folders.control import FolderControl
from broker.viewer.part import (
    AuthorityParts,
    make_authority,
    make_viewer,
    open_sandbox_workers,
    viewer_warnings,
)
from broker.viewer.role import ViewerRole
from broker.viewer.runner import Runner
from broker.viewer.workers.pool import Workers

__all__ = ["Options", "run_local"]


async def run_local(
    options: Options, pump: PumpHandle, ready: Callable[[], None]
) -> None:
    """Run a local broker until it is asked to end.

    ``ready`` is called once the control socket can be connected to.  Raises
    SetupError when it cannot start.
    """
    async with (
        open_runtime("local", options, pump) as ground,
        open_sandbox_workers(ground) as workers,
    ):
        await _serve(ground, workers, ready)


async def _serve(ground: Runtime, workers: Workers, ready: Callable[[], None]) -> None:
    deciding = make_authority(ground)
    authority = deciding.authority
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
    report = _status(ground, workers, host, launches, viewer, deciding=deciding)
    shared = SharedControl(_shared(ground, host, viewer, report))
    parts = [
        shared,
        QuestionControl(deciding.questions, authority.decider),
        host.leasing,
        LaunchControl(launches),
        *viewer_parts(viewer, _runner(ground, host, viewer)),
        FolderControl(viewer.folders),
    ]
    api = Dispatcher("local", parts)
    async with trio.open_nursery() as nursery:
        await nursery.start(deciding.run)
        await nursery.start(viewer.run)
        await host.run(nursery)
        await host.adopt(launches)
        await nursery.start(launches.run)
        await serve_until_asked(
            ground, api, ready, partial(end_sandboxes, host, shared)
        )
        nursery.cancel_scope.cancel()


def _status(
    ground: Runtime,
    workers: Workers,
    host: HostPart,
    launches: Launches,
    viewer: ViewerRole,
    *,
    deciding: AuthorityParts,
) -> LocalStatus:
    return LocalStatus(
        role=ground.role,
        host=host.role,
        waiting=host.waiting,
        viewer=viewer,
        pump=ground.pump,
        shipping=ground.shipping,
        workers=workers,
        deciding=deciding,
        store=ground.store,
        records=lambda: ground.records.now,
        warnings=lambda: [
            *ground.log.warnings(),
            *host.warnings(),
            *launches.warnings[-10:],
            *viewer_warnings(viewer),
            *deciding.warnings(),
        ],
    )


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
        prune=ground.retention.prune,
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
