"""The sockets around one Wayland filter: reads, writes, deadlines, no parsing.

Each accepted client gets a separate connection to the compositor and a
``WaylandFilter`` between the two.  Read bytes are fed and the output is sent at
once, in the same step (``readiness``), so an ordinary message costs one wake-up
and no task's turn; only what a full socket refuses waits for a writer task.
Reading stops while too much waits to be written: memory stays bounded, the slow
side waits.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio
from typing_extensions import override

from broker.core import limits
from broker.core.errors import PeerError, UpstreamError, VitrailError
from broker.core.limits import wayland as wayland_limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.budget import Budget
from broker.jail.wayland.filter import WaylandFilter
from broker.jail.wayland.ports import GpuMemory, OperatingSystem
from broker.jail.wayland.protocol.wire import Outgoing, bad_message
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.wayland.scene import resize_timeout
from broker.jail.worker import readiness
from broker.jail.worker.duplex import GONE, DuplexConnection
from broker.jail.worker.readiness import ReadyTasks, WatchedFile
from broker.wire import fdpass

_NO_SIGNAL = int(socket.MSG_NOSIGNAL)


def receive(
    sock: socket.socket, most: int = limits.WAYLAND_READ_BYTES
) -> fdpass.Received:
    """Receive bytes and descriptors once, at most ``most`` bytes; a reset is the end.

    Raises BlockingIOError when nothing is there, PeerError when descriptors
    were lost on the way.
    """
    try:
        return fdpass.receive(sock, most, limits.WAYLAND_FDS_PER_READ)
    except OSError as error:
        if error.errno in GONE:
            return fdpass.Received(b"", ())
        raise


def send_some(sock: socket.socket, queue: Outgoing) -> int:
    """Send as much as the socket takes now; returns the number of bytes.

    Raises OSError when the other side is gone.
    """
    if queue.fd_count:
        return _send_with_fds(sock, queue)
    data = queue.data
    try:
        count = sock.send(data, _NO_SIGNAL)
    except BlockingIOError:
        return 0
    del data[:count]
    return count


def _send_with_fds(sock: socket.socket, queue: Outgoing) -> int:
    """Send queued messages, each descriptor with its message; return the bytes sent."""
    total = 0
    while queue.data:
        view, fds = queue.front()
        with view:
            # More than libwayland's limit would be lost at the receiver.
            assert len(fds) <= limits.WAYLAND_FDS_PER_READ
            try:
                count = fdpass.send(sock, view, fds)
            except BlockingIOError:
                break
        for fd in queue.sent(count):
            os.close(fd)
        total += count
    return total


def _full(queue: Outgoing) -> bool:
    """Return whether so much waits that nothing more may be read."""
    return (
        len(queue.data) > wayland_limits.WAYLAND_QUEUE_BYTES
        or queue.fd_count > wayland_limits.WAYLAND_FDS_IN_FLIGHT
    )


def _unheard(queue: Outgoing) -> bool:
    """Return whether so much waits that the client will not be waited for."""
    return (
        len(queue.data) > wayland_limits.WAYLAND_UNHEARD_BYTES
        or queue.fd_count > wayland_limits.WAYLAND_FDS_IN_FLIGHT
    )


def _drawn_now() -> ReadyTasks:
    return ReadyTasks.MINE


async def _drawn(memory: GpuMemory, until: float) -> None:
    """Wait until the GPU has drawn into a dma-buf, or it is late."""
    with trio.move_on_at(until):
        try:
            # guard: a wait for the GPU leaves no entry of an epoll set
            with WatchedFile(memory, _drawn_now) as watch:
                await watch.left()
        except OSError:  # no room for another wait
            await trio.sleep_forever()


def _filter(
    rules: WindowRules,
    sandbox: Sandbox,
    machine: OperatingSystem,
    wake: Callable[[], None],
    trace: Callable[[str], None] | None,
) -> WaylandFilter:
    """Return a filter, which traces its actions if a trace is wanted."""
    if trace is None:
        return WaylandFilter(rules, sandbox, machine, wake)
    # Late: 170 lines that a worker without a trace does not load; the fork server has
    # loaded them for a worker that is to trace.
    from broker.jail.wayland.protocol.trace import TracedFilter, Tracer

    traced = TracedFilter(rules, sandbox, machine, wake)
    traced.tracer = Tracer(trace)
    return traced


class WaylandConnection(DuplexConnection[WaylandFilter]):
    """One client, one connection to the compositor, one filter.

    ``to_client`` and ``to_compositor`` count bytes that were sent.
    ``answered`` is set when the compositor is known and the client has been
    sent its first bytes.
    """

    KIND = "Wayland"

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        rules: WindowRules,
        sandbox: Sandbox,
        machine: OperatingSystem,
        *,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        """Raises PeerError at the sandbox's limit of clients."""
        super().__init__(client, server)
        self.core = _filter(rules, sandbox, machine, self._wake, trace)
        self.to_client = self.to_compositor = 0
        self.answered = trio.Event()
        self._budget = Budget(sandbox)
        self._pause = 0.0
        self._room = trio.Event()
        self._ready = trio.Event()
        self._late = trio.Event()
        self._hurried = math.inf
        """Until when the task that hurries sleeps."""

    @override
    def _tasks(self) -> Sequence[Callable[[], Awaitable[None]]]:
        return self._from_server, self._from_client, self._hurry

    @override
    async def _begin(self) -> None:
        self._wake()
        with trio.move_on_after(wayland_limits.WAYLAND_CONNECT_SECONDS) as patience:
            await self._first()
        if patience.cancelled_caught and not self.core.ready:
            self._end(UpstreamError("the compositor did not answer in time"))

    @override
    async def _close(self) -> None:
        """Close client and compositor, in the order that hides windows first."""
        # A client that left without a mistake may have asked for something last.
        wrong = self.core.fault is not None
        # guard: an ended client's windows go before it has read why
        if wrong:
            with suppress(OSError):  # the compositor has gone itself
                self._server.shutdown(socket.SHUT_RDWR)
        try:
            await self._last_words(to_client=wrong)
        finally:
            self.core.close()

    async def _first(self) -> None:
        while not self.core.ready and not self._over.is_set():
            await self._ready.wait()

    @override
    def _send(self, *, to_client: bool) -> bool:
        """Send as much as possible at once, and count it; True when nothing is left."""
        if not to_client:
            queue = self.core.up
            self.to_compositor += send_some(self._server, queue)
            return not queue.data
        queue = self.core.down
        sent = send_some(self._client, queue)
        if sent and not self.to_client and self.core.fault is None:
            self.answered.set()
        self.to_client += sent
        return not queue.data

    def _wake(self) -> None:
        self._work.set()
        if self.core.fault is not None:  # the writer may wait for the client
            self._end()

    @override
    def _end(self, error: VitrailError | None = None, reason: str = "") -> None:
        super()._end(error, reason)
        self._ready.set()

    def _flush(self) -> None:
        """Send as much as possible at once; the writer task does the rest."""
        core = self.core
        if core.due is not None and core.due < self._hurried:
            self._late.set()
        try:
            if core.down.data and not self._send(to_client=True):
                self._work.set()
            if core.up.data and not self._send(to_client=False):
                self._work.set()
        except OSError as error:
            self._lost(error)

    async def _from_client(self) -> None:
        """Read the client's messages, paced by their costs."""
        await self._ready.wait()
        # guard: the first read waits, too
        await trio.sleep(self._budget.first(trio.current_time()))
        core = self.core
        with WatchedFile(self._client, self._listen) as watch:
            while not self._over.is_set():
                await watch.left()
                await self._wait_for_room()
                while core.paused and not self._over.is_set():
                    await self._breathe()
                    core.from_client(b"", [], trio.current_time())
                    self._flush()
                if core.fault is not None:
                    self._end()
                    return
                await self._rest()

    def _listen(self) -> ReadyTasks:
        """Read the client once: a step, its task waits where that may not continue."""
        core = self.core
        if self._waits():
            return ReadyTasks.MINE
        try:
            data, fds = receive(self._client, wayland_limits.WAYLAND_CLIENT_READ_BYTES)
        except BlockingIOError:
            return ReadyTasks.NONE
        except PeerError as error:
            # guard: lost descriptors noticed
            self._end(bad_message(1, str(error)))
            return ReadyTasks.MINE
        except OSError as error:
            self._lost(error)
            return ReadyTasks.MINE
        if not data:
            fdpass.close_all(fds)
            self._end(reason="client closed")
            return ReadyTasks.MINE
        now = trio.current_time()
        core.from_client(data, fds, now)
        self._flush()
        if core.paused or core.fault is not None:
            return ReadyTasks.MINE
        self._pause = self._budget.pause(core.messages, core.pixels, now)
        return ReadyTasks.MINE if self._pause > 0 else ReadyTasks.PERHAPS

    async def _breathe(self) -> None:
        """Wait, between two parts of one read, for room, the GPU, and the pace."""
        if self.core.fence is not None:
            await _drawn(*self.core.fence)
        await self._wait_for_room()
        await readiness.turn()
        await self._rest()

    async def _rest(self) -> None:
        """Wait as long as the client was too fast."""
        core = self.core
        pause = self._pause or self._budget.pause(
            core.messages, core.pixels, trio.current_time()
        )
        self._pause = 0.0
        # guard: requests slowed
        if pause > 0:
            await trio.sleep(pause)

    async def _from_server(self) -> None:
        with WatchedFile(self._server, self._hear, urgent=True) as watch:
            while not self._over.is_set():
                # guard: the filter always reads the compositor
                await watch.left()

    def _hear(self) -> ReadyTasks:
        """Read the compositor once; no client delays this, whatever waits for it.

        Were it not read while a client reads nothing, we would learn late that the
        focus has gone or a key was pressed, and act on an old state: a
        paste would have content that was copied after it.  So this side is always read,
        and the client for which too much waits is ended.
        """
        core = self.core
        try:
            data, fds = receive(self._server)
        except BlockingIOError:
            return ReadyTasks.NONE
        except PeerError as error:
            self._end(UpstreamError(f"the compositor: {error}"))
            return ReadyTasks.MINE
        except OSError as error:
            self._lost(error)
            return ReadyTasks.MINE
        if not data:
            fdpass.close_all(fds)
            self._end(UpstreamError("the compositor closed the connection"))
            return ReadyTasks.MINE
        core.from_server(data, fds, trio.current_time())
        self._flush()
        # guard: the filter ends a client that does not read
        if core.fault is None and _unheard(core.down):
            core.sandbox.refused["stuck"] += 1
            core.fail(PeerError("the client does not read the compositor's messages"))
        if core.fault is not None:
            self._end()
            return ReadyTasks.MINE
        if core.ready:
            self._ready.set()
        return ReadyTasks.PERHAPS

    def _waits(self) -> bool:
        """Return whether the queues are so full that nothing more may be read."""
        up, down = self.core.up, self.core.down
        if not up.data and not down.data:
            return False
        # guard: reading stops when full
        return _full(up) or _full(down)

    async def _hurry(self) -> None:
        """Do what is due later, when it is due, until cancelled."""
        while True:
            await self._late.wait()
            while (due := self.core.due) is not None:
                self._late, self._hurried = trio.Event(), due
                with trio.move_on_at(due):
                    await self._late.wait()  # something is due earlier
                    continue
                resize_timeout.hurry(self.core, trio.current_time())
                self._flush()
                if self.core.fault is not None:
                    self._end()
                    return
            self._late, self._hurried = trio.Event(), math.inf

    async def _wait_for_room(self) -> None:
        """Stop reading while too much waits to be written."""
        core = self.core
        while self._waits():
            if self._room.is_set():
                self._room = trio.Event()  # shared: both directions may wait
            self._work.set()
            waiting = len(core.up.data) + len(core.down.data)
            with trio.move_on_after(wayland_limits.WAYLAND_STUCK_SECONDS) as patience:
                await self._room.wait()
            stuck = len(core.up.data) + len(core.down.data) >= waiting
            if patience.cancelled_caught and stuck:
                core.sandbox.refused["stuck"] += 1
                self._end(PeerError("a peer does not read its messages"))
                return

    @override
    async def _drain(self, *, to_client: bool) -> None:
        """Send what is queued for one side, waiting where it is full."""
        sock = self._client if to_client else self._server
        queue = self.core.down if to_client else self.core.up
        try:
            while not self._send(to_client=to_client):
                if not _full(queue):
                    self._room.set()
                await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            self._lost(error)
            return
        self._room.set()
