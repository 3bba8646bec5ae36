"""One sandbox's worker as the broker sees it: speak with it, see it end.

It is two processes, keeper and jailed half (``programs.keeper``); when one of
them ends so does the other, and ``wait_closed`` says why once both are gone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from broker.core import limits
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as wayland_limits
from broker.core.names import SandboxName
from broker.core.stderr_log import log_stderr
from broker.core.streams.wayland_rules import WindowRules
from broker.core.token_bucket import TokenBucket
from broker.helpers.descriptor_copies import duplicates
from broker.helpers.process.fork_client import ForkedProcess
from broker.ipc import agent, clipboard, sealed_memfd, transfer
from broker.ipc import worker as messages
from broker.ipc.fork_server import Jail
from broker.ipc.wayland_rules import order_of
from broker.viewer.clipboard.clipboard_member import DEFAULT_CHORDS, Said
from broker.viewer.clipboard.exchange.messages import CheckedContent
from broker.wire import fdpass
from broker.wire.one_way import OneWay
from broker.wire.packets import Packets


@dataclass(frozen=True)
class WorkerProcesses:
    """A worker's two halves and its channels; the holder of this owns them."""

    keeper: ForkedProcess
    jailed: ForkedProcess
    keeper_channel: Packets
    worker_channel: OneWay


@dataclass(frozen=True)
class _Read:
    """Content that was asked for: the file for it, and how much it may be; bytes."""

    fd: int
    most: int


@dataclass
class _Ask:
    """A question to the worker, and its result."""

    number: int
    done: trio.Event = field(default_factory=trio.Event)
    windows: list[messages.WindowReport] = field(default_factory=list)
    problem: str = ""


class Worker:
    """A running worker.

    ``messages`` is the bounded queue of its messages, but Ready (see ``jail``) and
    Statistics (see ``statistics``).  A caller that does not read ``messages`` stops
    this sandbox and no other.  Texts in them may be hostile.
    """

    def __init__(
        self,
        sandbox: SandboxName,
        processes: WorkerProcesses,
        rules: WindowRules,
        chords: clipboard.ChordsMessage | None = None,
    ) -> None:
        self.sandbox = sandbox
        self._rules = rules
        self._chords = chords or DEFAULT_CHORDS
        self.jail = Jail(namespaces=False, seccomp=False)
        self.ready = False
        """Whether it has reported that; a later failure is not a failed start."""
        self._keeper = processes.keeper
        self._inner = processes.jailed
        self._channel = processes.worker_channel
        self._keeper_channel = processes.keeper_channel
        self._deliver, self.messages = trio.open_memory_channel[
            messages.FromRest | messages.FromSound | Said | transfer.FromWorker
        ](limits.WORKER_QUEUE)
        self._reads: dict[int, _Read] = {}
        self._pace = TokenBucket(
            limits.WORKER_MESSAGES_PER_SECOND, limits.WORKER_MESSAGES_BURST
        )
        self._sending = trio.Lock()
        self._ending = trio.Event()
        self._closed = trio.Event()
        self._reason = ""
        self._statistics = messages.WorkerStatistics(0)
        self._counted = trio.Event()
        self._ask_number = 0
        self._asks: dict[int, _Ask] = {}

    # -- facts ---------------------------------------------------------------

    @property
    def keeper_pid(self) -> int:
        """The pid in SO_PEERCRED of each connection, as the compositor sees it."""
        return self._keeper.pid

    @property
    def inner_pid(self) -> int:
        """The jailed half's number outside its pid namespace."""
        return self._inner.pid

    async def statistics(self) -> messages.WorkerStatistics:
        """Ask for the worker's counts.

        Return the last known ones if it does not answer.
        """
        counted = self._counted
        try:
            await self.send(messages.AskStatistics())
        except UpstreamError:
            return self._statistics
        with trio.move_on_after(limits.WORKER_STOP_SECONDS):
            await counted.wait()
        return self._statistics

    async def windows(self) -> list[messages.WindowReport]:
        """Return the windows that the worker shows, oldest first; hostile text.

        Raises UpstreamError when it does not answer.
        """
        ask = self._ask()
        await self._asked(ask, messages.AskWindows(ask.number))
        return ask.windows

    async def close_window(self, window: int, *, cut: bool) -> None:
        """Ask the application to close a window, or ``cut`` its connection.

        Raises RefusedError when there is no such window, UpstreamError when
        the worker does not answer.
        """
        ask = self._ask()
        await self._asked(ask, messages.CloseWindow(ask.number, window, cut))
        if ask.problem:
            raise RefusedError(
                printable(ask.problem),
                hint="to list the windows, run 'brokerctl windows'; window numbers are not "
                "reused",
            )

    def _ask(self) -> _Ask:
        self._ask_number += 1
        ask = self._asks[self._ask_number] = _Ask(self._ask_number)
        return ask

    async def _asked(self, ask: _Ask, message: messages.ToWorker) -> None:
        """Send a question and wait for its answer.  Raises UpstreamError."""
        try:
            await self.send(message)
            with trio.move_on_after(limits.WORKER_STOP_SECONDS):
                await ask.done.wait()
        finally:
            del self._asks[ask.number]
        if not ask.done.is_set():
            raise UpstreamError(
                f"the worker of {self.sandbox} did not answer within "
                f"{limits.WORKER_STOP_SECONDS:g} s"
            )

    async def follow(self, rules: WindowRules) -> None:
        """Send window rules to the worker, if they have changed.

        Raises UpstreamError when the worker has ended.
        """
        if rules != self._rules:
            await self.send(order_of(rules))
            self._rules = rules  # not before: this may be given up

    # -- orders ----------------------------------------------------------------

    async def send(self, message: messages.ToWorker, fds: Sequence[int] = ()) -> None:
        """Send an order; the caller keeps its copies of ``fds``.

        They may be closed as soon as this waits.  Raises RefusedError for a message that does not fit into an agent's
        frame, UpstreamError when the worker has ended or takes no orders any
        more (then it is ended).
        """
        if isinstance(message, messages.ToAgent):
            size = len(agent.encode(message.message))
            if size > limits.AGENT_FRAME_BYTES:
                raise RefusedError(
                    f"cannot send the guest agent a message of {size} bytes",
                    hint=f"use at most {limits.AGENT_FRAME_BYTES} bytes for arguments and "
                    "environment together",
                )
        if isinstance(message, clipboard.ReadType):
            fds = [*fds, self._file_for(message.transfer, message.max_bytes)]
        elif isinstance(message, clipboard.Rewrite):
            most = clipboard_limits.CLIPBOARD_BYTES_MOST
            fds = [*fds, self._file_for(message.transfer, most)]
        elif isinstance(message, clipboard.StopRead):
            self._forget_read(message.transfer)
        # A number that is closed while the order waits for its turn is another file's
        # by then, perhaps another sandbox's.
        # guard: descriptors of an order that waits
        mine = duplicates(fds)
        try:
            async with self._sending:
                with trio.fail_after(limits.WORKER_STOP_SECONDS):
                    await self._channel.send(messages.encode(message), mine)
        except trio.TooSlowError as error:
            self._end("it does not accept orders")
            raise UpstreamError(
                f"the worker of {self.sandbox} did not accept an order within "
                f"{limits.WORKER_STOP_SECONDS:g} s"
            ) from error
        except (OSError, trio.ClosedResourceError) as error:
            raise UpstreamError(f"the worker of {self.sandbox} has ended") from error
        finally:
            fdpass.close_all(mine)

    def _file_for(self, number: int, most: int) -> int:
        """Make the file that the worker fills; ours until it was read or given up.

        Raises UpstreamError when there is no room for it.
        """
        for other in list(self._reads):  # one at a time
            self._forget_read(other)
        try:
            fd = sealed_memfd.file_to_fill(most)
        except OSError as error:
            raise UpstreamError(
                f"cannot create a file in memory for copied content: {error.strerror}"
            ) from error
        self._reads[number] = _Read(fd, most)
        return fd

    def _forget_read(self, number: int) -> None:
        read = self._reads.pop(number, None)
        if read is not None:
            os.close(read.fd)

    async def wait_closed(self) -> str:
        """Wait until both halves are gone; return why."""
        await self._closed.wait()
        return self._reason

    async def close(self, reason: str = "closed") -> None:
        """End the worker; returns when both halves are gone."""
        self._end(reason)
        await self._closed.wait()

    # -- its life ----------------------------------------------------------------

    async def run(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the worker until both processes have ended; ``started`` when it is ready.

        Raises SetupError or UpstreamError when it does not get ready.
        """
        try:
            await self._get_ready()
            self.ready = True
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._watch_jailed)
                nursery.start_soon(self._watch_keeper)
                await self._ending.wait()
                self._keeper_channel.close()  # so the keeper kills the other half
                with trio.move_on_after(limits.WORKER_STOP_SECONDS):
                    await self._wait_gone()
                # Its last messages have that long to be taken.
                nursery.cancel_scope.deadline = (
                    trio.current_time() + limits.WORKER_STOP_SECONDS
                )
        finally:
            with trio.CancelScope(shield=True):
                await self._destroy()

    async def _get_ready(self) -> None:
        """Send the first orders, and wait until the worker is confined and ready."""
        # Before it has this it serves no client, and does not report that it is ready.
        await self.send(order_of(self._rules))
        await self.send(self._chords)
        data, _ = await self._channel.receive()
        first = messages.decode_from_worker(data) if data else None
        if isinstance(first, messages.WorkerReady):
            self.jail = first.jail
            return
        said = printable(getattr(first, "reason", "it did not send a reason"), 2000)
        raise UpstreamError(f"the worker of {self.sandbox} did not start: {said}")

    async def _read(self) -> None:
        """Decode, count and deliver messages of the jailed half."""
        try:
            while True:
                data, _ = await self._channel.receive()
                if not data:
                    break
                self._count_message()
                message = messages.decode_from_worker(data)
                if isinstance(message, clipboard.ClipboardData):
                    await self._take_content(message)
                else:
                    await self._take(message)
        except PeerError as error:
            self._end(str(error))
        except trio.BrokenResourceError:
            self._end("the broker stopped reading its messages")
        self._deliver.close()
        # When the keeper knows why, its word comes before this one's silence.
        with trio.move_on_after(limits.WORKER_STOP_SECONDS):
            await self._ending.wait()
        self._end("it closed its channel")

    def _count_message(self) -> None:
        if self._pace.take(trio.current_time()) > 0:
            raise PeerError("it sent messages faster than the limit")

    async def _take(
        self,
        message: messages.FromRest | messages.FromSound | Said | transfer.FromWorker,
    ) -> None:
        """Handle one message of the worker, or pass it on to its handler."""
        match message:
            case messages.WorkerStatistics():
                self._statistics = message
                self._counted.set()
                self._counted = trio.Event()
            case messages.Windows() | messages.WindowClosed():
                self._answer(message)
            case messages.WorkerReady():
                raise PeerError("it sent WorkerReady twice")
            case _:
                await self._deliver.send(message)

    async def _take_content(self, message: clipboard.ClipboardData) -> None:
        """Read the requested content; a cancelled request's content is ignored."""
        read = self._reads.pop(message.transfer, None)
        if read is None:
            return
        try:
            # guard: content that was asked for
            if message.size > read.most:
                raise PeerError("it sent more content than requested")
            data = await sealed_memfd.copy(read.fd, message.size)
        finally:
            os.close(read.fd)
        await self._deliver.send(CheckedContent(message.transfer, data))

    def _answer(self, message: messages.Windows | messages.WindowClosed) -> None:
        """Add a part of an answer to its question; wake who waits for it."""
        ask = self._asks.get(message.ask)
        if ask is None:
            return  # the asking task has gone
        match message:
            case messages.Windows(_, windows, last):
                ask.windows += windows
                if len(ask.windows) > wayland_limits.WAYLAND_WINDOWS:
                    raise PeerError("it reported more windows than the limit")
                if last:
                    ask.done.set()
            case messages.WindowClosed(_, problem):
                ask.problem = problem
                ask.done.set()

    async def _watch_jailed(self) -> None:
        await self._inner.wait()
        self._end(f"its process {await self._inner.describe_end()}")

    async def _watch_keeper(self) -> None:
        """A keeper ends when its jailed half has ended, and then is not the cause."""
        await self._keeper.wait()
        if not self._inner.has_ended():
            self._end(f"its keeper {await self._keeper.describe_end()}")
            self._inner.kill()  # as the keeper would have; else its windows stay

    def _end(self, reason: str) -> None:
        """Begin the end; the first reason counts."""
        if not self._ending.is_set():
            self._reason = printable(reason)
            self._ending.set()

    async def _wait_gone(self) -> None:
        await self._keeper.wait()
        await self._inner.wait()

    async def _destroy(self) -> None:
        """Kill both processes and wake all who wait, whatever the worker's state."""
        self._keeper_channel.close()
        for process in (self._inner, self._keeper):
            process.kill()
        # A killed process that closes a file of FUSE ends when the server of that file
        # answers, which may be never.  It no longer runs our code.
        # guard: a worker that does not end holds no lease up
        with trio.move_on_after(limits.WORKER_KILLED_SECONDS) as patience:
            await self._wait_gone()
        if patience.cancelled_caught:
            log_stderr(
                f"the worker of {self.sandbox} was killed but has not exited: a file that the "
                "sandbox sent to it is on a file system that does not answer"
            )
        for process in (self._inner, self._keeper):
            process.close()
        self._channel.close()
        for number in list(self._reads):
            self._forget_read(number)
        self._deliver.close()
        self._ending.set()
        self._closed.set()
