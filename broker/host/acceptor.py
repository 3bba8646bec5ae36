"""The acceptor of one sandbox as the host part sees it (``programs.acceptor``)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from broker.core import limits
from broker.core.errors import InternalError, RefusedError, SetupError
from broker.core.names import ServiceName
from broker.ipc import acceptor as messages
from broker.ipc import fdpass
from broker.launch.process.spawn import Child, our_program, spawn
from broker.link.addresses import UnixEndpoint, new_socket
from broker.link.listeners import Listener, open_listener
from broker.peers import credentials
from broker.peers.identity import ProcessFacts

_CHANNEL = socket.AF_UNIX, socket.SOCK_SEQPACKET
_MODULE = "broker.programs.acceptor"


@dataclass(frozen=True)
class Arrived:
    """A connection that the acceptor took: our end of it, and who connected.

    ``facts`` is None where nothing vouches for that process any more.
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
        """Return the next connection; the caller owns its socket.

        Raises UpstreamError when the acceptor has ended.
        """
        await trio.lowlevel.checkpoint()
        try:
            if not self._asked:
                self.channel.send(messages.NEXT)
                self._asked = True
            got = await self._receive()
        except OSError as error:
            raise messages.ended() from error
        if not got.data:
            raise messages.ended()
        self._asked = False
        return _arrived(got)

    async def _receive(self) -> fdpass.Received:
        while True:
            try:
                return fdpass.receive(self.channel, messages.ARRIVAL_BYTES, 2)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.channel)

    def close(self) -> None:
        """Remove the path and let go of the acceptor."""
        self.listener.close()
        if self.channel.fileno() >= 0:
            trio.lowlevel.notify_closing(self.channel)
            self.channel.close()


def _arrived(got: fdpass.Received) -> Arrived:
    arrival = messages.decode(got.data)
    wanted = 2 if arrival.voucher is messages.Voucher.PIDFD else 1
    if len(got.fds) != wanted:
        fdpass.close_all(got.fds)
        raise InternalError("the acceptor sent an arrival without its descriptors")
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


async def start_acceptor(
    places: Mapping[ServiceName, UnixEndpoint], direct: ServiceName
) -> tuple[Child, dict[ServiceName, RemoteListener]]:
    """Start an acceptor and listen at these paths; it has the sockets.

    ``direct`` is the one whose connections the worker gets as they are.
    Raises SetupError when no process can be started, a path is too long or
    another program listens there.

    The acceptor is started before its sockets have a path: the process that closes a
    listening socket last drops what its backlog holds, so that must never be
    the broker.
    """
    with ExitStack() as undo:
        sockets = {
            service: undo.enter_context(new_socket(socket.AF_UNIX, place))
            for service, place in places.items()
        }
        pairs = {service: socket.socketpair(*_CHANNEL) for service in places}
        for ours, _ in pairs.values():
            undo.callback(ours.close)
        child = _start(sockets, {s: theirs for s, (_, theirs) in pairs.items()}, direct)
        undo.callback(child.kill_now)
        doors: dict[ServiceName, RemoteListener] = {}
        for service, place in places.items():
            mine = sockets[service]
            listener = await open_listener(place, descriptors=True, sock=mine)
            undo.callback(listener.close)
            listener.hand_over()
            doors[service] = RemoteListener(listener, pairs[service][0])
        undo.pop_all()
    return child, doors


def _start(
    sockets: Mapping[ServiceName, socket.socket],
    channels: Mapping[ServiceName, socket.socket],
    direct: ServiceName,
) -> Child:
    """Start the process; closes its ends of the channels here."""
    words: list[str] = []
    fds: list[int] = []
    for service, channel in channels.items():
        numbers = sockets[service].fileno(), channel.fileno()
        words.append(f"{numbers[0]}:{numbers[1]}:{int(service == direct)}")
        fds += numbers
    try:
        return spawn(our_program(_MODULE, *words), name="acceptor", pass_fds=fds)
    except OSError as error:
        raise SetupError(
            f"no process for the container's connections: {error.strerror}",
            hint="the machine may be out of memory, processes or descriptors",
        ) from error
    finally:
        for channel in channels.values():
            channel.close()


async def end_acceptor(child: Child) -> None:
    """End it; returns when it is gone, or when it should have been.

    A process that the kernel does not let go (it closes a file whose file
    system does not answer) must not hold up the end of the lease.
    """
    child.kill()
    with trio.CancelScope(shield=True):
        with trio.move_on_after(limits.ACCEPTOR_END_SECONDS):
            await child.wait()
            return
        child.abandon()
