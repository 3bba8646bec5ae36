"""The broker's pump, kept running: a dead one ends its streams and is replaced."""

from __future__ import annotations

import os
from contextlib import ExitStack

import trio

from broker.authority.audit.event_log import EventLog
from broker.core.errors import UpstreamError, VitrailError
from broker.core.stderr_log import log_stderr
from broker.helpers.process.spawn import Child, our_program, spawn
from broker.helpers.pump.client import Pump, PumpStatistics
from broker.helpers.pump.process import PumpHandle, control_pair
from broker.ipc.audit import schema
from broker.ipc.captured_stderr import FirstWords
from broker.ipc.pump import RelayMode, StreamEnd, StreamStatistics

# A pump that dies at once would otherwise be replaced as fast as it dies.
_PAUSE = 1.0
_REPLACE_SECONDS = 5.0
_VARIABLES = ("PATH", "VITRAIL_RELAY_PYTHON")


class PumpSupervisor:
    """Holds the pump that new streams go to.

    The first one was forked before trio started; its successors are started
    as programs of their own.
    """

    def __init__(self, first: PumpHandle, log: EventLog) -> None:
        self._pump = Pump(first)
        self._log = log
        self._up = trio.Event()
        self.max_write = 0
        """No single write is larger, in bytes; 0: any."""
        self.mode = RelayMode.AUTO
        """How new streams are moved, in both directions."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the pump and its successors until cancelled."""
        child: Child | None = None
        while True:
            pid = self._pump.statistics().pid
            began = trio.current_time()
            code: int | None = None
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._pump.run)
                    self._up.set()
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
            finally:
                self._up = trio.Event()
                if child is not None:  # it has ended, in every case
                    with trio.CancelScope(shield=True):
                        code = await child.wait()
            await self._log.note(
                schema.ProcessDied(
                    process=schema.Process.PUMP,
                    pid=pid,
                    code=code,
                    reason="every stream of this broker has ended with it",
                )
            )
            await trio.sleep(_PAUSE if trio.current_time() - began < _PAUSE else 0)
            child, self._pump = await self._replace()

    async def _replace(self) -> tuple[Child, Pump]:
        """Start another one, as soon as this machine has room for a process."""
        while True:
            try:
                child, handle = _respawn()
                try:
                    return child, Pump(handle)
                except BaseException:  # no descriptor to hold it by
                    handle.close()
                    child.kill_now()
                    raise
            except (OSError, VitrailError) as error:
                log_stderr(f"vitrail: no new pump, so no streams: {error}")
                await trio.sleep(_PAUSE)

    def statistics(self) -> PumpStatistics:
        """Numbers of the current pump."""
        return self._pump.statistics()

    async def streams(self) -> list[StreamStatistics]:
        """Live streams; none when the pump has just died."""
        try:
            return await self._pump.streams()
        except UpstreamError:
            return []

    async def relay(
        self, a_fd: int, b_fd: int, *, name: str, max_bytes: int = 0
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
        )


def _respawn() -> tuple[Child, PumpHandle]:
    with ExitStack() as undo:
        ours, theirs = control_pair()
        undo.callback(ours.close)
        # guard: a later pump has no variables of the session
        env = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        with theirs:
            words = FirstWords()
            undo.callback(words.close)
            # guard: a later pump has no file of the broker's
            output = words.fd
            child = spawn(
                our_program(
                    "broker.helpers.pump.process", "--control-fd", str(theirs.fileno())
                ),
                name="pump",
                env=env,
                pass_fds=[theirs.fileno()],
                stdout=output,
                stderr=output,
            )
        undo.pop_all()
    return child, PumpHandle(ours, child.pid, words=words)
