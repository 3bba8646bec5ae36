"""A fork server as the broker sees it (``helpers.process.fork_server``).

The host and the viewer order children by this.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import trio
from typing_extensions import override

from broker.core.errors import PeerError, SetupError, UpstreamError
from broker.helpers.descriptor_copies import duplicates
from broker.helpers.process.fork_handle import ForkServerHandle, ServerProcess
from broker.helpers.process.pidfd import PidfdProcess, describe_end
from broker.ipc import fork_server as messages
from broker.ipc.captured_stderr import FirstWords
from broker.wire import fdpass
from broker.wire.calls import AnswerReceived, Calls, ErrorReceived
from broker.wire.packets import Packets
from broker.wire.row import ProcessKind, Row

ForkRow: TypeAlias = Row[Any, messages.Forked]
_Died = Callable[[int, int | None], Awaitable[None]]
_IN_FLIGHT = "your programs keep too many descriptors in flight: see docs/jails.md"
_LOOK_SECONDS = 1.0
"""For an answer that is there, whatever callers have waited before."""
_END_SECONDS = 1.0
"""Until the server has reaped a child that has ended."""


@dataclass(frozen=True)
class ForkServerProgram:
    """Which fork server; ``what`` names its children in errors.

    ``seconds``: a server that does not answer for that long is replaced.
    ``allow_unjailed``: of workers alone, where no jail can be built.
    """

    kind: messages.ForkServerKind
    what: str
    seconds: Callable[[], float]
    allow_unjailed: bool = False


StartServer: TypeAlias = Callable[
    [ForkServerProgram, socket.socket], Awaitable[ServerProcess]
]
"""Starts a fork server whose client has the other end of this socket.

Raises SetupError, UpstreamError, OSError.
"""


class ForkedProcess(PidfdProcess):
    """A child of a fork server, which knows how it ended; owns its descriptors."""

    def __init__(
        self, pid: int, pidfd: int, end: int, jail: messages.Jail | None = None
    ) -> None:
        super().__init__(pid, pidfd)
        self.jail = jail
        self.end = end
        """The pipe, not blocking, into which its server writes how it ended."""
        self.words: FirstWords | None = None
        """Its standard error, where that is captured."""

    async def describe_end(self) -> str:
        """Say how it ended, when it has: "was killed by SIGKILL", or "died"."""
        code = await end_of(self.end)
        return "died" if code is None else describe_end(code)

    @override
    def close(self) -> None:
        """Close the process's descriptors, and log its captured words, if any."""
        super().close()
        trio.lowlevel.notify_closing(self.end)
        os.close(self.end)
        if self.words is not None:
            self.words.log(f"process {self.pid}")


async def end_of(end: int) -> int | None:
    """Read how a child that has ended did so: exit code, or minus the signal's number.

    None where its server died before.
    """
    with trio.move_on_after(_END_SECONDS):
        await trio.lowlevel.wait_readable(end)
    try:
        data = os.read(end, messages.END.size)
    except BlockingIOError:
        return None
    return messages.END.unpack(data)[0] if data else None


class ForkServer:
    """The fork server of a broker: started when needed, and again when it died."""

    def __init__(
        self,
        program: ForkServerProgram,
        start: StartServer,
        *,
        first: ForkServerHandle | None = None,
    ) -> None:
        """Set up the client.

        ``first`` is the server used until it dies or is silent.
        """
        self._program = program
        self._start = start
        self._begun, self._started = trio.open_memory_channel[ServerProcess](math.inf)
        self._run: _Run | None = None
        if first is not None:
            self._run = _Run(program, first, shared=True)
        self._turn = trio.Lock()

    @property
    def pid(self) -> int:
        """Its process id; 0 while there is none."""
        return self._run.child.pid if self._run is not None else 0

    async def reap(self, died: _Died | None = None) -> None:
        """Reap each server that this client has started.

        Then call ``died``: pid, code.
        """
        async for child in self._started:
            pid = child.pid
            # guard: a fork server that has died does not stay as a zombie
            code = await child.wait()
            if died is not None:
                await died(pid, code)

    async def _running(self) -> _Run:
        """Return the running server; start one if needed.

        Raises UpstreamError when there is no room for it, SetupError when it cannot
        be executed.
        """
        if self._run is None:
            self._run = await self._begin()
            self._begun.send_nowait(self._run.child)
        return self._run

    async def _begin(self) -> _Run:
        """Start a fork server; return its connection."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    process = await self._start(self._program, theirs)
                except BaseException:
                    ours.close()
                    raise
        except OSError as error:
            raise UpstreamError(
                f"cannot start a process for {self._program.what}: {error.strerror}",
                hint="check whether memory, processes or descriptors are exhausted",
            ) from error
        return _Run(self._program, ForkServerHandle(ours, process), shared=False)

    async def fork(
        self, row: ForkRow, request: messages.ForkMessage, fds: Sequence[int]
    ) -> ForkedProcess:
        """Have the server fork a child; return it.  The caller keeps ``fds``.

        Raises UpstreamError when there is no process for it, SetupError when its
        jail cannot be built.
        """
        answer, (pidfd, end) = await self._ask(row, request, fds)
        return ForkedProcess(answer.pid, pidfd, end, answer.jail)

    async def _ask(
        self, row: ForkRow, request: messages.ForkMessage, fds: Sequence[int]
    ) -> tuple[messages.Forked, Sequence[int]]:
        """Send an order to a server, twice if the first one has died.

        Return the answer.
        """
        # A number that is closed while this waits for its turn is another file's.
        mine = duplicates(fds)
        try:
            async with self._turn:
                for _ in range(2):
                    run = await self._running()
                    answered = await run.ask(row, request, mine)
                    if answered is not None:
                        return answered
                    await self.close()
        finally:
            fdpass.close_all(mine)
        raise UpstreamError(
            f"cannot start {self._program.what}: two fork servers ended or did not answer",
            hint="see the broker's log; memory, processes or descriptors may be exhausted",
        )

    async def close(self) -> None:
        """End the fork server; its children live on."""
        run, self._run = self._run, None
        if run is not None:
            with trio.CancelScope(shield=True):
                await run.end()


class _Run:
    """One run of a fork server."""

    def __init__(
        self, program: ForkServerProgram, handle: ForkServerHandle, *, shared: bool
    ) -> None:
        self._program = program
        self._channel = Packets(handle.control)
        self.child = handle.process
        self._shared = shared
        self._calls = Calls(
            messages.CLIENT,
            ProcessKind.FORK_SERVER,
            messages.FORK_ROWS,
            most_calls=messages.CHILDREN,
        )
        self._silent = self._heard = 0.0
        """Seconds that callers have waited since its last answer, up to the second: when
        the current call began, or that answer came, by trio's clock."""

    async def ask(
        self, row: ForkRow, request: messages.ForkMessage, fds: Sequence[int]
    ) -> tuple[messages.Forked, Sequence[int]] | None:
        """Send an order; return the answer and its descriptors; None: server is dead.

        Cancelled, it leaves an answer behind, which the next call discards.
        """
        number, data = self._calls.call(row, request, len(fds))
        self._heard = trio.current_time()
        least = min(_LOOK_SECONDS, self._program.seconds())
        patience = max(least, self._program.seconds() - self._silent)
        try:
            with trio.fail_after(patience) as scope:
                await self._channel.send(data, fds)
                return await self._answer(number, scope)
        except (OSError, PeerError, trio.TooSlowError, trio.ClosedResourceError) as e:
            if getattr(e, "errno", None) == errno.ETOOMANYREFS:
                raise SetupError(_IN_FLIGHT) from e
            return None
        finally:
            # Time between calls does not count: nobody reads answers then.
            self._silent += trio.current_time() - self._heard

    async def _answer(
        self, number: int, scope: trio.CancelScope
    ) -> tuple[messages.Forked, Sequence[int]] | None:
        """Wait for the answer of a number; None when the server has ended."""
        while True:
            got = await self._channel.receive(self._calls.most_descriptors)
            if not got.data:
                return None
            try:
                event = self._calls.receive(got.data, len(got.fds))
            except PeerError:
                fdpass.close_all(got.fds)
                raise
            self._silent, self._heard = 0.0, trio.current_time()
            # guard: a start that was given up ends no fork server later
            scope.deadline = self._heard + self._program.seconds()
            if isinstance(event, AnswerReceived):
                if event.call == number:
                    return event.answer, got.fds
                _discard(event.answer, got.fds)
            elif isinstance(event, ErrorReceived) and event.call == number:
                if not isinstance(event.error, UpstreamError):
                    raise event.error
                reason = event.error.message
                raise UpstreamError(
                    f"cannot start a process for {self._program.what}: {reason}",
                    hint=event.error.hint,
                )

    async def end(self) -> None:
        """End the server and wait for it.

        First the signal: a server that saw the end of its channel might end its children.
        A server with other clients ends with the last of them.
        """
        if not self._shared:
            self.child.kill()
        self._channel.close()
        if not self._shared:
            await self.child.wait()


def _discard(answer: messages.Forked, fds: Sequence[int]) -> None:
    """End a child for which no task waits any more."""
    pidfd, end = fds
    os.close(end)
    child = PidfdProcess(answer.pid, pidfd)
    child.kill()
    child.close()
