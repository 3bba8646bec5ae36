"""Host and viewer on one machine: the far end over a pair of sockets, by packets.

A message may have one descriptor.  A caller of ``ask`` that is cancelled has the far end
give the request up, and returns when it has.

The far end may be taken over.  A message that no honest process sends raises PeerError
out of ``run``, and the broker ends (docs/threat-model.md).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from typing_extensions import override

from broker.core.errors import (
    InternalError,
    PeerError,
    UpstreamError,
    VitrailError,
)
from broker.core.limits import host_viewer as pair_limits
from broker.core.stderr_log import log_exception
from broker.net.host_pair import pair_messages as p
from broker.net.link import messages as m
from broker.net.link.lease_book import LeaseBook
from broker.net.link.open_requests import OpenRequests
from broker.net.link.wire_types import Role
from broker.net.link_service.far_end import FarEnd, LinkAnswer, SentRequest
from broker.net.link_service.lease_turns import Turn
from broker.wire import fdpass
from broker.wire.packets import when_ready

_R = TypeVar("_R", bound=m.LinkRequest)
_ROOM = socket.CMSG_SPACE(array.array("i").itemsize)


Serve = Callable[[m.LinkRequest, int], Awaitable[LinkAnswer]]
"""Carries out a request of the far end; owns its descriptor (-1: it has none), while
that of the answer is closed once it is sent.  Raises VitrailError, which is the reply."""


class PairEnd(FarEnd):
    """One end.  Owns the socket."""

    _INTERNAL = "an internal error occurred; see the broker's log"

    def __init__(self, sock: socket.socket, role: Role, serve: Serve) -> None:
        """Set up one end of the pair; ``role`` is this end's role."""
        super().__init__()
        sock.settimeout(0)
        self._sock = sock
        self._far = role.other
        self._serve = serve
        self._sending = trio.Lock()
        self._scopes: dict[int, trio.CancelScope] = {}
        """Of the far end's requests, by number."""
        self._requests = OpenRequests(
            pair_limits.PAIR_REQUESTS, p.replies_to, LeaseBook(reconnects=False)
        )
        self.live = True

    @property
    @override
    def leases(self) -> LeaseBook:
        return self._requests.leases

    # -- asking ------------------------------------------------------------------

    @override
    async def _await_reply(self, asked: SentRequest) -> None:
        """Wait for a reply.

        A caller that is cancelled gets it in spite of that where the request has been
        carried out, so that it can undo it.
        """
        try:
            await asked.there.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                # guard: a requester that leaves cancels its request at the other end
                await self._put(p.CancelRequest(asked.request.request))
                await asked.there.wait()
            answered = asked.answered
            if answered is None or _was_given_up(answered.reply):
                raise

    @override
    async def _send_request(self, make: Callable[[int], _R], fd: int) -> SentRequest:
        async with self._sending:
            return await self._send_next(make, fd)

    async def _send_next(self, make: Callable[[int], _R], fd: int = -1) -> SentRequest:
        """Send a request; its sender holds ``_sending``."""
        if not self.live:
            raise self._lost()
        request, body = self._requests.ask(make, self._packet)
        asked = self._asked[request.request] = SentRequest(request)
        of_lease = isinstance(request, m.LeaseBegun | m.LeaseEnded)
        try:
            # Both ends' books of leases are changed by sent messages.
            with trio.CancelScope(shield=of_lease):
                await self._send(body, fd)
        except BaseException as error:
            del self._requests.asked[request.request]
            # guard: a request that waits as the far end is lost is lost with it
            self._asked.pop(request.request, None)
            if isinstance(error, OSError):
                raise self._unsent(error) from error
            raise
        return asked

    @override
    def _lost(self) -> UpstreamError:
        return UpstreamError("the broker's other process has ended")

    def _unsent(self, error: OSError) -> UpstreamError:
        return UpstreamError(
            f"cannot send to the {self._far.name.lower()}'s process: {error.strerror}",
            hint="check whether your programs keep too many descriptors in flight (docs/jails.md)",
        )

    async def _put(self, message: m.Message) -> None:
        """Send a message that is not a request; the task that reads notices the far end's end."""
        try:
            async with self._sending:
                await self._send(self._packet(message), -1)
        except OSError:
            return

    def _packet(self, message: m.Message) -> bytes:
        """Return the bytes of our message.  Raises InternalError for an invalid one."""
        body = p.encode(message)
        if len(body) > pair_limits.PAIR_MESSAGE_BYTES:
            raise InternalError(f"the message {type(message).__name__} is too large")
        try:
            p.decode(body, self._far.other)  # or the far end would end the broker
        except PeerError as error:
            raise InternalError(
                f"a message of this process is invalid: {error}"
            ) from error
        return body

    async def _send(self, body: bytes, fd: int) -> None:
        """Send a packet with a descriptor, if there is one; waits for room."""
        fds = () if fd < 0 else (fd,)
        await trio.lowlevel.checkpoint_if_cancelled()

        def send() -> None:
            if self._sock.fileno() < 0:
                raise BrokenPipeError
            fdpass.send(self._sock, body, fds)

        try:
            await when_ready(send, trio.lowlevel.wait_writable, self._sock)
        except trio.ClosedResourceError:
            raise BrokenPipeError from None

    # -- receiving ------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the far end has closed.  Raises PeerError when it lies."""
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                try:
                    await self._read(nursery)
                finally:
                    self._lose()
                nursery.cancel_scope.cancel()
        finally:
            self._lose()
            self.over.set()
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def _read(self, nursery: trio.Nursery) -> None:
        """Receive and handle the far end's messages until it closes."""
        while True:
            await trio.lowlevel.checkpoint()
            data, fd = await self._receive()
            if not data:
                return
            try:
                self._take(p.decode(data, self._far), fd, nursery)
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                raise

    async def _receive(self) -> tuple[bytes, int]:
        """Wait for the next packet and its descriptor, or -1; empty at the end."""

        def receive() -> tuple[bytes, list[tuple[int, int, bytes]], int]:
            data, ancillary, flags, _ = self._sock.recvmsg(
                pair_limits.PAIR_MESSAGE_BYTES, _ROOM, socket.MSG_CMSG_CLOEXEC
            )
            return data, ancillary, flags

        try:
            data, ancillary, flags = await when_ready(
                receive, trio.lowlevel.wait_readable, self._sock
            )
        except ConnectionResetError:
            return b"", -1
        fds = array.array("i")
        for _, kind, payload in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        # guard: a message has one descriptor at most
        if len(fds) > 1 or flags & socket.MSG_TRUNC or (fds and not data):
            fdpass.close_all(fds)
            raise PeerError("it sent too much data or too many descriptors")
        return data, fds[0] if fds else -1

    def _take(self, message: m.Message, fd: int, nursery: trio.Nursery) -> None:
        """Handle a message: cancel, settle or begin a request.  Raises PeerError."""
        # guard: descriptors come with the messages that have one
        if fd >= 0 and not isinstance(message, p.WITH_DESCRIPTOR):
            raise PeerError("it sent a descriptor with a message that has none")
        if isinstance(message, p.CancelRequest):
            self._cancel(message.request)
        elif isinstance(message, m.LinkReply):
            self._take_reply(message, fd)
        elif isinstance(message, m.LinkRequest):
            self._take_request(message, fd, nursery)

    def _cancel(self, number: int) -> None:
        if not self._requests.was_sent(number):
            raise PeerError("it cancels a request that it has not sent")
        scope = self._scopes.get(number)
        if scope is not None:
            scope.cancel()

    def _take_reply(self, reply: m.LinkReply, fd: int) -> None:
        """Settle the request that a reply answers.

        Raises PeerError for one of no request.
        """
        self._requests.take_reply(reply)
        if isinstance(reply, p.HostRowsFile) and fd < 0:
            reply = _without_descriptor(reply.request)
        self._asked.pop(reply.request).settle(LinkAnswer(reply, fd))

    def _take_request(
        self, request: m.LinkRequest, fd: int, nursery: trio.Nursery
    ) -> None:
        """Begin a request of the far end's in a task.

        Raises PeerError against the rules.
        """
        self._requests.take_request(request)
        scope = self._scopes[request.request] = trio.CancelScope()
        nursery.start_soon(self._answer, request, fd, self._turns.take(request), scope)

    async def _answer(
        self, request: m.LinkRequest, fd: int, turn: Turn, scope: trio.CancelScope
    ) -> None:
        """Carry out a request of the far end's, and send the reply or its error.

        Closes the descriptor that it did not pass on.
        """

        async def serve() -> LinkAnswer:
            nonlocal fd
            # guard: a process that may open no more files refuses this one
            if fd < 0 and isinstance(request, p.WITH_DESCRIPTOR):
                return LinkAnswer(_without_descriptor(request.request))
            mine, fd = fd, -1
            return await self._serve(request, mine)

        try:
            answered = await self._carry_out(request, turn, serve, scope)
        finally:
            if fd >= 0:
                os.close(fd)
        if answered is None:
            answered = LinkAnswer(p.RequestFailed(request.request, p.GIVEN_UP))
        del self._scopes[request.request]
        self._requests.reply(answered.reply)
        try:
            with trio.CancelScope(shield=True):
                await self._put_reply(*answered)
        finally:
            if answered.fd >= 0:
                os.close(answered.fd)

    @override
    def _failure(self, number: int, error: VitrailError) -> m.LinkFailure:
        return p.RequestFailed(number, p.failed(error))

    async def _put_reply(self, reply: m.LinkReply, fd: int) -> None:
        """Send a reply and its descriptor, or that it failed, to the far end."""
        try:
            async with self._sending:
                await self._send(self._packet(reply), fd)
        except InternalError as error:  # the reply cannot be sent; its failure can
            log_exception(error)
            await self._put(self._failure(reply.request, error))
        except OSError as error:
            # guard: a reply whose descriptor is not taken has a failure in its place
            if error.errno == errno.ETOOMANYREFS:
                await self._put(self._failure(reply.request, self._unsent(error)))

    # -- a far end that hangs -----------------------------------------------------------

    async def watch(self) -> None:
        """Return when the far end does not answer any more, or has ended.

        Seconds are counted one by one: after a time in which this process was stopped
        as well, the far end has almost as many of them again.
        """
        while self.live:
            await trio.sleep(pair_limits.PAIR_BEAT_SECONDS)
            asked: SentRequest | None = None
            for _ in range(pair_limits.PAIR_SILENT_SECONDS):
                with trio.move_on_after(1.0):
                    if asked is None:
                        async with self._sending:
                            asked = await self._send_next(m.LinkPing)
                    await asked.there.wait()
                    break
            # guard: a host that does not answer ends the broker
            if asked is None or asked.answered is None:
                return


def _was_given_up(reply: m.LinkReply) -> bool:
    return isinstance(reply, p.RequestFailed) and reply.error == p.GIVEN_UP


def _without_descriptor(number: int) -> p.RequestFailed:
    """Return the reply for a message whose descriptor the kernel did not deliver."""
    return p.RequestFailed(
        number,
        p.failed(
            UpstreamError(
                "the descriptor of a message was lost",
                hint="raise the limit on open files ('ulimit -n')",
            )
        ),
    )
