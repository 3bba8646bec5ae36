"""Both roles on one machine, wired together and run.

Who is whose parent: ``run_local`` owns store, workers and pump; the viewer
role owns the guests, the host role the leases and through them every stream.
At the end they go in the opposite order: sandboxes first, while everything
that they need is still there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from broker import __version__
from broker.audit import schema
from broker.audit.refusals import Refusals
from broker.audit.store import Store, open_store
from broker.control.server import serve
from broker.core.errors import RefusedError, SetupError, VitrailError
from broker.core.names import SandboxName
from broker.core.paths import Paths
from broker.launch.compositor import find_compositor
from broker.launch.images import Image
from broker.launch.microvm import Tools
from broker.peers.identity import VsockClaim
from broker.relay.process import PumpHandle
from broker.session.api import LocalApi, Parts, sandbox_name
from broker.session.doors import Doors
from broker.session.guest import GuestTools
from broker.session.host import HostRole
from broker.session.journal import Journal
from broker.session.microvms import MicroVms
from broker.session.pumps import PumpKeeper
from broker.session.report import Reporter
from broker.session.toolbox import find_tools
from broker.session.viewer import ViewerRole
from broker.session.vsock import open_vsock_listeners, serve_vsock
from broker.session.workers import Workers, open_workers
from policy.loader import RecordSet, load_records, search_path

VHOST_VSOCK = Path("/dev/vhost-vsock")


@dataclass(frozen=True)
class Options:
    """How a local broker is to run."""

    paths: Paths
    shipped: Path | None = None
    """A directory of records that is searched last (the demo's)."""
    allow_unjailed: bool = False


class _Records:
    """The records as they were read last."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.now = self._read()

    def _read(self) -> RecordSet:
        paths = self._options.paths
        return load_records(
            search_path(paths.runtime, paths.config), shipped=self._options.shipped
        )

    async def reload(self, log: Journal) -> None:
        """Read again, if anything means something else than before."""
        fresh = self._read()
        if fresh.digest != self.now.digest or fresh.problems != self.now.problems:
            self.now = fresh
            await self.record(log)

    async def record(self, log: Journal) -> None:
        """Say in the log what is in force."""
        files = [str(record.source) for record in self.now.records.values()]
        await log.require(
            schema.PolicyLoaded(
                policy=self.now.digest, files=files, rules=len(self.now.records)
            )
        )
        if self.now.problems:
            problems = [f"{p.where}: {p.message}" for p in self.now.problems]
            await log.note(
                schema.PolicyRefused(problems=problems, policy=self.now.digest)
            )


async def run_local(
    options: Options, pump: PumpHandle, ready: Callable[[], None]
) -> None:
    """Run a local broker until it is asked to end.

    ``ready`` is called once the control socket can be connected to.  Raises
    SetupError when it cannot start.
    """
    paths = options.paths
    for directory in (paths.runtime, paths.sandbox("x").parent):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    async with (
        open_store(paths.audit, broker="local") as store,
        open_workers(allow_unjailed=options.allow_unjailed) as workers,
        trio.open_nursery() as nursery,
    ):
        refusals = Refusals(store)
        nursery.start_soon(refusals.run)
        log = Journal(store, refusals)
        await log.require(schema.BrokerStart(software=__version__, pid=os.getpid()))
        workers.on_template_death = partial(_template_died, log)
        keeper = PumpKeeper(pump, log)
        await nursery.start(keeper.run)
        records = _Records(options)
        await records.record(log)
        broker = _Broker(
            options,
            records=records,
            log=log,
            store=store,
            workers=workers,
            keeper=keeper,
        )
        await broker.serve(ready)
        await log.note(schema.BrokerStop(reason="asked to end"))
        nursery.cancel_scope.cancel()


async def _template_died(log: Journal, pid: int, code: int | None) -> None:
    await log.note(
        schema.ProcessDied(
            process=schema.Process.TEMPLATE,
            pid=pid,
            code=code,
            reason="workers live on; the next one starts another template",
        )
    )


class _Broker:
    """The roles of one local broker."""

    def __init__(
        self,
        options: Options,
        *,
        records: _Records,
        log: Journal,
        store: Store,
        workers: Workers,
        keeper: PumpKeeper,
    ) -> None:
        self._options = options
        self._records = records
        self._log = log
        self._shutdown = trio.Event()
        paths = options.paths
        self._viewer = ViewerRole(
            paths=paths,
            records=lambda: records.now,
            tools=GuestTools(
                workers=workers,
                pump=keeper,
                log=log,
                compositor=_compositor,
                waypipe=None,
            ),
            log=log,
        )
        self._vms = MicroVms(
            paths=paths,
            record=self._viewer.record,
            find_tools=self._find_tools,
            log=log,
        )
        self._host = HostRole(
            viewer=self._viewer,
            log=log,
            open_machine=self._vms.open,
            name_for=self._name_for,
        )
        report = Reporter(
            host=self._host,
            viewer=self._viewer,
            pump=keeper,
            workers=workers,
            store=store,
            records=lambda: records.now,
            warnings=self._warnings,
        )
        self._api = LocalApi(
            Parts(
                host=self._host,
                viewer=self._viewer,
                pump=keeper,
                store=store,
                log=log,
                records=lambda: records.now,
                reload=lambda: records.reload(log),
                report=report,
                shutdown=self._shutdown,
            )
        )

    async def serve(self, ready: Callable[[], None]) -> None:
        """Run until asked to end; returns when every sandbox is gone."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._vms.run)
            await nursery.start(self._viewer.run, self._host)
            await nursery.start(self._host.run)
            if VHOST_VSOCK.exists() and os.access(VHOST_VSOCK, os.R_OK | os.W_OK):
                listeners = open_vsock_listeners()
                nursery.start_soon(serve_vsock, listeners, self._doors_of, self._log)
            await self._adopt()
            await nursery.start(serve, self._options.paths.control, self._api)
            nursery.start_soon(self._watch_signals)
            ready()
            await self._shutdown.wait()
            await self._api.stop_all()
            nursery.cancel_scope.cancel()

    async def _adopt(self) -> None:
        for sandbox, record, machine in await self._vms.adopt():
            try:
                await self._host.admit(sandbox, record, machine)
            except VitrailError as error:
                self._vms.warnings.append(f"{sandbox} was not leased anew: {error}")

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                self._shutdown.set()

    async def _find_tools(self, image: Image, progress: Callable[[str], None]) -> Tools:
        return await find_tools(self._options.paths, image, progress)

    def _name_for(
        self, name: SandboxName, taken: frozenset[SandboxName]
    ) -> SandboxName:
        record = self._viewer.record(name)
        if record is None:
            raise RefusedError(f"no valid record '{name}' on this host")
        return sandbox_name(record, taken)

    def _doors_of(self, claim: VsockClaim) -> Doors | None:
        for tenancy in self._host.tenancies():
            if tenancy.held.claim == claim:
                return tenancy.doors
        return None

    def _warnings(self) -> list[str]:
        guests = [
            f"{guest.lease.sandbox}: {text}"
            for guest in self._viewer.guests()
            for text in guest.warnings[-3:]
        ]
        found = [*self._vms.warnings[-10:], *guests]
        if find_compositor() is None:
            found.append("no compositor answers; no window can be shown")
        return found


def _compositor() -> Path:
    found = find_compositor()
    if found is None:
        display = os.environ.get("WAYLAND_DISPLAY", "wayland-0")
        raise SetupError(
            f"no compositor answers at {display}",
            hint="start the broker inside a Wayland session: "
            "'brokerctl stop --broker', then run it there",
        )
    return found
