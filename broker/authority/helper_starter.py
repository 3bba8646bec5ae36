"""The authority's helpers: programs that its starter runs for it.

The authority is confined and executes nothing; ``broker.helpers.starter`` does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from broker.core.errors import PeerError, SetupError, UpstreamError
from broker.ipc import starter as m
from broker.ipc.session.warrant import KEY_BYTES
from broker.wire import fdpass
from broker.wire.memory import PAUSE_SECONDS, is_short_of_memory

_ANSWER_SECONDS = 10.0
_T = TypeVar("_T")


class Helper:
    """A running helper.  One task waits for its end, and must."""

    def __init__(self, pid: int, pidfd: int, end: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._end = end
        self.code: int | None = None
        """How it ended: exit code, or minus the signal's number."""

    async def wait(self) -> int:
        """Wait for the helper's end.

        Return its exit code, or minus the signal's number.

        -SIGKILL, if the starter has ended before.
        """
        if self.code is None:
            await trio.lowlevel.wait_readable(self._end)
            data = os.read(self._end, m.END.size)
            whole = len(data) == m.END.size
            self.code = m.END.unpack(data)[0] if whole else -signal.SIGKILL
            os.close(self._end)
            os.close(self._pidfd)
        return self.code

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; does nothing when it has ended."""
        if self.code is None:
            _send_signal(self._pidfd, number)

    async def stop(self, grace: float = 3.0) -> int:
        """Send SIGTERM to the helper, SIGKILL after ``grace`` seconds, and wait."""
        self.kill(signal.SIGTERM)
        with trio.CancelScope(shield=True):
            with trio.move_on_after(grace):
                return await self.wait()
            self.kill()
            await self.wait()
        return self.code or 0


class HelperStarter:
    """Asks the starter; ``sock`` is connected with it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 -- the socket's own
        self._sock = sock
        self.key = os.urandom(KEY_BYTES)
        """Of the authority's warrants (``ipc.session.warrant``)."""
        with contextlib.suppress(OSError):  # an ended session child carries out nothing
            fdpass.send(sock, m.encode(m.WarrantKey(self.key)))
        self._turn = trio.Lock()
        self._owed = 0
        """Answers that are still to come."""

    async def start(self, program: m.HelperProgram, fds: Sequence[int] = ()) -> Helper:
        """Start our program with copies of these descriptors; the caller closes its own.

        Raises SetupError if it is not installed, UpstreamError.
        """
        return await self._ask(m.StartHelper(program), fds)

    async def notify(self, title: str, body: str, seconds: int) -> Helper:
        """Show a notification.  Raises as ``start``."""
        return await self._ask(m.ShowNotification(title, body, seconds), ())

    async def _ask(self, request: m.Request, fds: Sequence[int]) -> Helper:
        """Send a request to the starter and return the helper.

        Raises UpstreamError.
        """
        answered: Helper | None = None
        async with self._turn:
            try:
                with trio.move_on_after(_ANSWER_SECONDS):
                    answered = await self._exchange(request, fds)
            except (OSError, PeerError) as error:
                # guard: a request for a helper that is not sent ends no channel
                if getattr(error, "errno", 0) == errno.ETOOMANYREFS:
                    raise UpstreamError(f"cannot start a helper: {error}") from error
                self._sock.close()
                raise UpstreamError(
                    f"the connection to the process that starts helpers failed: {error}",
                    hint="to restart the broker, run 'brokerctl restart'",
                ) from error
        if answered is None:
            raise UpstreamError(
                f"the process that starts helpers did not answer within {_ANSWER_SECONDS:g} s",
                hint="wait until the machine is less busy, or run 'brokerctl restart'",
            )
        return answered

    async def _exchange(self, request: m.Request, fds: Sequence[int]) -> Helper:
        """Exchange one request and reply with the starter."""
        send = partial(fdpass.send, self._sock, m.encode(request), fds)
        await self._retry(send, trio.lowlevel.wait_writable)
        self._owed += 1
        size, most = m.MESSAGE_BYTES, m.DESCRIPTORS
        receive = partial(fdpass.receive, self._sock, size, most)
        while True:
            try:
                data, received = await self._retry(receive, trio.lowlevel.wait_readable)
            # guard: an answer without its descriptors does not end the channel
            except PeerError as error:
                self._owed -= 1
                raise UpstreamError(f"cannot start a helper: {error}") from error
            if not data:
                raise PeerError("the helper starter closed its socket")
            self._owed -= 1
            # guard: a late answer is not the next request's
            if not self._owed:
                break
            _discard(received)
        answer = m.decode_answer(data)
        if isinstance(answer, m.HelperNotStarted):
            fdpass.close_all(received)
            if answer.missing:
                raise SetupError(answer.reason, hint=answer.hint)
            raise UpstreamError(answer.reason)
        if len(received) != m.DESCRIPTORS:
            fdpass.close_all(received)
            raise PeerError(f"a helper came with {len(received)} descriptors")
        return Helper(answer.pid, *received)

    async def _retry(
        self, step: Callable[[], _T], wait: Callable[[socket.socket], Awaitable[None]]
    ) -> _T:
        """Repeat a socket operation until it does not block."""
        while True:
            try:
                return step()
            except BlockingIOError:
                await wait(self._sock)
            except OSError as error:
                # guard: an authority without memory for a moment keeps its starter
                if not is_short_of_memory(error):
                    raise
                await trio.sleep(PAUSE_SECONDS)


def _discard(received: Sequence[int]) -> None:
    """End a helper that came too late, if it is one."""
    for pidfd in received[:1]:
        _send_signal(pidfd, signal.SIGKILL)
    fdpass.close_all(received)


def _send_signal(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
