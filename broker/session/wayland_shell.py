"""The sockets around one Wayland filter: reads, writes, deadlines, no parsing.

Each accepted client gets a connection of its own to the compositor and a
``Filter`` between the two.  What is read is fed and what comes out is sent at
once, in the same task step, so an ordinary message costs one wake-up; only
what a full socket refuses waits for a writer task.  Reading stops while too
much waits to be written: memory stays bounded, the slow side waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from broker.core import fdpass, limits
from broker.core.errors import PeerError, UpstreamError, VitrailError
from broker.wayland.budget import Budget
from broker.wayland.filter import Filter
from broker.wayland.ports import Machine
from broker.wayland.rules import WindowRules
from broker.wayland.sandbox import Sandbox
from broker.wayland.trace import TracedFilter, Tracer
from broker.wayland.wire import Outgoing, bad_message

_LAST_WORDS_SECONDS = 1.0
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})


def receive(sock: socket.socket) -> fdpass.Received:
    """Read once; a reset counts as the end.

    Raises BlockingIOError when nothing is there, PeerError when descriptors
    were lost on the way.
    """
    try:
        return fdpass.receive(
            sock, limits.WAYLAND_READ_BYTES, limits.WAYLAND_FDS_PER_READ
        )
    except OSError as error:
        if error.errno in _GONE:
            return fdpass.Received(b"", ())
        raise


def send_some(sock: socket.socket, queue: Outgoing) -> bool:
    """Send what the socket takes now; True when nothing is left.

    Raises OSError when the other side is gone.
    """
    while data := queue.data:
        if not queue.fd_count:
            try:
                count = fdpass.send(sock, data)
            except BlockingIOError:
                return False
            del data[:count]
            continue
        view, fds = queue.front()
        with view:
            # More than libwayland's limit would be lost at the receiver.
            assert len(fds) <= limits.WAYLAND_FDS_PER_READ
            try:
                count = fdpass.send(sock, view, fds)
            except BlockingIOError:
                return False
        for fd in queue.sent(count):
            os.close(fd)
    return True


def _full(queue: Outgoing) -> bool:
    """Whether so much waits that nothing more may be read."""
    return (
        len(queue.data) > limits.WAYLAND_QUEUE_BYTES
        or queue.fd_count > limits.WAYLAND_FDS_IN_FLIGHT
    )


def _filter(
    rules: WindowRules,
    sandbox: Sandbox,
    machine: Machine,
    wake: Callable[[], None],
    trace: Callable[[str], None] | None,
) -> Filter:
    """A filter, one that tells what it does if somebody listens."""
    if trace is None:
        return Filter(rules, sandbox, machine, wake)
    traced = TracedFilter(rules, sandbox, machine, wake)
    traced.tracer = Tracer(trace)
    return traced


class Connection:
    """One client, one connection to the compositor, one filter.

    ``to_client`` and ``to_compositor`` count bytes that were sent.
    ``answered`` is set when the compositor is known and the client has been
    sent its first bytes.  ``reason`` says why it ended, once it has.
    """

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        rules: WindowRules,
        sandbox: Sandbox,
        machine: Machine,
        *,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        """Raises PeerError at the sandbox's limit of clients."""
        self._client = client
        self._server = server
        client.settimeout(0)
        server.settimeout(0)
        self.core = _filter(rules, sandbox, machine, self._wake, trace)
        self.to_client = self.to_compositor = 0
        self.answered = trio.Event()
        self.reason = ""
        self._budget = Budget()
        self._work = trio.Event()
        self._room = trio.Event()
        self._ready = trio.Event()
        self._over = trio.Event()

    async def run(self) -> None:
        """Serve until either side ends; never raises for what they did.

        Whoever calls owns the sockets and looks at ``core.fault``.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._from_server)
                nursery.start_soon(self._from_client)
                nursery.start_soon(self._write)
                self._wake()
                with trio.move_on_after(limits.WAYLAND_CONNECT_SECONDS) as patience:
                    await self._first()
                if patience.cancelled_caught and not self.core.ready:
                    self._end(UpstreamError("the compositor did not answer in time"))
                await self._over.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_LAST_WORDS_SECONDS):
                await self._last_words()
            self.core.close()

    async def _first(self) -> None:
        while not self.core.ready and not self._over.is_set():
            await self._ready.wait()

    async def _last_words(self) -> None:
        """Let the client's error reach it before the socket closes.

        A client that left without a mistake may have asked for something last.
        """
        to_client = self.core.fault is not None
        sock = self._client if to_client else self._server
        try:
            while not self._send(to_client=to_client):
                await trio.lowlevel.wait_writable(sock)
        except OSError:
            return  # it has gone without listening

    def _send(self, *, to_client: bool) -> bool:
        """As ``send_some``, counted."""
        if to_client:
            queue, sock = self.core.down, self._client
        else:
            queue, sock = self.core.up, self._server
        waiting = len(queue.data)
        try:
            return send_some(sock, queue)
        finally:
            sent = waiting - len(queue.data)
            if to_client:
                self.to_client += sent
                if sent and self.core.ready and self.core.fault is None:
                    self.answered.set()
            else:
                self.to_compositor += sent

    def _wake(self) -> None:
        self._work.set()

    def _end(self, error: Exception | None = None, reason: str = "") -> None:
        """Begin the end; the first reason counts."""
        if error is not None and self.core.fault is None:
            self.core.fail(error)
        if not self.reason:
            fault = self.core.fault
            self.reason = _words(fault) if fault is not None else reason
        self._over.set()
        self._ready.set()

    def _flush(self) -> None:
        """Send what can be sent at once; the writer task does the rest."""
        core = self.core
        try:
            idle = self._send(to_client=True) if core.down.data else True
            if core.up.data:
                idle = self._send(to_client=False) and idle
        except OSError as error:
            self._lost(error)
            return
        if not idle:
            self._work.set()

    def _lost(self, error: OSError) -> None:
        if error.errno not in _GONE:
            self._end(UpstreamError(f"a Wayland socket failed: {error.strerror}"))
        else:
            self._end(reason="one end closed")

    async def _from_client(self) -> None:
        await self._ready.wait()
        core = self.core
        while not self._over.is_set():
            await trio.lowlevel.wait_readable(self._client)
            if _full(core.up) or _full(core.down):
                await self._wait_for_room()
            try:
                got = receive(self._client)
            except BlockingIOError:
                continue
            except PeerError as error:
                self._end(bad_message(1, str(error)))
                return
            except OSError as error:
                self._lost(error)
                return
            if not got.data:
                fdpass.close_all(got.fds)
                self._end(reason="client closed")
                return
            now = trio.current_time()
            core.from_client(got.data, got.fds, now)
            self._flush()
            while core.paused and not self._over.is_set():
                await self._wait_for_room()
                await trio.lowlevel.checkpoint()
                core.from_client(b"", [], now)
                self._flush()
            if core.fault is not None:
                self._end()
                return
            pause = self._budget.pause(core.messages, core.pixels, now)
            if pause > 0:
                core.sandbox.refused["rate"] += 1
                await trio.sleep(pause)

    async def _from_server(self) -> None:
        core = self.core
        while not self._over.is_set():
            await trio.lowlevel.wait_readable(self._server)
            if _full(core.up) or _full(core.down):
                await self._wait_for_room()
            try:
                got = receive(self._server)
            except BlockingIOError:
                continue
            except PeerError as error:
                self._end(UpstreamError(f"the compositor: {error}"))
                return
            except OSError as error:
                self._lost(error)
                return
            if not got.data:
                fdpass.close_all(got.fds)
                self._end(UpstreamError("the compositor closed the connection"))
                return
            core.from_server(got.data, got.fds, trio.current_time())
            self._flush()
            if core.fault is not None:
                self._end()
                return
            if core.ready:
                self._ready.set()

    async def _wait_for_room(self) -> None:
        """Stop reading while too much waits to be written."""
        core = self.core
        while _full(core.up) or _full(core.down):
            if self._room.is_set():
                self._room = trio.Event()  # shared: both directions may wait
            self._work.set()
            waiting = len(core.up.data) + len(core.down.data)
            with trio.move_on_after(limits.WAYLAND_STUCK_SECONDS) as patience:
                await self._room.wait()
            stuck = len(core.up.data) + len(core.down.data) >= waiting
            if patience.cancelled_caught and stuck:
                core.sandbox.refused["stuck"] += 1
                self._end(PeerError("it takes nothing that is sent to it"))
                return

    async def _write(self) -> None:
        """Send what a socket did not take at once."""
        core = self.core
        while True:
            await self._work.wait()
            self._work = trio.Event()
            if core.fault is not None:
                self._end()  # somebody else ended it: a person, another task
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(self._drain, to_client=True))
                nursery.start_soon(partial(self._drain, to_client=False))

    async def _drain(self, *, to_client: bool) -> None:
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


def _words(error: Exception) -> str:
    return error.message if isinstance(error, VitrailError) else str(error)


@dataclass(frozen=True)
class Service:
    """What all connections of one sandbox have in common.

    ``connect`` opens a new connection to the compositor (UpstreamError if it
    cannot); ``report`` gets the reason of every connection that did not end
    by itself; ``trace`` each line of what passes (VITRAIL_DEBUG=wayland);
    ``make`` is the kind of connection that clients have.
    """

    rules: WindowRules
    sandbox: Sandbox
    machine: Machine
    connect: Callable[[], socket.socket]
    report: Callable[[Exception], None]
    trace: Callable[[str], None] | None = None
    make: Callable[..., Connection] = Connection


async def serve_client(client: socket.socket, service: Service) -> None:
    """Serve one accepted connection to its end; closes the socket."""
    with client:
        try:
            server = service.connect()
        except UpstreamError as error:
            service.report(error)
            return
        with server:
            try:
                connection = service.make(
                    client,
                    server,
                    service.rules,
                    service.sandbox,
                    service.machine,
                    trace=service.trace,
                )
            except PeerError as error:
                service.report(error)
                return
            await connection.run()
            if connection.core.fault is not None:
                service.report(connection.core.fault)
