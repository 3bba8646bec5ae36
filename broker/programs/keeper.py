"""The keeper: the half of a worker that stays in the user's session.

It makes the jailed half's connections to the compositor,
because the compositor's SO_PEERCRED names the process that called connect(2):
so whatever the compositor holds for a sandbox is its keeper's, and the
supervisor never appears there.  Where the compositor offers security contexts
(wp_security_context_v1) all connections come in by one of the sandbox's own.

It parses nothing: the jailed half sends single bytes (``ipc.fork_server``), the
supervisor sends nothing but the end of its socket, which ends both halves.
One thread, blocking calls, no event loop.  Keepers are forked by the fork server of
helpers, which never imports what a worker needs.
"""

from __future__ import annotations

import contextlib
import errno
import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.core import limits
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.helpers import landlock
from broker.helpers.compositor_connection import connect_compositor
from broker.helpers.compositor_descriptors import (
    compositor_process,
    counts_descriptors,
    descriptors_left,
)
from broker.helpers.compositor_socket import present_display
from broker.helpers.process.hardening import harden
from broker.helpers.process.process_name import set_name
from broker.ipc import keeper as messages
from broker.jail.wayland.security_context import SecurityContext, open_context
from broker.wire import fdpass

if TYPE_CHECKING:
    from broker.ipc.fork_server import ForkKeeper


@dataclass(frozen=True)
class KeeperParameters:
    """The start parameters of a keeper, which owns the descriptors."""

    supervisor: socket.socket
    """Its channel to the supervisor."""
    jailed: socket.socket
    """Its channel to the jailed half."""
    pidfd: int
    """The jailed half."""
    sandbox: str
    compositor: str
    clients: int
    """Most connections to the compositor at one time."""


def keep(parameters: KeeperParameters) -> None:
    """Serve the jailed half's requests for connections until either end closes."""
    ours, supervisor = parameters.jailed, parameters.supervisor.fileno()
    # A jailed half that asks and does not read must not hold us in a send.
    ours.settimeout(0)
    waiting = select.poll()
    for fd in (supervisor, ours.fileno(), parameters.pidfd):
        waiting.register(fd, select.POLLIN)
    held: dict[int, socket.socket] = {}
    compositor = Compositor(Path(parameters.compositor), parameters.sandbox)
    patience: float | None = None
    while True:
        ready = {fd for fd, _ in waiting.poll(patience)}
        if parameters.pidfd in ready:
            return
        if not ready:
            _kill(parameters.pidfd)  # it closed its end, and did not exit
            patience = None
        if supervisor in ready:
            _kill(parameters.pidfd)
            return
        if ours.fileno() in ready:
            try:
                if not _answer(compositor, ours, held, parameters.clients):
                    patience = 1000 * limits.WORKER_STOP_SECONDS
                    waiting.unregister(ours)
            except (OSError, PeerError):
                # An unknown message, or it does not read: it is of no more use; the
                # pidfd says when it is gone.
                _kill(parameters.pidfd)
                waiting.unregister(ours)


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


class Compositor:
    """Where connections to the compositor come from.

    Its socket's file distinguishes one compositor from the next at the same path:
    knowledge of the one before is forgotten with it.
    """

    def __init__(self, setting: Path, sandbox: str) -> None:
        """Look for it by ``setting``: a socket, or a directory, see ``present_display``."""
        self._setting = setting
        self._path = setting
        self._sandbox = sandbox
        self._known: tuple[int, int, int] | None = None
        self._context: SecurityContext | None = None
        self._pid = 0

    def connect(self) -> socket.socket:
        """Return a connection to the compositor, if possible by a security context.

        A replaced compositor gets a new context first (``_refresh``).  Raises as
        ``descriptors_left``.
        """
        self._refresh()
        if self._context is None:
            return connect_compositor(self._path)
        return self._context.connect()

    def descriptors_left(self) -> float:
        """Return the share of its descriptors that it has left, 0 to 1.

        Raises UpstreamError without a compositor, also when it has doors for sandboxes
        and does not make one: its rules may rely on it.  Opens a context at a new compositor
        first, as ``connect`` does.
        """
        self._refresh()
        return descriptors_left(self._pid)

    def _refresh(self) -> None:
        """Find the compositor's socket; if its file is another one, open a new context.

        Closes the old context, has the new compositor make one (``open_context``), and
        reads the number of its process from a connection.
        """
        self._path = present_display(self._setting)
        now = self._file()
        if now != self._known:
            self._forget()
            self._context = open_context(self._path, self._sandbox)
            self._pid = compositor_process(self._path)
            self._known = now

    def _file(self) -> tuple[int, int, int]:
        """Return the identity of the compositor's socket file.

        Raises UpstreamError.
        """
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
) -> bool:
    """Serve one request of the jailed half's.

    ``held`` has duplicates of its connections.

    False when there are no more: it has closed its end.  Raises PeerError for what is
    no request.

    They are what makes the limit true: a connection that the jailed half gives
    back is shut down here, so a compositor that keeps its end has nothing of it.
    Without them it could use up the compositor's descriptors, and with those
    the windows of all sandboxes.
    """
    got = fdpass.receive(ours, 16, 0)
    if not got.data:
        return False
    if got.data[:1] == messages.RELEASE and len(got.data) == 2:
        _release(held, got.data[1])
    elif got.data == messages.CONNECT:
        _connect(compositor, ours, held, most)
    else:
        raise PeerError("the worker sent an invalid request")
    return True


def _connect(
    compositor: Compositor,
    ours: socket.socket,
    held: dict[int, socket.socket],
    most: int,
) -> None:
    """Connect to the compositor and pass the socket on, or refuse by a limit."""
    if len(held) >= most:
        _refuse(ours, f"more than {len(held)} Wayland clients")
        return
    first = len(held) < limits.COMPOSITOR_FIRST_CLIENTS
    left = (
        limits.COMPOSITOR_LEFT_FOR_FIRST if first else limits.COMPOSITOR_LEFT_FOR_MORE
    )
    try:
        # guard: sandboxes together leave descriptors of the compositor's to others
        if compositor.descriptors_left() < left:
            _refuse(ours, "the compositor has few descriptors left (RLIMIT_NOFILE)")
            return
        made = compositor.connect()
    except UpstreamError as error:
        _refuse(ours, error.message)
        return
    number = next(n for n in range(most) if n not in held)
    try:
        fdpass.send(ours, messages.CONNECTED + bytes([number]), [made.fileno()])
    except OSError as error:
        made.close()
        # guard: a window that cannot be had ends no other
        if error.errno != errno.ETOOMANYREFS:
            raise
        _refuse(ours, "too many descriptors are in flight: see docs/jails.md")
    else:
        held[number] = made


def _release(held: dict[int, socket.socket], untrusted_number: int) -> None:
    compositor = held.pop(untrusted_number, None)
    if compositor is None:
        raise PeerError("the worker closed a connection that it does not have")
    with compositor, contextlib.suppress(OSError):  # the compositor may have gone
        compositor.shutdown(socket.SHUT_RDWR)


def _refuse(ours: socket.socket, reason: str) -> None:
    """Send the jailed half a refusal instead of a connection."""
    fdpass.send(ours, messages.REFUSED + reason.encode()[:1000])


def confine_keeper(program: bytes, compositor: str) -> None:
    """Confine this process to connections, and to listening beside the compositor.

    ``program`` is its filter of system calls, ``compositor`` a socket, or the directory
    where it will be.  Raises OSError.
    """
    harden(program)
    # Landlock hides the descriptors of other processes, too: where they can only be
    # listed, more would be lost than is won.
    if counts_descriptors():
        # guard: a keeper opens no file of the user
        landlock.restrict(
            scopes=landlock.ABSTRACT_SOCKETS,
            listen=_beside(compositor),
        )


def _beside(compositor: str) -> list[Path]:
    """Return the directory of the compositor's socket."""
    place = Path(compositor)
    return [place if place.is_dir() else place.parent] if compositor else []


def become_keeper(
    order: ForkKeeper, fds: Sequence[int], program: bytes, compositor: str
) -> None:
    """Run as the keeper of an order, whose descriptors this process owns.

    ``program`` is its filter of system calls, ``compositor`` the session's (``display_setting``).
    Raises RefusedError for another one.
    """
    # guard: a keeper connects a viewer to no service of the user's
    if order.compositor != compositor:
        raise RefusedError(f"{order.compositor!r} is not the session's compositor")
    set_name("vitrail-keeper")
    confine_keeper(program, compositor)
    supervisor, jailed, pidfd = fds
    keep(
        KeeperParameters(
            socket.socket(fileno=supervisor),
            socket.socket(fileno=jailed),
            pidfd,
            order.sandbox,
            order.compositor,
            order.clients,
        )
    )
