"""The broker's pump, kept running: a dead one ends its streams and is replaced."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from broker.authority.audit.event_log import EventLog
from broker.core.errors import UpstreamError, VitrailError
from broker.core.stderr_log import log_stderr
from broker.helpers.process.fork_client import ForkServer, StartServer
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.pump.client import Pump, PumpStatistics
from broker.helpers.pump.starting import PUMPS, fork_pump
from broker.ipc.audit import schema
from broker.ipc.pump import RelayMode, StreamEnd, StreamStatistics

# A pump that dies at once would otherwise be replaced as fast as it dies.
_PAUSE = 1.0
_REPLACE_SECONDS = 5.0


class PumpSupervisor:
    """Holds the pump that new streams go to."""

    def __init__(
        self, forks: ForkServerHandle | None, log: EventLog, start: StartServer
    ) -> None:
        """Set up; ``forks`` is the fork server of helpers.

        ``start`` starts another one where it has died, or is None.
        """
        self.forks = ForkServer(PUMPS, start, first=forks)
        """Where pumps come from."""
        self._pump: Pump
        self._log = log
        self._up = trio.Event()
        self.max_write = 0
        """No single write is larger, in bytes; 0: any."""
        self.mode = RelayMode.AUTO
        """How new streams are moved, in both directions."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the pump process, and a new one after each end, until cancelled.

        Raises UpstreamError, SetupError when the first one cannot be started.
        """
        try:
            self._pump = Pump(await fork_pump(self.forks))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.forks.reap)
                await self._run_each(task_status)
        finally:
            await self.forks.close()

    async def _run_each(self, task_status: trio.TaskStatus[None]) -> None:
        """Run one pump process after the other; record each end in the audit log."""
        while True:
            pump = self._pump
            began = trio.current_time()
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(pump.run)
                    self._up.set()
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
            finally:
                self._up = trio.Event()
            await self._log.note(
                schema.ProcessDied(
                    process=schema.Process.PUMP,
                    pid=pump.statistics().pid,
                    code=pump.code,
                    reason="all streams of this broker were closed",
                )
            )
            await trio.sleep(_PAUSE if trio.current_time() - began < _PAUSE else 0)
            self._pump = await self._replace()

    async def _replace(self) -> Pump:
        """Fork another pump process, as soon as this machine has room for it."""
        while True:
            try:
                return Pump(await fork_pump(self.forks))
            except VitrailError as error:
                log_stderr(f"vitrail: cannot start a new pump: {error}")
                await trio.sleep(_PAUSE)

    def statistics(self) -> PumpStatistics:
        """Return the current pump's numbers."""
        return self._pump.statistics()

    async def streams(self) -> list[StreamStatistics]:
        """Return the live streams; none when the pump has just died."""
        try:
            return await self._pump.streams()
        except UpstreamError:
            return []

    async def relay(
        self,
        a_fd: int,
        b_fd: int,
        *,
        name: str,
        max_bytes: int = 0,
        settle: Callable[[StreamEnd], None] | None = None,
    ) -> StreamEnd:
        """Relay between two sockets; see ``relay.client.Pump.relay``.

        Waits while a dead pump is being replaced, for so long that only a
        machine in trouble disappoints it.
        """
        try:
            with trio.move_on_after(_REPLACE_SECONDS):
                await self._up.wait()
        except BaseException:
            os.close(a_fd)
            os.close(b_fd)
            raise
        return await self._pump.relay(
            a_fd,
            b_fd,
            mode_ab=self.mode,
            mode_ba=self.mode,
            max_write=self.max_write,
            max_bytes=max_bytes,
            name=name,
            settle=settle,
        )
