"""The acceptor of one sandbox as the host part sees it (``programs.acceptor``)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from broker.core import limits
from broker.core.errors import InternalError, PeerError, RefusedError, SetupError
from broker.core.names import ServiceName
from broker.helpers.process.pidfd import PidfdProcess
from broker.helpers.process.spawn import our_program, spawn
from broker.ipc import acceptor as messages
from broker.ipc import fdpass
from broker.net.addresses import UnixEndpoint, new_socket
from broker.net.listeners import Listener, open_listener
from broker.net.peers import credentials
from broker.net.peers.identity import ProcessFacts

_LOST = (OSError, PeerError, trio.TooSlowError, trio.ClosedResourceError)
_IN_FLIGHT = "your programs keep too many descriptors in flight: see docs/jails.md"
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


class Acceptors:
    """Starts acceptors by forking them from one warm process of ours.

    A Python program takes longer to start than all else that stands between a box
    and its window.  The warm process is started when the first sandbox needs it, and
    again when it has died; the acceptors themselves do not depend on it.
    """

    def __init__(self) -> None:
        self._template: _Template | None = None
        self._turn = trio.Lock()
        self._ended = False

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """End the warm process when cancelled."""
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._ended = True  # a sandbox that comes up now starts no other
            with trio.CancelScope(shield=True):
                await self.close()

    async def close(self) -> None:
        """End the warm process."""
        template, self._template = self._template, None
        if template is not None:
            await template.end()

    @property
    def pid(self) -> int:
        """The warm process's id; 0 while there is none."""
        return self._template.child.pid if self._template is not None else 0

    def warm(self) -> None:
        """Start the warm process, because an acceptor will be needed soon.

        Raises SetupError when no process can be started.
        """
        if self._ended:
            raise SetupError("the broker is about to end")
        if self._template is None:
            self._template = _Template()

    async def start(
        self, places: Mapping[ServiceName, UnixEndpoint], direct: ServiceName
    ) -> tuple[PidfdProcess, dict[ServiceName, RemoteListener]]:
        """Start an acceptor and listen at these paths; it has the sockets.

        ``direct`` is the one whose connections the worker gets as they are.
        Raises SetupError when no process can be started, a path is too long or
        another program listens there.

        The acceptor is started before its sockets have a path: the process that
        closes a listening socket last drops what its backlog holds, so that must
        never be the broker.
        """
        with ExitStack() as undo:
            sockets = {
                service: undo.enter_context(new_socket(socket.AF_UNIX, place))
                for service, place in places.items()
            }
            pairs = {service: socket.socketpair(*_CHANNEL) for service in places}
            for ours, _ in pairs.values():
                undo.callback(ours.close)
            fds = [
                sock.fileno()
                for service in places
                for sock in (sockets[service], pairs[service][1])
            ]
            try:
                order = bytes(service == direct for service in places)
                child = await self._fork(order, fds)
            finally:
                for _, theirs in pairs.values():
                    theirs.close()
            undo.callback(_discard, child)
            doors: dict[ServiceName, RemoteListener] = {}
            for service, place in places.items():
                mine = sockets[service]
                # The sandbox has the directory mounted, and can lock it (flock(2)).
                # guard: a sandbox's lock is not waited for
                listener = await open_listener(
                    place, descriptors=True, sock=mine, alone=True
                )
                undo.callback(listener.close)
                listener.hand_over()
                doors[service] = RemoteListener(listener, pairs[service][0])
            undo.pop_all()
        return child, doors

    async def _fork(self, order: bytes, fds: Sequence[int]) -> PidfdProcess:
        """Have an acceptor forked; by a fresh warm process if that has just died."""
        async with self._turn:
            for _ in range(2):
                self.warm()
                assert self._template is not None
                # Not cancelled between an order and its answer, which the next
                # order would take for its own.
                with trio.CancelScope(shield=True):
                    child = await self._template.fork(order, fds)
                    if child is not None:
                        return child
                    await self.close()
        raise SetupError(
            "no process for the container's connections",
            hint="the machine may be out of memory, processes or descriptors; the "
            "broker's standard error says why",
        )


class _Template:
    """One run of ``programs.acceptor``, which forks an acceptor for each order."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(*_CHANNEL)
        self._channel.settimeout(0)
        try:
            with theirs:
                words = our_program(_MODULE, str(theirs.fileno()))
                self.child = spawn(words, name="acceptor", pass_fds=[theirs.fileno()])
        except BaseException as error:
            self._channel.close()
            if isinstance(error, OSError):
                raise SetupError(
                    f"no process for the container's connections: {error.strerror}",
                    hint="the machine may be out of memory, processes or descriptors",
                ) from error
            raise

    async def fork(self, order: bytes, fds: Sequence[int]) -> PidfdProcess | None:
        """Return an acceptor that has these descriptors; None: this process is dead."""
        try:
            fdpass.send(self._channel, order, fds)
            with trio.fail_after(limits.ACCEPTOR_START_SECONDS):
                await trio.lowlevel.wait_readable(self._channel)
            got = fdpass.receive(self._channel, messages.FORKED_BYTES, 1)
        except _LOST as error:
            if getattr(error, "errno", None) == errno.ETOOMANYREFS:
                raise SetupError(_IN_FLIGHT) from error
            return None
        if len(got.fds) != 1:
            fdpass.close_all(got.fds)
            return None
        return PidfdProcess(messages.decode_forked(got.data), got.fds[0])

    async def end(self) -> None:
        """End it; the acceptors live on."""
        trio.lowlevel.notify_closing(self._channel)
        self._channel.close()
        self.child.kill()
        await self.child.wait()


def _discard(child: PidfdProcess) -> None:
    """End an acceptor that has not accepted anything; its parent reaps it."""
    child.kill()
    child.close()


async def end_acceptor(child: PidfdProcess) -> None:
    """End it; returns when it is gone, or when it should have been.

    A process that the kernel does not let go (it closes a file whose file
    system does not answer) must not hold up the end of the lease.
    """
    child.kill()
    with trio.move_on_after(limits.ACCEPTOR_END_SECONDS, shield=True):
        await child.wait()
    child.close()
