"""The acceptor of one sandbox as the host part sees it (``programs.acceptor``)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import trio

from broker.core import limits
from broker.core.errors import PeerError, RefusedError, SetupError, UpstreamError
from broker.core.names import ServiceName
from broker.helpers.fork_start import start_server
from broker.helpers.process.fork_client import (
    ForkedProcess,
    ForkServer,
    ForkServerProgram,
)
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.ipc import acceptor as messages
from broker.ipc.captured_stderr import FirstWords
from broker.ipc.fork_server import FORK_ACCEPTOR, ForkAcceptor, ForkServerKind
from broker.net.addresses import UnixEndpoint, new_socket
from broker.net.listeners import Listener, open_listener
from broker.net.peers import credentials
from broker.net.peers.identity import ProcessFacts
from broker.wire import fdpass
from broker.wire.packets import when_ready

_CHANNEL = socket.AF_UNIX, socket.SOCK_SEQPACKET
_PROGRAM = ForkServerProgram(
    ForkServerKind.HELPERS,
    "the container's connections",
    lambda: limits.ACCEPTOR_START_SECONDS,
)


@dataclass(frozen=True)
class Arrived:
    """A connection that the acceptor took: our end of it, and who connected.

    ``facts`` is None if nothing vouches for that process any more.
    """

    conn: socket.socket
    facts: ProcessFacts | None


@dataclass(eq=False)
class RemoteListener:
    """A socket on which the acceptor listens; ``close`` removes its path."""

    listener: Listener
    channel: socket.socket
    _asked: bool = False

    def __post_init__(self) -> None:
        self.channel.settimeout(0)

    async def accept(self) -> Arrived:
        """Wait for the acceptor's next connection; the caller owns its socket.

        Raises UpstreamError when the acceptor has ended; RefusedError or OSError when
        it sent a connection that could not be received, and that has ended.
        """
        await trio.lowlevel.checkpoint()
        sock = self.channel
        ask = partial(sock.send, messages.NEXT)
        receive = partial(fdpass.receive, sock, messages.ARRIVAL_BYTES, 2)
        try:
            if not self._asked:
                await when_ready(ask, trio.lowlevel.wait_writable, sock)
                self._asked = True
            got = await when_ready(receive, trio.lowlevel.wait_readable, sock)
        except OSError as error:
            raise messages.ended() from error
        except PeerError as error:
            self._asked = False
            raise RefusedError(str(error)) from error
        if not got.data:
            raise messages.ended()
        self._asked = False
        return _arrived(got)

    def close(self) -> None:
        """Remove the path and let go of the acceptor."""
        self.listener.close()
        if self.channel.fileno() >= 0:
            trio.lowlevel.notify_closing(self.channel)
            self.channel.close()


def _arrived(got: fdpass.Received) -> Arrived:
    """Decode an arrival of the acceptor's, with its descriptors.

    Raises RefusedError.
    """
    arrival = messages.decode(got.data)
    wanted = 2 if arrival.voucher is messages.Voucher.PIDFD else 1
    if len(got.fds) != wanted:
        fdpass.close_all(got.fds)
        raise RefusedError("the acceptor sent the wrong number of descriptors")
    conn = socket.socket(fileno=got.fds[0])
    conn.settimeout(0)
    if arrival.voucher is messages.Voucher.ENDED:
        return Arrived(conn, None)
    pidfd = got.fds[1] if wanted == 2 else -1
    numbers = (arrival.pid, arrival.uid, arrival.gid)
    try:
        return Arrived(conn, credentials.facts_of(numbers, pidfd))
    except RefusedError:
        return Arrived(conn, None)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


class Acceptors:
    """Starts acceptors by having them forked from one warm process.

    A Python program takes longer to start than all else between a box
    and its window.  The warm process is the broker's fork server of helpers; where that
    has died, another is started when a sandbox needs it.  The acceptors themselves
    do not depend on it.
    """

    def __init__(self, first: ForkServerHandle | None = None) -> None:
        self._server = ForkServer(_PROGRAM, start_server, first=first)
        self._ended = False

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Reap fork servers that this has started; close the present one when cancelled."""
        task_status.started()
        try:
            await self._server.reap()
        finally:
            self._ended = True  # a sandbox that comes up now starts no other
            with trio.CancelScope(shield=True):
                await self._server.close()

    async def start(
        self, places: Mapping[ServiceName, UnixEndpoint], direct: ServiceName
    ) -> tuple[ForkedProcess, dict[ServiceName, RemoteListener]]:
        """Start an acceptor process that listens at these paths; return its listeners.

        ``direct`` is the one whose connections the worker gets as they are.
        Raises SetupError when no process can be started, a path is too long or
        another program listens there.

        The acceptor is started before its sockets have a path: the process that
        closes a listening socket last drops what its backlog holds, so that must
        never be the broker.
        """
        with ExitStack() as undo:
            sockets = {
                service: undo.enter_context(new_socket(socket.AF_UNIX, path))
                for service, path in places.items()
            }
            pairs = {service: socket.socketpair(*_CHANNEL) for service in places}
            for ours, _ in pairs.values():
                undo.callback(ours.close)
            first_words = FirstWords()
            undo.callback(first_words.close)
            fds = [first_words.fd]
            for service in places:
                fds += (sockets[service].fileno(), pairs[service][1].fileno())
            try:
                child = await self._fork([s == direct for s in places], fds)
            finally:
                for _, theirs in pairs.values():
                    theirs.close()
            undo.callback(child.close)
            # It has not accepted anything; its parent reaps it.
            undo.callback(child.kill)
            doors: dict[ServiceName, RemoteListener] = {}
            for service, path in places.items():
                mine = sockets[service]
                # The sandbox has the directory mounted, and can lock it (flock(2)).
                # guard: a sandbox's lock is not waited for
                listener = await open_listener(
                    path, descriptors=True, sock=mine, alone=True
                )
                undo.callback(listener.close)
                listener.hand_over()
                doors[service] = RemoteListener(listener, pairs[service][0])
            undo.pop_all()
        child.words = first_words  # confined, it could still write to a terminal
        return child, doors

    async def _fork(self, direct: list[bool], fds: Sequence[int]) -> ForkedProcess:
        """Fork an acceptor process.  Raises SetupError."""
        if self._ended:
            raise SetupError("the broker is shutting down")
        try:
            return await self._server.fork(FORK_ACCEPTOR, ForkAcceptor(direct), fds)
        except UpstreamError as error:
            raise SetupError(error.message, hint=error.hint) from error


async def end_acceptor(child: ForkedProcess) -> None:
    """End an acceptor process; wait until it is gone, for a limited time.

    A process that the kernel does not let go (it closes a file whose file
    system does not answer) must not hold up the end of the lease.
    """
    child.kill()
    with trio.move_on_after(limits.ACCEPTOR_END_SECONDS, shield=True):
        await child.wait()
    child.close()
