"""The acceptor: one process for each sandbox that reaches us by UNIX sockets.

A sandbox can attach any descriptor to any byte that it sends to a UNIX
socket (SCM_RIGHTS).  The process that reads such a byte without asking for
descriptors, or closes a socket with it unread, drops the last reference, and
close(2) of the attached file takes as long as the sandbox likes: SO_LINGER on
a socket of its network, a file of its FUSE mount.  SO_PASSRIGHTS,
which refuses such messages, exists from Linux 6.16 on and would refuse what
Wayland needs.  So the broker and the pump, which serve all sandboxes, never
hold a socket whose far end is a sandbox's: this process accepts, asks the
kernel who connected, and carries the bytes to a socket pair of our own.

Nothing that a sandbox sends is parsed here.  It can only stop its own
acceptor, and with it its connections.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from broker.core import limits
from broker.core.errors import InternalError, RefusedError
from broker.helpers.process.hardening import confine
from broker.helpers.process.process_name import set_name
from broker.helpers.pump import process
from broker.ipc import acceptor as messages
from broker.ipc import fork_server as orders
from broker.ipc.pump import MESSAGE_BYTES, Submit, encode_to_pump
from broker.net.peers import peer_process
from broker.wire import fdpass
from broker.wire.memory import SHORT_OF_DESCRIPTORS, SHORT_OF_MEMORY

_AGAIN_SECONDS = 0.1
"""Until descriptors are looked for again; no event says that there are some."""
_FULL = SHORT_OF_DESCRIPTORS | SHORT_OF_MEMORY | {errno.ENOSPC, errno.ETOOMANYREFS}
"""Errors for want of a resource that other programs of the user may hold."""


@dataclass(frozen=True)
class Entrance:
    """A listening socket and the broker's channel about it."""

    listener: socket.socket
    broker: socket.socket
    direct: bool
    """Whether its connections go to the worker as they are."""


@dataclass(eq=False)
class _Held:
    """A connection for the worker, the broker's handle on it, the way to the worker."""

    conn: socket.socket
    handle: socket.socket
    to_worker: socket.socket

    def close(self) -> None:
        self.to_worker.close()
        self.handle.close()
        self.conn.close()


class Acceptor:
    """The loop: every wait in one epoll set, no wait anywhere else."""

    def __init__(self, entrances: list[Entrance], program: bytes, pump: bytes) -> None:
        """Listen at these entrances; the programs are filters of system calls."""
        # Its own pump, forked before anything is accepted.
        self._pump = process.start_pump(pump)
        # guard: an acceptor is confined before it accepts
        confine(program)
        self._pump.control.settimeout(0)
        self._tokens = 0
        self._epoll = select.epoll()
        self._by_broker = {entry.broker.fileno(): entry for entry in entrances}
        self._by_listener = {entry.listener.fileno(): entry for entry in entrances}
        self._held: dict[int, _Held] = {}
        self._epoll.register(self._pump.control, select.EPOLLIN)
        for entry in entrances:
            entry.broker.settimeout(0)
            entry.listener.settimeout(0)
            self._epoll.register(entry.broker, select.EPOLLIN)

    def run(self) -> None:
        """Serve until the broker closes a channel or the pump ends."""
        while True:
            for fd, event in self._epoll.poll():
                if fd == self._pump.control.fileno():
                    if not self._hear_pump():
                        return
                elif fd in self._by_broker:
                    if not self._asked(self._by_broker[fd]):
                        return
                elif fd in self._by_listener:
                    self._accept(self._by_listener[fd])
                elif fd in self._held:  # not ended by an event before this one
                    self._turn(fd, event)

    def _hear_pump(self) -> bool:
        """Discard the pump's reports of ended streams: closed sockets say the same."""
        while True:
            try:
                if not self._pump.control.recv(MESSAGE_BYTES):
                    return False
            except BlockingIOError:
                return True
            except OSError as error:
                return error.errno in _FULL

    def _asked(self, entry: Entrance) -> bool:
        """Read the broker's request for a connection.

        Return whether the broker is there.
        """
        try:
            if entry.broker.recv(1) != messages.NEXT:
                return False
        except BlockingIOError:
            return True
        except OSError as error:
            return error.errno in _FULL  # asked again at once: its byte is still there
        try:
            # Its entry stays: another sandbox may have taken all others meanwhile.
            # guard: an acceptor needs no further entry of an epoll set to accept
            self._epoll.modify(entry.listener, select.EPOLLIN)
        except FileNotFoundError:
            self._epoll.register(entry.listener, select.EPOLLIN)
        return True

    # -- accepting -------------------------------------------------------------

    def _accept(self, entry: Entrance) -> None:
        """Accept a connection at an entrance, announce it to the broker and hold it."""
        try:
            conn, _ = entry.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno in _FULL:
                time.sleep(_AGAIN_SECONDS)  # nothing but this sandbox waits
                return
            raise
        conn.settimeout(0)
        try:
            ours, to_worker = self._announce(entry, conn)
        except OSError as error:
            # guard: a connection that cannot be passed on ends alone
            if error.errno not in _FULL:
                raise
            conn.close()
            return
        self._epoll.modify(entry.listener, 0)  # until the broker asks again
        if to_worker is not None:
            self._hold(_Held(conn, ours, to_worker))
        else:
            self._relay(conn, ours)

    def _announce(
        self, entry: Entrance, conn: socket.socket
    ) -> tuple[socket.socket, socket.socket | None]:
        """Tell the broker of a connection; return the socket kept for it.

        The broker gets the other end of that socket pair and, if there is one, the pidfd
        of the process that connected.  For a direct connection also return our way to
        the worker.  Raises OSError.
        """
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            to_worker = undo.enter_context(_worker_pair(ours)) if entry.direct else None
            arrival, pidfd = _vouch(conn)
            # guard: the acceptor keeps a container's sockets
            fds = [theirs.fileno()] + ([pidfd] if pidfd >= 0 else [])
            try:
                fdpass.send(entry.broker, messages.encode(arrival), fds)
            finally:
                if pidfd >= 0:
                    os.close(pidfd)
            undo.pop_all()
        return ours, to_worker

    def _relay(self, conn: socket.socket, ours: socket.socket) -> None:
        """Have the bytes carried; the pump owns both sockets then.

        Sends the pump both sockets; if it cannot, the connection is closed.
        """
        self._tokens += 1
        packet = encode_to_pump(Submit(self._tokens))
        with conn, ours, suppress(OSError):  # full of orders, or no memory: refused
            fdpass.send(self._pump.control, packet, [conn.fileno(), ours.fileno()])

    # -- connections for the worker --------------------------------------------

    def _hold(self, held: _Held) -> None:
        """Keep a connection until either end goes.

        Watch for the broker's orders about it.
        """
        if len(self._held) >= 2 * limits.STREAMS_PER_SANDBOX:
            held.close()
            return
        conn, handle = held.conn, held.handle
        handle.settimeout(0)
        try:
            # Of the connection only its end, which comes unasked.
            self._epoll.register(conn, 0)
            self._epoll.register(handle, select.EPOLLIN)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            held.close()  # and its entry with it: no other process has it yet
            return
        self._held[conn.fileno()] = self._held[handle.fileno()] = held

    def _turn(self, fd: int, event: int) -> None:
        """Handle an event of a held connection: an order, or its end."""
        held = self._held[fd]
        if fd == held.handle.fileno() and self._ordered(held):
            return
        if fd == held.conn.fileno() and not event & (select.EPOLLHUP | select.EPOLLERR):
            return
        self._end(held)

    def _ordered(self, held: _Held) -> bool:
        """Carry out an order of the broker about a connection.

        False at the handle's end.
        """
        try:
            if held.handle.recv(1) != messages.DELIVER:
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False
        with held.to_worker, suppress(OSError):
            # The worker may have died: then the connection is not served, and
            # the broker hears that from the worker's end.
            fdpass.send(held.to_worker, messages.CONNECTION, [held.conn.fileno()])
        return True

    def _end(self, held: _Held) -> None:
        """Cut a connection, also where the worker holds it."""
        for sock in (held.conn, held.handle):
            del self._held[sock.fileno()]
            self._epoll.unregister(sock)
        with suppress(OSError):
            held.conn.shutdown(socket.SHUT_RDWR)
        held.close()


def _worker_pair(handle: socket.socket) -> socket.socket:
    """Return one end of a new pair; the broker finds the worker's end in ``handle``.

    Raises OSError.
    """
    ours, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with worker_end, ExitStack() as undo:
        undo.callback(ours.close)
        # No byte comes back: the worker could attach a descriptor to it.
        ours.shutdown(socket.SHUT_RD)
        fdpass.send(handle, messages.WORKER_END, [worker_end.fileno()])
        undo.pop_all()
    return ours


def _vouch(conn: socket.socket) -> tuple[messages.Arrival, int]:
    """Ask the kernel who connected; the pidfd is the caller's, -1 for none.

    Raises OSError as ``peer_pidfd``.
    """
    pid, uid, gid = peer_process.peer_numbers(conn)
    pidfd = -1
    try:
        pidfd = peer_process.peer_pidfd(conn)
        kind = messages.Voucher.PIDFD if pidfd >= 0 else messages.Voucher.NUMBER
    except RefusedError:
        kind = messages.Voucher.ENDED
    return messages.Arrival(kind, pid, uid, gid), pidfd


def become_acceptor(
    order: orders.ForkAcceptor, fds: Sequence[int], program: bytes, pump: bytes
) -> None:
    """Run as the acceptor of an order, whose descriptors this process owns.

    ``program`` is its filter of system calls, ``pump`` that of its pump.
    """
    if len(fds) != 1 + 2 * len(order.direct):
        raise InternalError("the order has the wrong number of descriptors")
    set_name("vitrail-accept")
    words, *kept = fds
    process.keep_only(words, kept)
    sockets = [socket.socket(fileno=fd) for fd in kept]
    pairs = zip(sockets[::2], sockets[1::2], order.direct, strict=True)
    Acceptor([Entrance(*pair) for pair in pairs], program, pump).run()
