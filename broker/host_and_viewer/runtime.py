"""The runtime of a process that carries out: pump, signals, shutdown.

Its actions are recorded by an event log, its own or the authority's; the log's block
is around this one, so that it is still there at the end.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.options import Options
from broker.helpers.process.fork_client import StartServer
from broker.helpers.process.fork_handle import ForkServerHandle, ServerProcess
from broker.host_and_viewer.foundation import CurrentRecords, Foundation
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.ipc.audit import schema


@dataclass(frozen=True)
class Runtime(Foundation):
    """Running, for as long as its ``async with`` block."""

    pump: PumpSupervisor
    shutdown: trio.Event = field(default_factory=trio.Event)


@asynccontextmanager
async def open_runtime(
    role: str,
    options: Options,
    log: EventLog,
    records: CurrentRecords,
    forks: ForkServerHandle,
    *,
    start: StartServer,
) -> AsyncIterator[Runtime]:
    """Hold the runtime of a part, with its pump, while the block runs.

    ``forks`` is the fork server of helpers; ``start`` starts another one.

    Sets ``Runtime.shutdown`` on SIGTERM and SIGINT.  Raises SetupError when
    the broker cannot start.
    """
    async with trio.open_nursery() as nursery:
        pump = PumpSupervisor(forks, log, start)
        await nursery.start(pump.run)
        ground = Runtime(role, options, log, records, pump)
        nursery.start_soon(_watch_signals, ground.shutdown)
        # guard: a dead fork server of helpers is reaped, and recorded
        nursery.start_soon(_watch_forks, forks.process, log)
        yield ground
        nursery.cancel_scope.cancel()


async def _watch_signals(shutdown: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            shutdown.set()


async def _watch_forks(process: ServerProcess, log: EventLog) -> None:
    await fork_server_died(log, process.pid, await process.wait())


async def fork_server_died(log: EventLog, pid: int, code: int | None) -> None:
    """Record the unexpected end of a fork server."""
    await log.note(
        schema.ProcessDied(
            process=schema.Process.FORK_SERVER,
            pid=pid,
            code=code,
            reason="its children continue to run; the next start creates a new fork server",
        )
    )
