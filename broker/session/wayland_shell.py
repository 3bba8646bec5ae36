"""The sockets around one Wayland filter: reads, writes, deadlines, no parsing.

Each accepted client gets a connection of its own to the compositor and a
``Filter`` between the two.  What is read is fed and what comes out is sent at
once, in the same task step, so an ordinary message costs one wake-up; only
what a full socket refuses waits for a writer task.  Reading stops while too
much waits to be written: memory stays bounded, the slow side waits.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import PeerError, SetupError, UpstreamError
from broker.wayland.budget import Budget
from broker.wayland.filter import Filter
from broker.wayland.ports import Machine
from broker.wayland.rules import WindowRules
from broker.wayland.sandbox import Sandbox
from broker.wayland.trace import TracedFilter, Tracer
from broker.wayland.wire import Outgoing, bad_message

_FD_BYTES = array.array("i").itemsize
_CONTROL_BYTES = socket.CMSG_SPACE(limits.WAYLAND_FDS_PER_READ * _FD_BYTES)
_LAST_WORDS_SECONDS = 1.0
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})


def receive(sock: socket.socket) -> tuple[bytes, list[int], bool]:
    """Return bytes, descriptors, and whether descriptors were lost on the way.

    Raises BlockingIOError when nothing is there; a reset counts as the end.
    """
    try:
        data, control, flags, _ = sock.recvmsg(
            limits.WAYLAND_READ_BYTES, _CONTROL_BYTES, socket.MSG_CMSG_CLOEXEC
        )
    except OSError as error:
        if error.errno in _GONE:
            return b"", [], False
        raise
    fds: list[int] = []
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) - len(payload) % _FD_BYTES])
            fds.extend(numbers)
    return data, fds, bool(flags & socket.MSG_CTRUNC)


def send_some(sock: socket.socket, queue: Outgoing) -> bool:
    """Send what the socket takes now; True when nothing is left.

    Raises OSError when the other side is gone.
    """
    while queue.data:
        view, fds = queue.front()
        with view:
            # More than libwayland's limit would be lost at the receiver.
            assert len(fds) <= limits.WAYLAND_FDS_PER_READ
            try:
                if fds:
                    control = [
                        (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                    ]
                    count = sock.sendmsg([view], control, socket.MSG_NOSIGNAL)
                else:
                    count = sock.send(view, socket.MSG_NOSIGNAL)
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
    rules: WindowRules, sandbox: Sandbox, machine: Machine, wake: Callable[[], None]
) -> Filter:
    """A filter, one that tells what it does if VITRAIL_DEBUG has 'wayland'."""
    if "wayland" not in os.environ.get("VITRAIL_DEBUG", "").split(","):
        return Filter(rules, sandbox, machine, wake)
    traced = TracedFilter(rules, sandbox, machine, wake)
    traced.tracer = Tracer(_tell)
    return traced


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


class Connection:
    """One client, one connection to the compositor, one filter."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        rules: WindowRules,
        sandbox: Sandbox,
        machine: Machine,
    ) -> None:
        self._client = client
        self._server = server
        client.settimeout(0)
        server.settimeout(0)
        self.core = _filter(rules, sandbox, machine, self._wake)
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
        """Let the client's error reach it before the socket closes."""
        if self.core.fault is None:
            return
        try:
            while not send_some(self._client, self.core.down):
                await trio.lowlevel.wait_writable(self._client)
        except OSError:
            return  # it has gone without listening

    def _wake(self) -> None:
        self._work.set()

    def _end(self, error: Exception | None = None) -> None:
        if error is not None and self.core.fault is None:
            self.core.fail(error)
        self._over.set()
        self._ready.set()

    def _flush(self) -> None:
        """Send what can be sent at once; the writer task does the rest."""
        core = self.core
        try:
            idle = send_some(self._client, core.down) if core.down.data else True
            if core.up.data:
                idle = send_some(self._server, core.up) and idle
        except OSError as error:
            self._lost(error)
            return
        if not idle:
            self._work.set()

    def _lost(self, error: OSError) -> None:
        if error.errno not in _GONE:
            self._end(UpstreamError(f"a Wayland socket failed: {error.strerror}"))
        else:
            self._end()

    async def _from_client(self) -> None:
        await self._ready.wait()
        core = self.core
        while not self._over.is_set():
            await trio.lowlevel.wait_readable(self._client)
            await self._wait_for_room()
            try:
                data, fds, lost = receive(self._client)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lost(error)
                return
            if not data and not fds:
                self._end()
                return
            now = trio.current_time()
            core.from_client(data, fds, now)
            if lost and core.fault is None:
                core.fail(bad_message(1, "too many descriptors at once"))
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
            await self._wait_for_room()
            try:
                data, fds, lost = receive(self._server)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lost(error)
                return
            if lost:
                self._end(
                    UpstreamError("the compositor sent too many descriptors at once")
                )
                return
            if not data and not fds:
                self._end(UpstreamError("the compositor closed the connection"))
                return
            core.from_server(data, fds, trio.current_time())
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
                nursery.start_soon(self._drain, self._client, core.down)
                nursery.start_soon(self._drain, self._server, core.up)

    async def _drain(self, sock: socket.socket, queue: Outgoing) -> None:
        try:
            while not send_some(sock, queue):
                if not _full(queue):
                    self._room.set()
                await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            self._lost(error)
            return
        self._room.set()


def display_path(name: str | None, environ: dict[str, str] | None = None) -> Path:
    """The compositor's socket, as wl_display_connect(3) finds it.

    Raises SetupError when there is no name or no XDG_RUNTIME_DIR.
    """
    env = dict(os.environ) if environ is None else environ
    name = name or env.get("WAYLAND_DISPLAY") or "wayland-0"
    if name.startswith("/"):
        return Path(name)
    runtime = env.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise SetupError(
            "XDG_RUNTIME_DIR is not set, so the compositor's socket cannot be found",
            hint="run it inside the desktop session, or give --display an absolute path",
        )
    return Path(runtime) / name


def connect_display(path: Path) -> socket.socket:
    """Connect to the compositor.  Raises UpstreamError that says what failed."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(os.fspath(path))
    except OSError as error:
        sock.close()
        raise UpstreamError(
            f"no compositor answers at {path}: {error.strerror}",
            hint="is it running, and is WAYLAND_DISPLAY (or --display) its socket?",
        ) from error
    return sock


@dataclass(frozen=True)
class Service:
    """What all connections of one sandbox have in common.

    ``connect`` opens a new connection to the compositor (UpstreamError if it
    cannot); ``report`` gets the reason of every connection that did not end
    by itself.
    """

    rules: WindowRules
    sandbox: Sandbox
    machine: Machine
    connect: Callable[[], socket.socket]
    report: Callable[[Exception], None]


async def serve(listener: socket.socket, service: Service) -> None:
    """Accept clients of one sandbox until cancelled; each has its own fate."""
    listener.settimeout(0)

    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ECONNABORTED}:
                    raise
                # Out of descriptors: leave it in the backlog and look again.
                await trio.sleep(0.1)
                continue
            nursery.start_soon(serve_client, client, service)


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
                connection = Connection(
                    client, server, service.rules, service.sandbox, service.machine
                )
            except PeerError as error:
                service.report(error)
                return
            await connection.run()
            if connection.core.fault is not None:
                service.report(connection.core.fault)
