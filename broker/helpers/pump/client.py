"""The pump as trio sees it: hand over two sockets, await how it ended.

``Pump`` owns the control socket.  One task (``run``) reads it; any number of
tasks relay.  Descriptors leave this process at once, so a relayed stream
costs the broker a waiting task and nothing else.

The host and the viewer hold their pumps by this, and ``brokerctl proxy``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import trio

from broker.core.errors import InternalError, UpstreamError
from broker.core.limits import relay as relay_limits
from broker.core.stderr_log import log_stderr
from broker.helpers.process.fork_client import end_of
from broker.helpers.pump.handle import PumpHandle
from broker.ipc.pump import (
    MESSAGE_BYTES,
    Abort,
    EndReason,
    Live,
    PumpReady,
    PumpRequest,
    RelayMode,
    Side,
    StreamDone,
    StreamEnd,
    StreamStatistics,
    Submit,
    ToPump,
    decode_from_pump,
    encode_to_pump,
)
from broker.wire import fdpass


@dataclass(frozen=True)
class PumpStatistics:
    """A pump at a moment.  ``ended`` counts streams by reason since its start."""

    pid: int
    alive: bool
    accelerated: bool
    streams: int
    ended: dict[EndReason, int]


class _Pending(NamedTuple):
    """A stream that has not ended, as the broker remembers it."""

    terms: Submit
    settle: Callable[[StreamEnd], None]
    name: str


class Pump:
    """A running pump.  Start ``run`` in a nursery, then call ``relay``."""

    def __init__(self, handle: PumpHandle) -> None:
        handle.control.settimeout(0)
        self._handle = handle
        self._control = handle.control
        self._pidfd = handle.pidfd
        self.code: int | None = None
        """How it ended: its exit code, or minus the signal's number."""
        self._pending: dict[int, _Pending] = {}
        self._tokens = 0
        self._sending = trio.Lock()
        self._died = trio.Event()
        self._accelerated = False
        self._ended: Counter[EndReason] = Counter()
        self._asking = trio.Lock()
        self._request = 0
        self._answer: list[StreamStatistics] = []
        self._answered = trio.Event()

    # -- the reader ------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Read the pump's messages until it dies; then every stream has ended.

        Reports as started when the pump runs.  Cancelling it ends the pump
        and, with it, all streams.
        """
        try:
            await self._read(task_status)
        finally:
            try:
                self._bury()
            finally:
                with trio.CancelScope(shield=True):
                    await self._reap()

    async def _read(self, task_status: trio.TaskStatus[None]) -> None:
        """Read packets of the pump, until it ends."""
        # Its first message is that it runs.  A pump that never does is found
        # dead by the first relay(); the code that starts us need not fail for it.
        await trio.lowlevel.wait_readable(self._control)
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(self._control)
            for _ in range(64):  # then let other tasks have their turn
                try:
                    packet = self._control.recv(MESSAGE_BYTES)
                except BlockingIOError:
                    break
                except ConnectionResetError:
                    return
                if not packet:
                    return
                try:
                    self._take(packet)
                except InternalError as error:
                    # Its streams end with it; the broker, and all else, does not.
                    log_stderr(f"vitrail: stopping pump {self._handle.pid}: {error}")
                    return

    def _take(self, packet: bytes) -> None:
        """Handle one packet of the pump: a stream's end, or statistics."""
        match decode_from_pump(packet):
            case StreamDone(token, end):
                pending = self._pending.pop(token, None)
                if pending is None:
                    raise InternalError(f"the pump ended the unknown stream {token}")
                self._ended[end.reason] += 1
                pending.settle(end)
            case Live(request, last, streams):
                if request == self._request:
                    self._answer += streams
                    if last:
                        self._answered.set()
            case PumpReady(_, accelerated):
                self._accelerated = accelerated

    def _bury(self) -> None:
        """End every stream of a pump that has died or is sent away."""
        self._died.set()
        self._answered.set()
        trio.lowlevel.notify_closing(self._control)
        self._control.close()
        while self._pending:
            _, pending = self._pending.popitem()
            self._ended[EndReason.PUMP_DIED] += 1
            modes = pending.terms.mode_ab, pending.terms.mode_ba
            pending.settle(StreamEnd(0, 0, EndReason.PUMP_DIED, 0, Side.NONE, *modes))

    async def _reap(self) -> None:
        """Wait for the process's end, kill it if needed, and reap our child."""
        pidfd, self._pidfd = self._pidfd, -1
        try:
            with trio.move_on_after(relay_limits.RELAY_PUMP_END_SECONDS) as patience:
                await _wait_ended(pidfd)
            if patience.cancelled_caught:
                _kill(pidfd)
                await _wait_ended(pidfd)
            if self._handle.end < 0:
                # It has ended, so this does not block.
                found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)  # noqa: ASYNC222
                if found is not None:
                    exited = found.si_code == os.CLD_EXITED
                    self.code = found.si_status if exited else -found.si_status
            else:
                self.code = await end_of(self._handle.end)
        finally:
            if self._handle.words is not None:
                self._handle.words.log(f"the pump {self._handle.pid}")
            if self._handle.end >= 0:
                os.close(self._handle.end)
            trio.lowlevel.notify_closing(pidfd)
            os.close(pidfd)

    async def wait_died(self) -> None:
        """Wait until the pump is gone, for whatever reason."""
        await self._died.wait()

    # -- streams ---------------------------------------------------------------

    async def relay(
        self,
        a_fd: int,
        b_fd: int,
        *,
        mode_ab: RelayMode = RelayMode.AUTO,
        mode_ba: RelayMode = RelayMode.AUTO,
        idle_seconds: float | None = None,
        max_write: int = 0,
        max_bytes: int = 0,
        name: str = "",
        settle: Callable[[StreamEnd], None] | None = None,
    ) -> StreamEnd:
        """Relay between two connected stream sockets until both have ended.

        Takes ownership of both descriptors in every outcome, cancellation
        included: when this returns or raises, neither is open here or in the
        pump.  Nothing may have been read ahead from either.  ``idle_seconds``
        without a byte in either direction end the stream (None: no limit);
        ``max_write`` bounds single writes, in bytes (0: any); a direction of
        more than ``max_bytes`` (0: any) ends the stream, with the errno EFBIG;
        ``name`` shows in ``streams()``.  ``settle`` gets the end also of a stream that
        is cut because this call was cancelled.

        Raises UpstreamError when the pump is dead or full, ValueError for an
        ``idle_seconds`` that is not positive.
        """
        ends: list[StreamEnd] = []
        done = trio.Event()

        def ended(end: StreamEnd) -> None:
            ends.append(end)
            done.set()
            if settle is not None:
                settle(end)

        try:
            idle_ms = milliseconds(idle_seconds)
            terms = Submit(0, mode_ab, mode_ba, idle_ms, max_write, max_bytes)
            while not (token := self.submit(a_fd, b_fd, terms, ended, name)):
                await self.wait_room()
        finally:
            os.close(a_fd)
            os.close(b_fd)
        try:
            await done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._abort(token, done)
            raise
        return ends[0]

    def submit(
        self,
        a_fd: int,
        b_fd: int,
        terms: Submit,
        settle: Callable[[StreamEnd], None],
        name: str = "",
    ) -> int:
        """Have two sockets relayed as ``relay`` does, without a task that waits.

        Returns the stream's number (that of ``terms`` does not count), 0 when the pump
        takes no message just now.  ``run`` calls ``settle`` once with its end.  Both
        descriptors stay the caller's.  Raises UpstreamError as ``relay`` does.
        """
        if len(self._pending) >= relay_limits.RELAY_STREAMS:
            raise UpstreamError(
                f"cannot relay another stream: {relay_limits.RELAY_STREAMS} streams are open",
                hint="to see the streams, run 'brokerctl status --all'; then stop the sandbox with the most",
            )
        token = self._tokens = self._tokens + 1
        if not self._send_nowait(
            encode_to_pump(terms._replace(token=token)), (a_fd, b_fd)
        ):
            return 0
        self._pending[token] = _Pending(terms, settle, name)
        return token

    async def _abort(self, token: int, done: trio.Event) -> None:
        """Cut a stream; kill the pump if it does not obey.

        Only the pump holds the descriptors: when it is stuck, ending it is the
        only way to keep the promise that a cut stream is cut.
        """
        with trio.move_on_after(relay_limits.RELAY_ABORT_SECONDS):
            try:
                await self._send(Abort(token))
            except UpstreamError:
                return  # no pump, no stream
            await done.wait()
            return
        if self._pidfd >= 0:
            _kill(self._pidfd)
        await done.wait()

    async def _send(self, message: ToPump) -> None:
        """Send one packet.  Raises UpstreamError when the pump is gone."""
        packet = encode_to_pump(message)
        while not self._send_nowait(packet):
            await self.wait_room()

    async def wait_room(self) -> None:
        """Wait until the pump may take a message.  Raises UpstreamError."""
        async with self._sending:
            if self._died.is_set():
                raise self._dead()
            try:
                await trio.lowlevel.wait_writable(self._control)
            except trio.ClosedResourceError as error:
                raise self._dead() from error

    def _send_nowait(self, packet: bytes, fds: tuple[int, ...] = ()) -> bool:
        """Send a packet to the pump; return False if its queue is full."""
        if self._died.is_set():
            raise self._dead()
        try:
            fdpass.send(self._control, packet, fds)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}:
                raise self._dead() from error
            raise UpstreamError(
                f"cannot pass a stream to the relay: {error.strerror}",
                hint="raise the limit on open files ('ulimit -n')",
            ) from error
        return True

    def _dead(self) -> UpstreamError:
        return UpstreamError(
            f"the relay's process {self._handle.pid} has died",
            hint="open the connection again; the broker starts a new process",
        )

    # -- numbers -----------------------------------------------------------------

    def statistics(self) -> PumpStatistics:
        """Return the statistics that are known without asking the pump."""
        return PumpStatistics(
            pid=self._handle.pid,
            alive=not self._died.is_set(),
            accelerated=self._accelerated,
            streams=len(self._pending),
            ended=dict(self._ended),
        )

    async def streams(self) -> list[StreamStatistics]:
        """Ask the pump for every live stream.

        Raises UpstreamError when it is dead, or does not answer.
        """
        async with self._asking:
            self._request += 1
            self._answer = []
            self._answered = trio.Event()
            with trio.move_on_after(relay_limits.RELAY_ANSWER_SECONDS) as patience:
                await self._send(PumpRequest(self._request))
                await self._answered.wait()
            if patience.cancelled_caught:
                raise UpstreamError(
                    f"the relay's process {self._handle.pid} did not answer within {relay_limits.RELAY_ANSWER_SECONDS:g} s",
                    hint=f"run 'kill {self._handle.pid}', which ends its streams; the broker starts a new process",
                )
            if self._died.is_set():
                raise self._dead()
            answer, self._answer = self._answer, []
        return [
            stream.named(self._pending[stream.token].name)
            for stream in answer
            if stream.token in self._pending
        ]


async def _wait_ended(pidfd: int) -> None:
    """Wait until the process has ended; check it after each wake-up.

    epoll(7) may wake for what another duplicate of the number was once.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while not poll.poll(0):
        await trio.lowlevel.wait_readable(pidfd)


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def milliseconds(seconds: float | None) -> int:
    """Return seconds as milliseconds, 0 for None.  Raises ValueError unless positive."""
    if seconds is None:
        return 0
    if seconds <= 0:
        raise ValueError("an idle deadline must be a positive number of seconds")
    return max(1, round(seconds * 1000))
