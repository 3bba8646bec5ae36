"""The worker: the jailed process in which all bytes of one sandbox are parsed.

Forked, never executed: when ``run_worker`` is called everything is imported,
the walls of ``helpers.worker_jail`` are built, and the first thing that the event loop
does is to shut the last one, the system-call filter.  After that there are
four kinds of sockets and nothing else:

* the channel from the viewer and the pipe to it (typed messages,
  ``ipc.worker``);
* the channel to the keeper, which makes connections to the compositor;
* the listening socket on which this sandbox's Wayland clients arrive;
* the connections accepted there or handed over by the two channels.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import traceback
from collections.abc import Callable
from functools import partial

import msgspec
import trio

from broker.core import limits
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    UpstreamError,
)
from broker.core.token_bucket import TokenBucket
from broker.helpers.worker_jail import worker_filter
from broker.ipc import agent, clipboard, event_loop, transfer
from broker.ipc import keeper as keeper_messages
from broker.ipc import worker as messages
from broker.ipc.fork_server import Jail
from broker.jail.worker import readiness
from broker.jail.worker.agent_connection import AgentShell
from broker.jail.worker.clipboard.orders import WorkerClipboard
from broker.jail.worker.sound.sound import WorkerSound
from broker.jail.worker.transfer import WorkerTransfers
from broker.jail.worker.wayland.connection import WaylandConnection
from broker.jail.worker.wayland.sandbox_windows import SandboxWindows
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from broker.wire import fdpass
from broker.wire.memory import SHORT_OF_DESCRIPTORS, SHORT_OF_MEMORY
from broker.wire.one_way import MessagePipe
from broker.wire.packets import Packets

_ACCEPT_LATER = (
    SHORT_OF_MEMORY | SHORT_OF_DESCRIPTORS | {errno.EAGAIN, errno.ECONNABORTED}
)
"""Errors of accept(2) that may not occur at the next attempt."""


def run_worker(
    viewer: socket.socket,
    pipe: MessagePipe,
    display: socket.socket,
    keeper: socket.socket,
    achieved: Jail,
) -> None:
    """Serve one sandbox in this process until the viewer orders a stop or closes.

    Orders come by ``viewer``, and messages are sent by ``pipe``.
    """
    display.settimeout(0)
    worker = _Worker(Packets(viewer), pipe, display, Packets(keeper), achieved)
    try:
        event_loop.run(worker.run)
    except Exception:
        # Standard error is /dev/null here; the viewer logs it.
        text = messages.clip(traceback.format_exc()[-4000:])
        pipe.send_last(messages.encode(messages.Broken(text)))
        raise


class _Compositor:
    """Connections to the compositor, made by the keeper."""

    def __init__(self, keeper: Packets) -> None:
        self._keeper = keeper
        self._asking = trio.Lock()

    async def connect(self) -> tuple[int, socket.socket]:
        """Ask the keeper to connect to the compositor; return number and socket.

        The number is for ``release``.

        Raises UpstreamError with the reason.
        """
        async with self._asking:
            # Question and answer belong together, or the next caller gets our answer.
            with trio.CancelScope(shield=True):
                await self._keeper.send(keeper_messages.CONNECT)
                got = await self._keeper.receive(fd_limit=1)
        connected = got.data[:1] == keeper_messages.CONNECTED and len(got.data) == 2
        if connected and len(got.fds) == 1:
            return got.data[1], socket.socket(fileno=got.fds[0])
        fdpass.close_all(got.fds)
        raise UpstreamError(got.data[1:].decode("utf-8", "replace"))

    async def release(self, number: int) -> None:
        """Say that one of them is over."""
        with trio.CancelScope(shield=True):
            await self._keeper.send(keeper_messages.RELEASE + bytes([number]))


class _Worker:
    def __init__(
        self,
        viewer: Packets,
        pipe: MessagePipe,
        display: socket.socket,
        keeper: Packets,
        achieved: Jail,
    ) -> None:
        """Set up the worker; ``achieved``: what its jail does."""
        self._viewer = viewer
        self._pipe = pipe
        self._display = display
        self._compositor = _Compositor(keeper)
        self._achieved = achieved
        self._outbox, self._out = trio.open_memory_channel[messages.FromWorker](
            limits.WORKER_QUEUE
        )
        self._serving = secrets.token_hex(8)
        self._agent: AgentShell | None = None
        self._agent_scope = trio.CancelScope()
        self._clients: dict[int, WaylandConnection] = {}
        self._streams: dict[int, int] = {}
        self._displays_open = 0
        self._clients_ever = 0
        self._windows: SandboxWindows
        self._counts: dict[int, Callable[[], messages.WorkerStreamCount]] = {}
        self._sound = WorkerSound(self._outbox.send)
        self._transfers = WorkerTransfers(
            self._outbox.send, lambda: self._windows.sandbox
        )
        self._clipboard: WorkerClipboard

    async def run(self) -> None:
        """Drop the last rights, receive the rules of windows, then serve."""
        readiness.prepare()  # after lock_worker() no epoll can be made
        worker_filter.lock_worker()
        order = await self._first_order()
        windows = self._windows = SandboxWindows(order)
        self._clipboard = WorkerClipboard(windows.sandbox, self._outbox)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_out)
            await self._outbox.send(messages.WorkerReady(self._achieved))
            if windows.trace is not None:
                nursery.start_soon(windows.trace.tell, self._outbox)
            nursery.start_soon(self._serve_display, nursery, windows)
            nursery.start_soon(windows.tell_limits, self._outbox)
            nursery.start_soon(windows.tell_acts, self._outbox)
            nursery.start_soon(windows.tell_mapped, self._outbox)
            await nursery.start(self._clipboard.run)
            await self._obey(nursery, windows)
            nursery.cancel_scope.cancel()

    async def _first_order(self) -> messages.FrameRules:
        """Receive the viewer's first order: without its rules no display is served."""
        got = await self._viewer.receive()
        order = messages.decode_to_worker(got.data) if got.data else None
        if not isinstance(order, messages.FrameRules):
            raise InternalError("the first order did not set the rules for windows")
        return order

    async def _send_out(self) -> None:
        async for message in self._out:
            await self._pipe.send(messages.encode(message))

    # -- orders --------------------------------------------------------------

    async def _obey(self, nursery: trio.Nursery, windows: SandboxWindows) -> None:
        """Carry out the viewer's orders until it stops the worker or closes."""
        while True:
            got = await self._viewer.receive(fd_limit=2)
            order = messages.decode_to_worker(got.data) if got.data else None
            if order is None or isinstance(order, messages.StopWorker):
                return
            if isinstance(order, clipboard.ToWorker):
                self._clipboard.obey(order, got.fds)
            elif isinstance(order, transfer.ToWorker):
                self._transfers.obey(order, got.fds, nursery)
            else:
                await self._do(order, got.fds, nursery, windows)

    async def _do(
        self,
        order: messages.ToRest,
        fds: tuple[int, ...],
        nursery: trio.Nursery,
        windows: SandboxWindows,
    ) -> None:
        """Carry out an order about sound or a stream."""
        match order:
            case (
                messages.Sound()
                | messages.SoundStream()
                | messages.SoundLevel()
                | messages.MicrophoneOrder()
            ):
                self._sound.obey(order, fds, nursery)
            case messages.AgentStream() | messages.DisplayStream():
                self._new_stream(nursery, order, fds)
            case messages.WaylandStream(stream):
                (fd,) = fds
                nursery.start_soon(self._delivered, nursery, fd, windows, stream)
            case messages.ToAgent(message):
                self._tell_agent(message)
            case messages.DisplaysOpen(count):
                self._displays_open = count
            case messages.AskStatistics():
                await self._outbox.send(self._statistics(windows))
            case _:
                for answer in windows.obey(order):
                    await self._outbox.send(answer)

    def _statistics(self, windows: SandboxWindows) -> messages.WorkerStatistics:
        return messages.WorkerStatistics(
            clients=len(self._clients),
            uses=windows.uses(),
            streams=[count() for count in self._counts.values()],
        )

    # -- the guest agent -------------------------------------------------------

    def _new_agent(
        self, nursery: trio.Nursery, stream: int, conn: socket.socket
    ) -> None:
        """Serve a new connection of the guest agent in place of the last one."""
        self._agent_scope.cancel()
        self._agent_scope = trio.CancelScope()
        shell = AgentShell(
            conn,
            partial(self._from_agent, stream),
            serving=self._serving,
            displays=lambda: max(len(self._clients), self._displays_open),
        )
        self._agent = shell
        self._counts[stream] = lambda: messages.WorkerStreamCount(
            stream, shell.from_guest, shell.to_guest
        )
        nursery.start_soon(self._run_agent, shell, stream, self._agent_scope)

    async def _run_agent(
        self, shell: AgentShell, stream: int, replaced: trio.CancelScope
    ) -> None:
        """Serve a connection of the guest's agent until it ends, or a newer one comes.

        The viewer is told why it has ended.
        """
        reason = "replaced by a newer connection of the guest agent"
        with replaced:
            reason = await shell.run()
        self._counts.pop(stream, None)
        if self._agent is shell:
            self._agent = None
        await self._outbox.send(
            messages.AgentClosed(
                stream, messages.clip(reason), shell.from_guest, shell.to_guest
            )
        )

    async def _from_agent(self, stream: int, message: agent.FromGuest) -> None:
        await self._outbox.send(messages.FromAgent(stream, message))

    def _tell_agent(self, message: agent.ToGuest) -> None:
        """Send a message to the guest agent; give it up when it does not read."""
        if self._agent is None:
            return
        try:
            self._agent.send_nowait(message)
        except trio.WouldBlock:
            # Never wait for a guest here: Stop comes through this task too.
            self._agent.give_up("the guest agent does not read")

    # -- display streams ---------------------------------------------------------

    def _new_stream(
        self,
        nursery: trio.Nursery,
        order: messages.AgentStream | messages.DisplayStream,
        fds: tuple[int, ...],
    ) -> None:
        """Begin to serve an agent or display stream that the viewer has admitted."""
        if not fds:
            raise InternalError("the stream has no descriptor")
        conn = socket.socket(fileno=fds[0])
        if isinstance(order, messages.AgentStream):
            self._new_agent(nursery, order.stream, conn)
            return
        self._clients_ever += 1
        nursery.start_soon(
            self._serve_stream,
            self._clients_ever,
            order,
            conn,
            fds[1] if len(fds) > 1 else -1,
        )

    async def _serve_stream(
        self,
        number: int,
        order: messages.DisplayStream,
        sock: socket.socket,
        arena: int,
    ) -> None:
        """Serve one display stream to its end; report its counts to the viewer."""
        connections: list[StreamConnection] = []

        def connection(compositor: socket.socket) -> WaylandConnection:
            nonlocal arena
            mine, arena = arena, -1
            head = order.head
            connections.append(
                self._windows.stream(number, sock, compositor, head, mine)
            )
            self._counts[order.stream] = partial(
                _count_of, order.stream, connections[0]
            )
            return connections[0]

        try:
            refused = await self._serve_client(number, sock, connection)
        finally:
            self._counts.pop(order.stream, None)
            if arena >= 0:
                os.close(arena)
        reason, counts = refused, (0, 0)
        if connections:
            reason = _end_of(connections[0])
            counts = connections[0].channel.bytes, connections[0].to_client
        await self._outbox.send(
            messages.DisplayClosed(order.stream, messages.clip(reason), *counts)
        )

    # -- Wayland clients ---------------------------------------------------------

    async def _serve_display(
        self, nursery: trio.Nursery, windows: SandboxWindows
    ) -> None:
        """Accept programs at the sandbox's Wayland socket, paced, and serve each."""
        pace = TokenBucket(
            limits.WAYLAND_CONNECTS_PER_SECOND, limits.WAYLAND_CONNECTS_BURST
        )
        while True:
            await trio.lowlevel.wait_readable(self._display)
            try:
                client, _ = self._display.accept()
            except OSError as error:
                if error.errno not in _ACCEPT_LATER:
                    raise
            else:
                self._new_client(nursery, client, windows)
            early = pace.take(trio.current_time())
            await trio.sleep(early)

    def _new_client(
        self,
        nursery: trio.Nursery,
        client: socket.socket,
        windows: SandboxWindows,
        stream: int = 0,
    ) -> None:
        """Begin to serve a program's connection in a task."""
        self._clients_ever += 1
        if stream:
            self._streams[self._clients_ever] = stream
        number = self._clients_ever
        made = partial(windows.connection, number, client)
        nursery.start_soon(self._serve_client, number, client, made)

    async def _delivered(
        self,
        nursery: trio.Nursery,
        fd: int,
        windows: SandboxWindows,
        stream: int,
    ) -> None:
        """Receive an application's connection from its acceptor, and serve it."""
        channel = Packets(socket.socket(fileno=fd))
        try:
            got = await channel.receive(fd_limit=1)
        finally:
            channel.close()
        if len(got.fds) == 1:
            client = socket.socket(fileno=got.fds[0])
            self._new_client(nursery, client, windows, stream)
            return
        self._clients_ever += 1
        self._streams[self._clients_ever] = stream
        reason = "the connection ended before it was served"
        await self._refuse(self._clients_ever, reason, messages.Fault.NONE)

    async def _serve_client(
        self,
        number: int,
        client: socket.socket,
        made: Callable[[socket.socket], WaylandConnection],
    ) -> str:
        """Serve a program's connection to its end; return why not, or an empty text."""
        with client:
            if len(self._clients) >= limits.WAYLAND_CLIENTS_PER_SANDBOX:
                limit = limits.WAYLAND_CLIENTS_PER_SANDBOX
                reason = f"more than {limit} Wayland clients at one time"
                return await self._refuse(number, reason, messages.Fault.CLIENT)
            try:
                place, compositor = await self._compositor.connect()
            except (UpstreamError, PeerError) as error:
                return await self._refuse(number, str(error), messages.Fault.COMPOSITOR)
            try:
                with compositor:
                    return await self._filter(number, compositor, made)
            finally:
                await self._compositor.release(place)

    async def _filter(
        self,
        number: int,
        compositor: socket.socket,
        made: Callable[[socket.socket], WaylandConnection],
    ) -> str:
        """Run a connection's filter to its end; return why it was refused, or ""."""
        try:
            connection = made(compositor)
        except PeerError as error:
            return await self._refuse(number, str(error), messages.Fault.CLIENT)
        self._clients[number] = connection
        await self._outbox.send(messages.WaylandOpened(number))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_answered, number, connection)
                await connection.run()
                nursery.cancel_scope.cancel()
        finally:
            del self._clients[number]
        if connection.core.fault is not None:
            # The cause of its end first; the sandbox may end with its application.
            for limited in self._windows.limited():
                await self._outbox.send(limited)
        await self._say_closed(
            messages.WaylandClosed(
                number,
                connection.to_compositor,
                connection.to_client,
                _end_of(connection),
                _fault_of(connection.core.fault),
            )
        )
        return ""

    async def _tell_answered(self, number: int, connection: WaylandConnection) -> None:
        await connection.answered.wait()
        unlettered = connection.core.labelled and not connection.core.rules.strip
        await self._outbox.send(messages.WaylandAnswered(number, unlettered))

    async def _say_closed(self, closed: messages.WaylandClosed) -> None:
        """Send the supervisor the end of a client's connection."""
        stream = self._streams.pop(closed.client, 0)
        clipped = messages.clip(closed.reason)
        await self._outbox.send(
            msgspec.structs.replace(closed, reason=clipped, stream=stream)
        )

    async def _refuse(self, number: int, reason: str, fault: messages.Fault) -> str:
        await self._say_closed(messages.WaylandClosed(number, 0, 0, reason, fault))
        return reason


def _count_of(stream: int, connection: StreamConnection) -> messages.WorkerStreamCount:
    """Return the bytes that a stream has carried so far."""
    return messages.WorkerStreamCount(
        stream,
        connection.channel.bytes,
        connection.to_client,
        int(connection.work * 1000),
    )


def _fault_of(error: Exception | None) -> messages.Fault:
    """Return the side at fault for the end of a connection."""
    match error:
        case None | RefusedError():
            return messages.Fault.NONE
        case PeerError():
            return messages.Fault.CLIENT
        case UpstreamError():
            return messages.Fault.COMPOSITOR
        case _:
            return messages.Fault.OURS


def _end_of(connection: WaylandConnection) -> str:
    """Why it ended; of an internal error, where in the code it is."""
    error = connection.core.fault
    if error is None or _fault_of(error) is not messages.Fault.OURS:
        return connection.reason
    return "".join(traceback.format_exception(error))[-4000:]
