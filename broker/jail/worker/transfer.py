"""In the worker: connections of the sandbox's programs about files and links.

One task for each connection.  It reads the request, forwards it to the broker,
and follows the broker's answer: finish, pass entries on to a pipe, or deliver
those of one.  Entries are decoded and written again on either way, so that nothing
reaches the other side that the rules for names and sizes do not accept.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress

import msgspec
import trio

from broker.core.errors import InternalError, PeerError, VitrailError
from broker.core.escape import printable
from broker.core.framing import FrameReader
from broker.core.limits import transfer as limits
from broker.core.transfer.entries import SENDER_LEFT, entry_frame
from broker.core.transfer.file_names import (
    saved_names,
    suggested_name,
    take_file_name,
)
from broker.core.transfer.urls import take_url
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import (
    Ask,
    CallService,
    ChooseFiles,
    CopyFiles,
    GiveFiles,
    Go,
    GuestCalled,
    GuestDelivery,
    OfferServices,
    OpenFile,
    OpenUrl,
    PrintPages,
    Reply,
    ReturnFile,
    Take,
    TransferDone,
    TransferProgress,
    TransferRefused,
    Wait,
    decode_ask,
    reply_frame,
)
from broker.jail.transfer.contents import HeadCheck
from broker.jail.transfer.entry_reader import EntryReader
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker.daemon_stream import DaemonStream
from broker.jail.worker.pipes import read_pipe, splice_file, write_pipe
from broker.jail.worker.ssh_stream import SshAgentStream
from broker.jail.worker.wayland.window_pictures import OwnWindow, serve_window
from broker.wire import fdpass

Say = Callable[[messages.FromWorker], Awaitable[None]]
_CUT = "the transfer is incomplete"
_MOVED_SECONDS = 0.5
_SPLICE_BYTES = 1 << 16
"""Of a file, left after its head: they are passed on without being copied into this process."""


class WorkerTransfers:
    """All such connections of the sandbox."""

    def __init__(self, say: Say, sandbox: Callable[[], Sandbox]) -> None:
        """``sandbox``: what its Wayland connections share."""
        self._say = say
        self._sandbox = sandbox
        self._streams: dict[int, _Stream] = {}

    def obey(
        self, order: messages.ToWorker, fds: tuple[int, ...], nursery: trio.Nursery
    ) -> None:
        """Carry out an order of the viewer about transfers; takes ``fds`` over."""
        if isinstance(order, messages.TransferStream):
            if len(fds) != 1:
                fdpass.close_all(fds)
                raise InternalError("a transfer came without its descriptor")
            sock = socket.socket(fileno=fds[0])
            stream = _Stream(
                order.stream, sock, self._say, self._sandbox, agent=order.agent
            )
            self._streams[order.stream] = stream
            nursery.start_soon(self._serve, stream)
            return
        found = self._streams.get(order.stream)
        if found is None:  # it has ended meanwhile
            fdpass.close_all(fds)
            return
        found.tell(order, fds)

    async def _serve(self, stream: _Stream) -> None:
        """Serve one stream to its end, and tell the viewer."""
        try:
            reason = await stream.run()
        finally:
            del self._streams[stream.number]
            stream.close()
        await self._say(
            messages.TransferClosed(
                stream.number, stream.from_guest, stream.to_guest, reason[:4000]
            )
        )


class _Stream:
    """One connection, and the orders about it."""

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        say: Say,
        sandbox: Callable[[], Sandbox],
        *,
        agent: bool,
    ) -> None:
        sock.settimeout(0)
        self.number = number
        self._agent = agent
        """Its program knows the ssh agent's protocol alone."""
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._say = say
        self._sandbox = sandbox
        # Wait, then Send or Deliver, then Finish: the broker is not faster.
        self._put, self._orders = trio.open_memory_channel[
            tuple[messages.ToWorker, tuple[int, ...]]
        ](8)
        self._moved = 0.0
        self._hash = hashlib.sha256()
        self._broken = False
        """Its files were broken off, and it may not know that yet."""
        self.from_guest = 0
        self.to_guest = 0

    def tell(self, order: messages.ToWorker, fds: tuple[int, ...]) -> None:
        """Queue an order of the viewer for this connection.  Raises InternalError."""
        try:
            self._put.send_nowait((order, fds))
        except trio.WouldBlock:
            fdpass.close_all(fds)
            raise InternalError("received too many orders for a transfer") from None

    def close(self) -> None:
        """Close the connection and unused descriptors."""
        self._sock.close()
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                fdpass.close_all(self._orders.receive_nowait()[1])

    async def run(self) -> str:
        """Serve the connection to its end; return the reason of the end."""
        try:
            if self._agent:
                return await self._follow()
            with trio.move_on_after(limits.TRANSFER_HEAD_SECONDS) as patience:
                ask = await self._ask()
            if patience.cancelled_caught:
                raise PeerError("the program did not send a request in time")
            await self._say(messages.TransferAsked(self.number, ask))
            return await self._follow()
        except VitrailError as error:
            reason = printable(str(error), 900)
            await self._answer(TransferRefused(reason))
            return reason
        except OSError as error:
            return f"the transfer failed: {error.strerror}"

    # -- the request ------------------------------------------------------------------

    async def _ask(self) -> Ask:
        """Read a program's request.  Raises PeerError."""
        reader = FrameReader(limits.TRANSFER_FRAME_BYTES)
        while True:
            untrusted_data = await self._receive(1 << 12)
            if not untrusted_data:
                raise PeerError("the program closed the connection before its request")
            frames = reader.feed(untrusted_data)
            # guard: a program sends one request for a transfer
            if frames and (len(frames) > 1 or reader.in_frame):
                raise PeerError("the program sent data after its request")
            if frames:
                return _checked(decode_ask(frames[0]))

    async def _follow(self) -> str:
        """Carry out orders until an order finishes the connection; return why."""
        while True:
            order, fds = await self._next()
            match order:
                case messages.TransferWait() | messages.TransferCalled():
                    await self._answer(_reply(order))
                case messages.TransferFinish():
                    return await self._finish(order.reason)
                case messages.TransferSend():
                    await self._moved_by(self._pass, order, fds)
                case messages.TransferDeliver():
                    await self._moved_by(self._deliver, order, fds)
                case messages.TransferLeave():
                    return await self._leave(order)
                case messages.TransferServe():
                    return await self._serve(order)
                case _:
                    raise InternalError(
                        "received an order for an agent or a daemon that is not served"
                    )

    async def _next(self) -> tuple[messages.ToWorker, tuple[int, ...]]:
        """Wait for an order, or for the program to hang up."""
        orders: list[tuple[messages.ToWorker, tuple[int, ...]]] = []
        hung_up = False

        async def listen() -> None:
            nonlocal hung_up
            if self._broken:
                # Its last bytes are on their way; the reason comes after them.
                with suppress(OSError):
                    await self._discard()
                return
            await trio.lowlevel.wait_readable(self._sock)
            # guard: a program that resets its connection ends alone
            with suppress(ConnectionError):
                if self._agent and await self._sock.recv(1, socket.MSG_PEEK):
                    return  # its first request, which waits
            hung_up = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            orders.append(await self._orders.receive())
            nursery.cancel_scope.cancel()
        if orders:
            return orders[0]
        if hung_up:
            # Its request is answered first, so whatever comes is out of turn.
            # guard: silence before the answer
            raise PeerError("the program did not wait for the reply")
        raise InternalError("the wait ended without an order")

    async def _leave(self, order: messages.TransferLeave) -> str:
        """Hand the connection to the pump; wait for its end, reading nothing of it."""
        await self._answer(order.service or Go())
        # A worker has no part in a call.
        self._sock.close()
        await self._say(messages.TransferPassed(self.number, 0, 0))
        while True:
            last, fds = await self._orders.receive()
            fdpass.close_all(fds)
            if isinstance(last, messages.TransferFinish):
                return printable(last.reason, 900) or "done"

    async def _serve(self, order: messages.TransferServe) -> str:
        """Serve a call that the viewer has permitted."""
        orders = self._next_agent_order
        if order.what == "window":
            window = OwnWindow(self._sandbox())
            await self._answer(Go())
            return await serve_window(window, self._sock, orders, self._count)
        await self._answer(order.service or Go())
        words = (self.number, self._sock, self._say, orders)
        if order.what == "daemon":
            return await DaemonStream(*words, self._count).run()
        asks = order.service is None
        return await SshAgentStream(*words, asks=asks, moved=self._count).run()

    async def _next_agent_order(self) -> messages.ToWorker:
        order, fds = await self._orders.receive()
        fdpass.close_all(fds)
        return order

    def _count(self, received: int, sent: int) -> None:
        self.from_guest += received
        self.to_guest += sent

    async def _finish(self, reason: str) -> str:
        """Send a program the end or refusal, and close."""
        reason = printable(reason, 900)
        await self._answer(TransferRefused(reason) if reason else TransferDone())
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        if self._broken:
            # A connection that is closed with bytes on their way to it is reset, and a
            # machine's vsock then drops our reason with them.
            with suppress(OSError), trio.move_on_after(limits.TRANSFER_LINGER_SECONDS):
                await self._discard()
        return reason or "done"

    async def _discard(self) -> None:
        """Read and drop its bytes, until it hangs up.  Raises OSError."""
        while await self._receive(limits.TRANSFER_READ_BYTES):
            pass

    # -- the bytes ---------------------------------------------------------------------

    async def _moved_by(
        self,
        step: Callable[[messages.ToWorker, EntryReader, int], Awaitable[None]],
        order: messages.TransferSend | messages.TransferDeliver,
        fds: tuple[int, ...],
    ) -> None:
        """Move entries by a step, and report the end to the broker."""
        if len(fds) != 1:
            fdpass.close_all(fds)
            raise InternalError("an order to transfer data came without its pipe")
        single = isinstance(order, messages.TransferSend) and order.quota.single
        reader = EntryReader(order.quota)
        reason = ""
        self._hash = hashlib.sha256()
        try:
            await step(order, reader, fds[0])
        except VitrailError as error:
            reason = printable(str(error), 900)
        except OSError as error:
            reason = f"the transfer failed: {error.strerror}"
        except trio.TooSlowError:
            reason = f"no data was transferred for {limits.TRANSFER_STALL_SECONDS:g} s"
        finally:
            os.close(fds[0])
        self._broken = bool(reason)
        passed = messages.TransferPassed(
            self.number,
            reader.size,
            reader.files,
            reason,
            self._hash.digest() if single else b"",
        )
        await self._say(passed)

    async def _pass(
        self, order: messages.ToWorker, reader: EntryReader, pipe: int
    ) -> None:
        """Copy files from the program's connection into the pipe."""
        single = isinstance(order, messages.TransferSend) and order.quota.single
        os.set_blocking(pipe, False)
        await self._answer(Go())
        heads, own = HeadCheck(single=single), self._sock.fileno()
        while not reader.ended:
            with _patience():
                # A single file is hashed, so its bytes are needed here.
                if not single and not heads.looking and reader.left >= _SPLICE_BYTES:
                    self.from_guest += await splice_file(reader, own, pipe, _CUT)
                else:
                    await self._pass_read(heads, reader, pipe)
            await self._tell_moved(reader)

    async def _pass_read(
        self, heads: HeadCheck, reader: EntryReader, pipe: int
    ) -> None:
        """Read a program's entries and pass checked parts on."""
        untrusted_data = await self._receive(limits.TRANSFER_READ_BYTES)
        if not untrusted_data:
            raise PeerError(_CUT)
        parts: list[bytes] = []
        for item in reader.feed(untrusted_data):
            if heads.single and isinstance(item, bytes):
                self._hash.update(item)
            parts += heads.take(item)
        # Many small files are written at once.
        await write_pipe(pipe, b"".join(parts))

    async def _deliver(
        self, order: messages.ToWorker, reader: EntryReader, pipe: int
    ) -> None:
        """Copy files from the pipe to the program's connection."""
        if not isinstance(order, messages.TransferDeliver):
            raise InternalError("a delivery came without its order")
        os.set_blocking(pipe, False)
        await self._answer(
            GuestDelivery(order.source, order.open, order.announced, order.back)
        )
        own = self._sock.fileno()
        while not reader.ended:
            with _patience():
                if reader.left >= _SPLICE_BYTES:
                    self.to_guest += await splice_file(reader, pipe, own, SENDER_LEFT)
                else:
                    await self._deliver_read(reader, pipe)
            await self._tell_moved(reader, answer=False)

    async def _deliver_read(self, reader: EntryReader, pipe: int) -> None:
        """Read a pipe's entries and send them to a program."""
        untrusted_data = await read_pipe(pipe)
        if not untrusted_data:
            raise PeerError(SENDER_LEFT)
        # At once: to a machine, each write is a packet and an interrupt.
        await self._send(
            b"".join(
                item if isinstance(item, bytes) else entry_frame(item)
                for item in reader.feed(untrusted_data)
            )
        )

    async def _tell_moved(self, reader: EntryReader, *, answer: bool = True) -> None:
        """Tell the viewer how much has moved, now and then."""
        now = trio.current_time()
        if now - self._moved < _MOVED_SECONDS:
            return
        self._moved = now
        await self._say(messages.TransferMoved(self.number, reader.size, reader.files))
        if answer:  # a program that receives gets entries, with nothing between them
            await self._answer(TransferProgress(reader.size))

    # -- the connection -----------------------------------------------------------------

    async def _receive(self, size: int) -> bytes:
        data = await self._sock.recv(size)
        self.from_guest += len(data)
        return data

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = await self._sock.send(view)
            self.to_guest += sent
            view = view[sent:]

    async def _answer(self, reply: Reply) -> None:
        """Answer the program; give up soon if it does not read."""
        if self._agent:
            return
        with suppress(OSError), trio.move_on_after(1.0):
            await self._send(reply_frame(reply))


def _reply(order: messages.TransferWait | messages.TransferCalled) -> Reply:
    if isinstance(order, messages.TransferWait):
        return Wait(printable(order.what, 900))
    return GuestCalled(order.token, order.over)


def _checked(untrusted_ask: Ask) -> Ask:
    """Return the request with its address or name in the one form that is forwarded."""
    match untrusted_ask:
        case OpenUrl(url=untrusted_url, target=target):
            # guard: address checked in the worker
            return OpenUrl(take_url(untrusted_url, None).canonical, target)
        case (
            OpenFile(name=untrusted_name)
            | CopyFiles(name=untrusted_name)
            | GiveFiles(name=untrusted_name)
        ):
            # guard: name checked in the worker
            take_file_name(untrusted_name.encode())
        case ChooseFiles(name=untrusted_name) | PrintPages(name=untrusted_name):
            # guard: suggested name checked in the worker
            name = suggested_name(untrusted_name)
            checked = msgspec.structs.replace(untrusted_ask, name=name)
            if isinstance(checked, ChooseFiles):
                names = saved_names(checked.names, checked.kind)
                checked = msgspec.structs.replace(checked, names=names)
            return checked
        case Take() | ReturnFile() | CallService() | OfferServices():
            pass  # a token or a name, whose form was checked when it was decoded
    return untrusted_ask


def _patience() -> AbstractContextManager[trio.CancelScope]:
    """Give a transfer up in which nothing moves; raises trio.TooSlowError."""
    return trio.fail_after(limits.TRANSFER_STALL_SECONDS)
