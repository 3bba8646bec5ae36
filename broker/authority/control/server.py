"""The control socket: varlink for ``brokerctl``, ``varlinkctl`` and programs.

Only processes of the broker's own user, and root, are listened to.  Each
connection is a separate task with a deadline for every wait on the client,
so a client that does not read, or says nothing, hurts only itself.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from broker.core import limits
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
)
from broker.ipc.control import varlink
from broker.ipc.control.api import Caller
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.method import Exchange
from broker.ipc.control.methods import SHUTDOWN, row_of
from broker.ipc.control.varlink import Call, VarlinkReader, VarlinkReply
from broker.net.peers.control_peers import log_refusal
from broker.net.peers.peer_process import peer_numbers
from broker.wire.memory import SHORT_OF_DESCRIPTORS, SHORT_OF_MEMORY

_READ_BYTES = 65536
# Out of descriptors or memory: the next accept works once something is closed.
_ACCEPT_AGAIN = SHORT_OF_DESCRIPTORS | SHORT_OF_MEMORY
_ACCEPT_PAUSE = 0.1
# A client that does not read delays the broker's end no longer than this.
_LAST_SECONDS = 1.0


def _serve_all(_client: int) -> RefusedError | None:
    return None


async def serve(
    path: Path,
    api: Dispatcher,
    *,
    activated: socket.socket | None = None,
    refuse: Callable[[int], RefusedError | None] = _serve_all,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``api`` on a UNIX socket at ``path`` until cancelled.

    ``refuse`` takes a client's connection and returns why it is not served, whatever
    its user id is; None: it is.

    ``started()`` is called once clients can connect.  The socket is 0600 and
    removed at the end; one that a service manager made (``activated``) is
    its own, and left.

    Raises SetupError when a broker serves there already.
    """
    with _listening(path) if activated is None else _given(activated) as listener:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                conn = await _accept(listener)
                full = len(nursery.child_tasks) >= limits.CONTROL_CLIENTS
                stream = trio.SocketStream(conn)
                nursery.start_soon(partial(_welcome, stream, api, refuse, full=full))


@contextmanager
def _given(activated: socket.socket) -> Iterator[trio.socket.SocketType]:
    # The service manager limits who may connect (SocketMode=); the user of each
    # connection is still checked.
    activated.setblocking(False)  # noqa: FBT003
    yield trio.socket.from_stdlib_socket(activated)


@contextmanager
def _listening(path: Path) -> Iterator[trio.socket.SocketType]:
    """Listen at a path for this user alone; yield the socket, and remove the path.

    Remove it at the end if it is still ours.
    """
    refuse_second(path)
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with plain:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # fchmod before bind sets the mode that the path will have: there is
            # no moment at which others could connect.
            os.fchmod(plain.fileno(), 0o600)
            plain.bind(os.fspath(path))
            mine = path.lstat()
            plain.listen(limits.BACKLOG)
        except OSError as error:
            raise SetupError(
                f"cannot listen on {path}: {error.strerror}",
                hint=f"check that you own {path.parent} and can write to it",
            ) from error
        plain.setblocking(False)  # noqa: FBT003 -- the socket module's own
        try:
            yield trio.socket.from_stdlib_socket(plain)
        finally:
            _remove(path, mine)


def refuse_second(path: Path) -> None:
    """Remove the socket of a broker that was killed.

    Raises SetupError when a broker serves at ``path``.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A full backlog must not make us wait: it is a live broker's.
        probe.setblocking(False)  # noqa: FBT003
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise SetupError(
                    f"cannot listen on {path}: {error.strerror}",
                    hint=f"check that you own {path.parent} and can write to it",
                ) from error
    raise SetupError(
        f"a broker is already running ({path})",
        hint="to see its sandboxes, run 'brokerctl status'; to stop them and the broker, run 'brokerctl stop --broker'",
    )


def _remove(path: Path, mine: os.stat_result) -> None:
    """Remove the socket's file if it is still the one that we bound."""
    try:
        found = path.lstat()
        if (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino):
            path.unlink()
    except FileNotFoundError:
        return


async def _accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    while True:
        try:
            conn, _address = await listener.accept()
        except OSError as error:
            if error.errno in _ACCEPT_AGAIN:
                await trio.sleep(_ACCEPT_PAUSE)
            elif error.errno != errno.ECONNABORTED:
                raise
        else:
            return conn


async def _welcome(
    stream: trio.SocketStream,
    api: Dispatcher,
    refuse: Callable[[int], RefusedError | None],
    *,
    full: bool,
) -> None:
    """Serve one client of the control socket, or send it the reason why not."""
    async with stream:
        pid, uid, _gid = peer_numbers(stream.socket)
        connection = _Connection(stream, api, Caller(pid, uid))
        if uid not in {0, os.getuid()}:
            await connection.refuse(RefusedError("this broker serves another user"))
        elif reason := refuse(stream.socket.fileno()):
            log_refusal("the control socket", stream.socket, reason)
            await connection.refuse(reason)
        elif full:
            most = f"{limits.CONTROL_CLIENTS} programs are already using this broker"
            await connection.refuse(RefusedError(most))
        else:
            await connection.run()


class _Connection:
    """One client: its calls are answered one after the other."""

    def __init__(
        self, stream: trio.SocketStream, api: Dispatcher, caller: Caller
    ) -> None:
        self._stream = stream
        self._api = api
        self._caller = caller
        self._answering: Call | None = None
        self._sending = trio.Lock()
        self._scope = trio.CancelScope()
        self._quiet_since = trio.current_time()
        self._ended = False

    async def refuse(self, why: RefusedError) -> None:
        """Answer whatever is asked with a refusal."""
        await self._send(varlink.error_reply(why))

    async def run(self) -> None:
        """Answer until the client ends, goes away, or breaks the protocol."""
        calls, pending = trio.open_memory_channel[Call](limits.CONTROL_PIPELINED)
        async with trio.open_nursery() as nursery, pending:
            nursery.start_soon(self._read, calls, pending, nursery.cancel_scope)
            async for call in pending:
                if not await self._answer(call):
                    break
            nursery.cancel_scope.cancel()

    async def _read(
        self,
        calls: trio.MemorySendChannel[Call],
        pending: trio.MemoryReceiveChannel[Call],
        everything: trio.CancelScope,
    ) -> None:
        """Read calls until the client disconnects, or sends nothing for too long."""
        reader = VarlinkReader()
        async with calls:
            while True:
                data = b""
                with trio.move_on_at(self._patience()) as patience:
                    data = await self._receive()
                if not data:
                    waiting = pending.statistics().current_buffer_used
                    if patience.cancelled_caught and (self._answering or waiting):
                        self._quiet_since = trio.current_time()
                        continue
                    break
                try:
                    for message in reader.feed(data):
                        await calls.send(varlink.decode_call(message))
                        self._quiet_since = trio.current_time()
                except PeerError:
                    # Not varlink, so no answer would be understood: hang up.
                    everything.cancel()
                    return
        self._ended = True
        if self._answering:
            self._client_gone(self._answering)

    def _client_gone(self, call: Call) -> None:
        """Cancel a call that only its client had a use for."""
        if call.more:
            self._scope.cancel()
        elif (row := row_of(call.method)) and row.dropped:
            # Not at once: it may have closed its half, and wait for the answer.
            # guard: input that is never read goes with its client
            self._scope.deadline = trio.current_time() + limits.CONTROL_REPLY_SECONDS

    def _patience(self) -> float:
        return self._quiet_since + limits.CONTROL_IDLE_SECONDS

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except trio.BrokenResourceError:
            return b""

    async def _answer(self, call: Call) -> bool:
        """Carry out a call and reply; return False when the client has gone."""
        self._answering = call
        reply: VarlinkReply | None = None
        try:
            with trio.CancelScope() as self._scope:
                if self._ended and call.more:
                    return False
                if self._ended:
                    self._client_gone(call)
                reply = await self._perform(call)
        finally:
            self._answering = None
            self._quiet_since = trio.current_time()
        if reply is None:
            return False
        if call.oneway:
            return True
        # The broker may end before this task runs again, and its person would read
        # "closed before it answered".
        # guard: the end of the broker is answered
        last = row_of(call.method) is SHUTDOWN
        return await self._send(reply, _LAST_SECONDS if last else None, shield=last)

    async def _perform(self, call: Call) -> VarlinkReply:
        """Carry out a call, sending its items; return the final reply."""
        row = row_of(call.method)
        patience = math.inf if row and row.paced else None

        async def emit(item: msgspec.Struct | msgspec.Raw) -> None:
            if not call.more or call.oneway:
                return
            reply = VarlinkReply(varlink.raw(item), continues=True)
            if not await self._send(reply, patience):
                # The method ends here as it does when the client hangs up.
                self._scope.cancel()
                await trio.lowlevel.checkpoint()

        exchange = Exchange(self._caller, call.more, emit)
        return await self._api.reply(call, exchange)

    async def _send(
        self,
        reply: VarlinkReply,
        patience: float | None = None,
        *,
        shield: bool = False,
    ) -> bool:
        """Send a reply; return False when the client does not read it, or has gone."""
        try:
            message = varlink.encode(reply)
        except InternalError as problem:
            message = varlink.encode(varlink.error_reply(problem))
        if patience is None:
            patience = limits.CONTROL_REPLY_SECONDS
        with trio.move_on_after(patience, shield=shield):
            try:
                # A method may emit from several of its tasks.
                async with self._sending:
                    await self._stream.send_all(message)
            except trio.BrokenResourceError:
                return False
            return True
        return False
