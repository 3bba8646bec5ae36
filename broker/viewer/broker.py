"""The viewer's process: it owns screen and sound, and asks its authority.

The same on one machine and on two; only the way to its host differs (``HostEnd``).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import trio

from broker.authority.options import Options
from broker.core.errors import VitrailError
from broker.core.lease import Lease
from broker.core.names import SandboxName
from broker.core.stderr_log import log_stderr
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.service_manager import ADDRESS
from broker.host_and_viewer.authority_handle import AuthorityHandle
from broker.host_and_viewer.control_handlers import Shared, SharedControl
from broker.host_and_viewer.host_folders import Host
from broker.host_and_viewer.joined_status import StatusCollector
from broker.host_and_viewer.lease_listing import LeaseListing
from broker.host_and_viewer.open_authority import (
    authority_process,
    open_authority,
    serve_calls,
)
from broker.host_and_viewer.runtime import Runtime, open_runtime
from broker.host_and_viewer.status_rows import StatusRows
from broker.ipc.control import api
from broker.ipc.control.method import AnyMethod
from broker.ipc.session.program_orders import REPORT_STATE, ReportState
from broker.viewer.authority.authority_client import AuthorityClient
from broker.viewer.control import viewer_parts
from broker.viewer.orders.session_orders import SessionOrders, UserSession, order_server
from broker.viewer.part import (
    make_viewer,
    measure,
    open_sandbox_workers,
    viewer_warnings,
)
from broker.viewer.role import ViewerRole
from broker.viewer.runner import Runner
from broker.viewer.sandboxes.suspending import SuspendControl
from broker.viewer.settings_watch import SettingsWatch
from broker.viewer.workers.pool import Workers


@dataclass(frozen=True)
class ViewerSide:
    """What the way to a host needs of the viewer's process."""

    ground: Runtime
    authority: AuthorityClient
    viewer: Callable[[], ViewerRole]
    warnings: Callable[[], Awaitable[list[str]]]
    """Of the viewer alone."""


class HostEnd(Protocol):
    """The way to the host: the link, or a process beside this one."""

    table: Mapping[str, AnyMethod]
    """The methods of the control socket that the viewer's process answers."""

    @property
    def host(self) -> Host:
        """The host itself."""
        ...

    @property
    def link(self) -> Callable[[], Awaitable[api.LinkStatus]] | None:
        """The state of the link, if there is one."""
        ...

    def rows(self, viewer: ViewerRole, workers: Workers) -> Sequence[StatusRows]:
        """Return the parts of the status; the viewer's precede the host's."""
        ...

    def warnings(self) -> list[str]:
        """Return problems that 'brokerctl status' shows."""
        ...

    async def begin(self, nursery: trio.Nursery) -> None:
        """Run the host's end in a nursery; returns when programs may be started.

        Raises VitrailError when it cannot be.
        """
        ...

    async def end(self, stop_all: Callable[[], Awaitable[None]]) -> None:
        """Take leave of the host; ``stop_all`` ends all sandboxes of the viewer."""
        ...


async def run_viewer(
    handle: AuthorityHandle,
    options: Options,
    forks: Mapping[str, ForkServerHandle],
    ready: Callable[[], None],
    *,
    role: str,
    make_end: Callable[[ViewerSide], HostEnd],
) -> None:
    """Run a viewer until it is asked to end.

    ``ready`` is called once the control socket, and the way to the host, can be used.
    ``role`` is the broker's.  Raises SetupError when it cannot start.
    """
    session = SessionOrders(forks["session"])
    start = partial(order_server, session)
    async with (
        authority_process(handle),
        open_authority(handle, "viewer", AuthorityClient) as authority,
        open_runtime(
            role, options, authority, authority, forks["pumps"], start=start
        ) as ground,
        open_sandbox_workers(ground, forks["keepers"], start) as workers,
    ):
        made = _ViewerProcess(ground, authority, make_end, workers, session)
        await made.serve(handle, ready)


class _ViewerProcess:
    def __init__(
        self,
        ground: Runtime,
        authority: AuthorityClient,
        make_end: Callable[[ViewerSide], HostEnd],
        workers: Workers,
        session: UserSession,
    ) -> None:
        self._ground = ground
        self._session = session
        self._authority = authority
        side = ViewerSide(ground, authority, lambda: self._viewer, self._own_warnings)
        self._end = make_end(side)
        self._viewer = make_viewer(ground, workers, authority, self._end.host, session)
        self._viewer.question.show_dialog = authority.show_question
        authority.question_waits = self._viewer.question.waits
        self._settings = SettingsWatch(ground.paths, session, authority.notify)
        report = StatusCollector(
            role=ground.role,
            parts=self._end.rows(self._viewer, workers),
            pump=ground.pump,
            report=authority.report,
            link=self._end.link,
            measure=partial(measure, session),
            warnings=self._warnings,
        )
        self._shared = SharedControl(
            Shared(
                role=ground.role,
                live=self._live,
                power_off=self._viewer.power_off,
                status=report.status,
                shutdown=ground.shutdown,
            )
        )
        runner = Runner(
            host=self._end.host,
            viewer=self._viewer,
            log=ground.log,
            records=lambda: ground.records.now,
            reload=authority.reload,
            running=self._running,
        )
        self._parts = [
            self._shared,
            LeaseListing(report.leases),
            *viewer_parts(self._viewer, runner),
            SuspendControl(self._end.host, self._viewer, self._live),
        ]

    async def serve(self, handle: AuthorityHandle, ready: Callable[[], None]) -> None:
        """Run the viewer's tasks until a shutdown is requested.

        Reports that it is ready once brokerctl is served.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._viewer.run)
            nursery.start_soon(self._settings.run)
            await self._end.begin(nursery)
            await nursery.start(
                serve_calls,
                handle,
                "viewer",
                self._ground.role,
                self._parts,
                self._end.table,
            )
            await self._authority.serve_control()
            await self._report("ready")
            ready()
            await self._ground.shutdown.wait()
            await self._report("stopping")
            await self._end.end(self._shared.stop_all)
            nursery.cancel_scope.cancel()

    async def _report(self, state: Literal["ready", "stopping"]) -> None:
        """Have a session child report the state to the service manager, if there is one."""
        if ADDRESS in os.environ:
            try:
                await self._session.carry_out(REPORT_STATE, ReportState(state))
            except VitrailError as error:
                log_stderr(f"vitrail: cannot notify the service manager: {error}")

    def _live(self) -> list[Lease]:
        return [guest.lease for guest in self._viewer.guests()]

    def _running(self, name: SandboxName) -> Lease | None:
        """Return the sandbox of exactly this name that is not being stopped."""
        for guest in self._viewer.guests():
            if guest.lease.sandbox == name and not guest.stopping:
                return guest.lease
        return None

    async def _own_warnings(self) -> list[str]:
        return await viewer_warnings(self._viewer, self._settings, self._session)

    async def _warnings(self) -> list[str]:
        return [*self._end.warnings(), *await self._own_warnings()]
