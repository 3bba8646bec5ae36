"""A fork server's own side: fork on order, reap, say how each child ended.

``ipc.fork_server`` has the messages, ``helpers.process.fork_client`` the
broker's side.  The server is started by exec, imports all that its children
need, and then waits for orders on its sockets.  Its death ends no child.

Each client has a socket of its own, and may order any child: what a child gets is in
its code and in what the client has.

The price of forking: all children of one server share the layout of their
address space, so an attacker who has taken one over knows it for the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeAlias

from broker.core.errors import PeerError, UpstreamError, VitrailError
from broker.helpers.process.process_name import set_name
from broker.ipc import fork_server as messages
from broker.wire.blocking import BlockingEnd, ReceivedEvent
from broker.wire.calls import IncomingCall, lost_descriptors, prepare_decoders
from broker.wire.fdpass import close_all
from broker.wire.memory import call_patiently
from broker.wire.row import AnyRow, ProcessKind


@dataclass(frozen=True)
class StartedChild:
    """A child of this process, not reaped yet; the server closes ``pidfd``."""

    pid: int
    pidfd: int
    jail: messages.Jail | None = None


Start: TypeAlias = Callable[
    [messages.ForkMessage, Sequence[int], Callable[[], None]], StartedChild
]
"""Fork the child of a call, which owns these descriptors.

It calls the last argument to close what the server has open.  Raises OSError,
or SetupError when its jail cannot be built.
"""


Starts: TypeAlias = Mapping[AnyRow, Start]
"""The calls that a fork server serves."""


class Forking(NamedTuple):
    """How a fork server forks on order, and a child that it forked before."""

    starts: Starts
    present: StartedChild | None = None


Serve: TypeAlias = Callable[[socket.socket], bool]


def forking(run: Callable[[Any, Sequence[int]], None]) -> Start:
    """Return a function that forks children without a jail."""

    def start(
        order: messages.ForkMessage, fds: Sequence[int], leave: Callable[[], None]
    ) -> StartedChild:
        return fork_child(partial(run, order, fds), leave)

    return start


def fork_child(run: Callable[[], None], leave: Callable[[], None]) -> StartedChild:
    """Fork a child, which calls ``leave``, then ``run``.  Raises OSError."""
    pid = os.fork()
    if pid == 0:
        _become(run, leave)
    try:
        return StartedChild(pid, os.pidfd_open(pid))  # not reaped, so still its own
    except OSError:
        # guard: a child that nobody can hold is not left running
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _become(run: Callable[[], None], leave: Callable[[], None]) -> NoReturn:
    """Run the child's function and exit; never returns into the parent's code."""
    code = 1
    try:
        leave()
        run()
        code = 0
    except BrokenPipeError:
        code = 0  # the broker has gone
    except BaseException:  # noqa: BLE001 -- the bottom of a forked process
        traceback.print_exc()
    finally:
        os._exit(code)


def serve(
    name: str,
    starts: Starts,
    *,
    present: StartedChild | None = None,
    end_children: bool = False,
    parent: int = -1,
) -> None:
    """Fork as the broker orders, until it has gone: the main loop of each fork server.

    The program's first argument has the numbers of its clients' sockets.

    ``present``: a child that was started before; its exit code is not reported.
    ``end_children``: kill what is left when the broker has gone.  ``parent``: the pidfd
    of a process that this one ends with, whoever has its sockets.
    """
    clients = [socket.socket(fileno=int(number)) for number in sys.argv[1].split(",")]
    set_name(name)
    prepare_decoders(starts)
    share()
    server = ForkLoop()
    for client in clients:
        server.add_fork_client(client, starts)
    if present is not None:
        server.keep(present)
    server.run(parent=parent)
    if end_children:
        server.kill_children()


def given_parent() -> int:
    """Return the third argument, a pidfd for ``serve``; -1 without one."""
    return int(sys.argv[3]) if sys.argv[3:] else -1


def share() -> None:
    """Have the collector never touch present objects: children share their pages."""
    gc.collect()
    gc.freeze()
    # Imports leave half a megabyte free between objects that stay.
    ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class _Child:
    pid: int
    end: int
    """The pipe into which the server writes how it ends; -1: no client waits."""
    client: int = -1
    """The number of the socket by which it was ordered."""


class ForkLoop:
    """Serves clients, and reaps their children."""

    def __init__(self) -> None:
        self._clients: dict[int, tuple[socket.socket, Serve]] = {}
        self._children: dict[int, _Child] = {}
        self._waiting = select.poll()

    def add(self, client: socket.socket, serve_one: Serve) -> None:
        """Have ``serve_one`` read and answer each message of a client.

        It returns False when the client has gone.
        """
        self._clients[client.fileno()] = client, serve_one
        self._waiting.register(client, select.POLLIN)

    def add_fork_client(self, client: socket.socket, starts: Starts) -> None:
        """Have a client's calls served by these functions."""
        end = BlockingEnd(
            client,
            ProcessKind.FORK_SERVER,
            messages.CLIENT,
            {row.name: row for row in starts},
        )
        self.add(client, partial(self._fork, starts, end))

    def run(self, first: socket.socket | None = None, parent: int = -1) -> None:
        """Serve until ``first``, or else every client, has closed its end.

        Or the process of the pidfd ``parent`` has ended.
        """
        # guard: a fork server that a viewer has ordered outlives no broker
        if parent >= 0:
            self._waiting.register(parent, select.POLLIN)
        while self._clients and (first is None or first.fileno() in self._clients):
            ready = {fd for fd, _ in call_patiently(self._waiting.poll)}
            if parent in ready:
                return
            # The dead first: when the broker closes after its last child ended, no
            # child is left for process 1 to reap.
            for pidfd in ready - self._clients.keys():
                self._reap(pidfd)
            for number in ready & self._clients.keys():
                client, serve_one = self._clients[number]
                if not serve_one(client):
                    self._waiting.unregister(number)
                    self._clients.pop(number)[0].close()

    @property
    def children(self) -> int:
        """How many run."""
        return len(self._children)

    def keep(self, started: StartedChild, end: int = -1, client: int = -1) -> None:
        """Register a child, to reap it and write into ``end`` how it ended.

        ``end``: of a pipe that the server has made, and that does not block; ``client``: the
        number of the socket by which it was ordered.
        """
        self._children[started.pidfd] = _Child(started.pid, end, client)
        self._waiting.register(started.pidfd, select.POLLIN)

    def kill_children(self) -> None:
        """Kill all that live."""
        for pidfd in self._children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _reap(self, pidfd: int) -> None:
        """Reap an ended child, and write its exit code to who waits."""
        child = self._children.pop(pidfd)
        self._waiting.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if child.end < 0:
            return
        # It may not be wanted any more, or the client has filled the pipe by its own
        # end; and an end without a code is told by the close.
        with contextlib.suppress(OSError):
            os.write(child.end, messages.END.pack(code))
        os.close(child.end)

    def _fork(self, starts: Starts, end: BlockingEnd, client: socket.socket) -> bool:
        """Serve one call; return False when the client has gone.

        It left answers unread, or the kernel refuses descriptors: then it starts a
        server of its own, and other clients keep this one.
        """
        try:
            # guard: a client that reads no answer delays no other one's order
            client.setblocking(False)  # noqa: FBT003 -- the socket's own
            received = end.receive()
            if received is None:
                return False
            self._serve(starts, end, client.fileno(), received)
        # guard: a client that cannot be answered ends no other one's server
        except (OSError, PeerError):
            return False
        return True

    def _serve(
        self, starts: Starts, end: BlockingEnd, client: int, received: ReceivedEvent
    ) -> None:
        """Fork the child of a call, and answer it.  Raises OSError, PeerError."""
        event, fds = received
        if not isinstance(event, IncomingCall):
            close_all(fds)
            raise PeerError("a client of a fork server sent no call")
        child: tuple[StartedChild, int] | VitrailError
        try:
            child = self._start(starts, client, event, fds)
        except OSError as error:
            child = UpstreamError(str(error.strerror))
        except VitrailError as error:
            child = error
        # Before the answer: until then a listening socket has no path and no
        # backlog, so this process is never the last to hold one.
        # guard: the warm process keeps no socket
        close_all(fds)
        if isinstance(child, VitrailError):
            end.fail(event.call, child)
            return
        started, pipe = child
        answer = messages.Forked(started.pid, started.jail)
        try:
            end.answer(event.call, answer, [started.pidfd, pipe])
        finally:
            os.close(pipe)

    def _start(
        self, starts: Starts, client: int, event: IncomingCall, fds: Sequence[int]
    ) -> tuple[StartedChild, int]:
        """Fork the child; return it, and the pipe in which its client reads the end.

        Raises as ``Start``, UpstreamError for a call whose descriptors are lost.
        """
        if not event.has_descriptors:
            raise lost_descriptors()
        count = sum(child.client == client for child in self._children.values())
        # guard: a client leaves processes to others
        if count >= messages.CHILDREN:
            raise OSError(errno.EAGAIN, f"this client already has {count} children")
        # A pipe of the client's could be full, and its file slow to close.
        # guard: how a child ends is told without a wait
        read, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            leave = partial(self._leave, [read, end])
            started = starts[event.row](event.request, fds, leave)
        except BaseException:
            close_all([read, end])
            raise
        self.keep(started, end, client)
        return started, read

    def _leave(self, ends: Sequence[int]) -> None:
        close_all(ends)
        self.leave()

    def leave(self) -> None:
        """Close the server's sockets and pidfds, in a child that was just forked."""
        for client, _ in self._clients.values():
            client.close()
        for pidfd, child in self._children.items():
            os.close(pidfd)
            if child.end >= 0:
                os.close(child.end)
