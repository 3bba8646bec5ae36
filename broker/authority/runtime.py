"""The runtime of every role: event log, pump, records, checkpoints, shutdown.

``open_runtime`` starts it and, when the role is done, takes it down again;
sandboxes end first, while everything that they need is still there.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from broker import __version__
from broker.authority.audit.checkpoints import CheckpointWitness, JournalTeller, Sealing
from broker.authority.audit.journal import Journal
from broker.authority.audit.refusals import Refusals
from broker.authority.audit.retention_service import Retention
from broker.authority.audit.settings import AuditMode, Settings, load_settings
from broker.authority.audit.shipping import Shipping
from broker.authority.audit.store import Store, open_store
from broker.authority.control.server import refuse_second, serve
from broker.authority.pump_supervisor import PumpSupervisor
from broker.authority.records.sandboxes import Records
from broker.core.errors import UpstreamError
from broker.core.paths import Paths, require_private
from broker.core.stderr_log import log_stderr
from broker.helpers.pump.process import PumpHandle
from broker.ipc.audit import schema
from broker.ipc.control.dispatch import Dispatcher


@dataclass(frozen=True)
class Options:
    """How a broker is to run."""

    paths: Paths
    shipped: Path | None = None
    """A directory of records that is searched last (the demo's)."""
    allow_unjailed: bool = False
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)
    """Handed over by a service manager: ``control``, ``link``."""
    stopping: Callable[[], None] = lambda: None
    """Called when the end begins."""


@dataclass(frozen=True)
class Runtime:
    """Running, for as long as its ``async with`` block."""

    role: str
    options: Options
    store: Store
    log: Journal
    pump: PumpSupervisor
    records: Records
    sealing: Sealing
    witness: CheckpointWitness
    retention: Retention
    shipping: Shipping
    shutdown: trio.Event = field(default_factory=trio.Event)

    @property
    def paths(self) -> Paths:
        """Where the broker's things are."""
        return self.options.paths


@asynccontextmanager
async def open_runtime(
    role: str, options: Options, pump: PumpHandle
) -> AsyncIterator[Runtime]:
    """Start it.

    Sets ``Runtime.shutdown`` on SIGTERM and SIGINT.  Raises SetupError when
    the broker cannot start.
    """
    paths = options.paths
    for directory in (paths.runtime, paths.sandbox("x").parent):
        # guard: only a directory of ours is closed to others
        require_private(paths)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    require_private(paths)
    # First of all: "a broker runs already" is what a person can use; the log's
    # "another broker writes here" would come before it otherwise.
    if "control" not in options.sockets:
        refuse_second(paths.control)
    async with AsyncExitStack() as stack:
        settings = load_settings(paths.config)
        store = await _open_log(stack, paths, role, settings)
        async with trio.open_nursery() as nursery:
            refusals = Refusals(store)
            nursery.start_soon(refusals.run)
            log = Journal(store, refusals, mode=settings.mode)
            await log.require(schema.BrokerStart(software=__version__, pid=os.getpid()))
            keeper = PumpSupervisor(pump, log)
            await nursery.start(keeper.run)
            shipping = Shipping(paths, log)
            nursery.start_soon(shipping.run)
            records = Records(paths, options.shipped, log)
            await records.record()
            sealing = Sealing(store, settings)
            if settings.journald:
                sealing.listeners.append(JournalTeller(paths.audit).tell)
            nursery.start_soon(sealing.run)
            retention = Retention(store, settings, shipping.shipped)
            nursery.start_soon(retention.run)
            ground = Runtime(
                role,
                options,
                store,
                log,
                keeper,
                records,
                sealing,
                CheckpointWitness(store, sealing, log),
                retention,
                shipping,
            )
            nursery.start_soon(_watch_signals, ground.shutdown)
            yield ground
            await log.note(schema.BrokerStop(reason="asked to end"))
            await sealing.last()
            nursery.cancel_scope.cancel()


async def serve_until_asked(
    ground: Runtime,
    api: Dispatcher,
    ready: Callable[[], None],
    end: Callable[[], Awaitable[None]],
) -> None:
    """The last part of every role: answer 'brokerctl' until the end is asked for.

    ``ready`` is called once the control socket can be connected to, ``end``
    when it is over, with everything still there.
    """
    # Late: it is needed with the first client.
    from broker.net.peers.control_peers import why_not_served

    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve,
                ground.paths.control,
                api,
                activated=ground.options.sockets.get("control"),
                refuse=why_not_served,
            )
        )
        ready()
        await ground.shutdown.wait()
        ground.options.stopping()
        await end()
        nursery.cancel_scope.cancel()


async def _open_log(
    stack: AsyncExitStack, paths: Paths, role: str, settings: Settings
) -> Store:
    """Open the audit log; where it need not be, one in memory stands in for it."""
    try:
        return await stack.enter_async_context(
            open_store(paths.audit, broker=role, settings=settings)
        )
    except UpstreamError as error:
        if settings.mode is AuditMode.REQUIRED:
            raise
        log_stderr(
            f"vitrail: {error}; as audit.toml says 'best-effort', this broker's "
            "events are lost when the machine is switched off"
        )
        store = await stack.enter_async_context(
            open_store(paths.runtime / paths.audit.name, broker=role, settings=settings)
        )
        await store.record(
            schema.LogGap(count=0, seconds=0.0, reason=f"in memory only: {error}")
        )
        return store


async def _watch_signals(shutdown: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            shutdown.set()
