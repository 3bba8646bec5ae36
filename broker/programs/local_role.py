"""Both roles on one machine, wired together and run.

Ownership: the runtime owns store, workers and pump; the viewer role owns the
guests, the host role the leases and through them every stream.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from broker.authority.channel.authority_client import AuthorityClient
from broker.authority.channel.open_authority import (
    open_authority,
)
from broker.authority.control.handlers import Shared, SharedControl
from broker.authority.runtime import Options, Runtime, open_runtime
from broker.core.errors import InternalError
from broker.helpers.pump.process import PumpHandle
from broker.host.folders.part import FolderHost, LocalHost
from broker.host.launches import LaunchControl, Launches
from broker.host.part import HostPart, end_sandboxes
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.forward import serve_forwarded
from broker.ipc.control.methods import Exchange, Owner
from broker.ipc.control.varlink import Call, VarlinkReply
from broker.ipc.host_viewer import LaterViewer
from broker.programs.authority import AuthorityHandle
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
from broker.viewer.settings_files import SettingsWatch
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
        open_authority(handle.sock, handle.pid, handle.pidfd, options) as authority,
        open_runtime("local", options, authority, authority, pump) as ground,
        open_sandbox_workers(ground) as workers,
    ):
        await _serve(
            ground, workers, authority, partial(_forwarded, handle.control), ready
        )


async def _serve(
    ground: Runtime,
    workers: Workers,
    authority: AuthorityClient,
    control: Callable[..., Awaitable[None]],
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
        return [*found, *viewer_warnings(viewer, settings)]

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
        *viewer_parts(viewer, _runner(ground, host, viewer)),
        FolderControl(viewer.folders),
    ]
    api = Dispatcher("local", parts, forwards={Owner.AUTHORITY: _not_here})
    async with trio.open_nursery() as nursery:
        await nursery.start(viewer.run)
        nursery.start_soon(settings.run)
        await host.run(nursery)
        await host.adopt(launches)
        await nursery.start(launches.run)
        await nursery.start(control, api)
        await authority.serve_control()
        ready()
        await ground.shutdown.wait()
        ground.options.stopping()
        await end_sandboxes(host, shared)
        nursery.cancel_scope.cancel()


async def _forwarded(
    sock: socket.socket, api: Dispatcher, *, task_status: trio.TaskStatus[None]
) -> None:
    """Answer the calls that the authority forwards, until cancelled."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    await serve_forwarded(stream, api, task_status=task_status)


async def _not_here(call: Call, exchange: Exchange[Any]) -> VarlinkReply:
    """The authority answers its own methods, and forwards none of them."""
    del exchange
    raise InternalError(f"{call.method} was forwarded")


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
