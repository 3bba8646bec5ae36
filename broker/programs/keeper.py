"""The keeper: the half of a worker that stays in the person's session.

It is the jailed half's parent and makes its connections to the compositor,
because the compositor's SO_PEERCRED names the process that called connect(2):
so whatever the compositor holds for a sandbox is its keeper's, and the
supervisor never appears there.  Where the compositor offers security contexts
(wp_security_context_v1) all connections come in by one of the sandbox's own.

It parses nothing: the jailed half sends single bytes (``core.worker``), the
supervisor sends nothing but the end of its socket, which ends both halves.
One thread, blocking calls, no event loop.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from broker.core import limits
from broker.core.errors import PeerError, UpstreamError, VitrailError
from broker.helpers.compositor import connect_compositor
from broker.helpers.process import jail
from broker.ipc import fdpass, worker
from broker.ipc import keeper as keeper_messages
from broker.ipc.channel import MessagePipe
from broker.jail.wayland.security_context import SecurityContext, open_context
from broker.programs.worker import run_worker


@dataclass(frozen=True)
class Order:
    """The start parameters of a keeper, which owns the sockets."""

    supervisor: socket.socket
    """Its own channel to the supervisor."""
    worker: socket.socket
    """The jailed half's channel from the supervisor: orders and descriptors."""
    messages: int
    """The jailed half's pipe to the supervisor."""
    display: socket.socket
    """The listening socket of the sandbox's Wayland clients."""
    sandbox: str
    compositor: str
    allow_unjailed: bool
    clients: int
    """Most connections to the compositor at one time."""


def keep(order: Order) -> None:
    """Start the jailed half and serve it until either side ends."""
    jail.set_name("vitrail-keeper")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sockets = (order.worker, order.display, theirs)
    # Here and not in the broker: the process that closes a listening socket last
    # drops its backlog, and a waypipe client may be waiting in this one.
    order.display.listen(limits.BACKLOG)

    def inside(achieved: worker.Jail) -> None:
        # The jail has closed these descriptors: their numbers will be others'.
        ours.detach()
        order.supervisor.detach()
        pipe = MessagePipe(order.messages)
        run_worker(order.worker, pipe, order.display, theirs, achieved)

    try:
        jailed = jail.fork_jailed(
            inside,
            [*(sock.fileno() for sock in sockets), order.messages],
            allow_unjailed=order.allow_unjailed,
        )
    except VitrailError as error:
        failed = keeper_messages.KeepFailed(error.message, error.hint)
        fdpass.send(order.supervisor, keeper_messages.encode(failed))
        return
    for sock in sockets:
        sock.close()
    os.close(order.messages)
    jail.harden_keeper()
    fdpass.send(
        order.supervisor,
        keeper_messages.encode(keeper_messages.KeeperReady(jailed.pid)),
        [jailed.pidfd],
    )
    _serve(order, ours, jailed)


def _serve(order: Order, ours: socket.socket, jailed: jail.Jailed) -> None:
    """Answer until the jailed half is dead or the supervisor has closed."""
    # A jailed half that asks and does not read must not hold us in a send.
    ours.settimeout(0)
    waiting = select.poll()
    for fd in (order.supervisor.fileno(), ours.fileno(), jailed.pidfd):
        waiting.register(fd, select.POLLIN)
    held: dict[int, socket.socket] = {}
    compositor = Compositor(Path(order.compositor), order.sandbox)
    while True:
        ready = {fd for fd, _ in waiting.poll()}
        if jailed.pidfd in ready:
            _report_end(order.supervisor, jailed.pid)
            return
        if order.supervisor.fileno() in ready:
            os.kill(jailed.pid, signal.SIGKILL)
            os.waitpid(jailed.pid, 0)
            return
        if ours.fileno() in ready:
            try:
                _answer(compositor, ours, held, order.clients)
            except (OSError, PeerError):
                # It closed the socket or sent an unknown message: either
                # way it is of no more use; the pidfd says when it is gone.
                os.kill(jailed.pid, signal.SIGKILL)
                waiting.unregister(ours)


def _report_end(supervisor: socket.socket, pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    ended = keeper_messages.InnerEnded(os.waitstatus_to_exitcode(status))
    try:
        fdpass.send(supervisor, keeper_messages.encode(ended))
    except OSError:
        return  # the supervisor has gone, there is no receiver


class Compositor:
    """Where connections to the compositor come from.

    Its socket's file distinguishes one compositor from the next at the same path:
    knowledge of the one before is forgotten with it.
    """

    def __init__(self, path: Path, sandbox: str) -> None:
        self._path = path
        self._sandbox = sandbox
        self._known: tuple[int, int, int] | None = None
        self._context: SecurityContext | None = None

    def connect(self) -> socket.socket:
        """A new connection, by the sandbox's own door where there can be one.

        Raises UpstreamError, also when the compositor has such doors and does
        not make one: its own rules may rely on it.
        """
        now = self._file()
        if now != self._known:
            self._forget()
            self._context = open_context(self._path, self._sandbox)
            self._known = now
        if self._context is None:
            return connect_compositor(self._path)
        return self._context.connect()

    def _file(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise UpstreamError(
                f"the compositor at {self._path} does not answer: {error.strerror}"
            ) from error
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def _forget(self) -> None:
        self._known = None
        if self._context is not None:
            self._context.close()
            self._context = None


def _answer(
    compositor: Compositor,
    ours: socket.socket,
    held: dict[int, socket.socket],
    most: int = limits.WAYLAND_CLIENTS_PER_SANDBOX,
) -> None:
    """Serve one request; ``held`` has our duplicates of its connections.

    They are what makes the limit true: a connection that the jailed half gives
    back is shut down here, so one that keeps its own end has nothing of it.
    Without them it could use up the compositor's descriptors, and with those
    the windows of all sandboxes.
    """
    got = fdpass.receive(ours, 16, 0)
    if got.data[:1] == worker.RELEASE and len(got.data) == 2:
        _release(held, got.data[1])
        return
    if got.data != worker.CONNECT:
        raise PeerError("not a request")
    if len(held) >= most:
        _refuse(ours, f"more than {len(held)} Wayland clients")
        return
    try:
        made = compositor.connect()
    except UpstreamError as error:
        _refuse(ours, error.message)
        return
    number = next(n for n in range(most) if n not in held)
    held[number] = made
    fdpass.send(ours, worker.CONNECTED + bytes([number]), [made.fileno()])


def _release(held: dict[int, socket.socket], untrusted_number: int) -> None:
    compositor = held.pop(untrusted_number, None)
    if compositor is None:
        raise PeerError("a connection that it has not")
    with compositor, contextlib.suppress(OSError):  # the compositor may have gone
        compositor.shutdown(socket.SHUT_RDWR)


def _refuse(ours: socket.socket, reason: str) -> None:
    fdpass.send(ours, worker.REFUSED + reason.encode()[:1000])
