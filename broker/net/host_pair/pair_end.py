"""Host and viewer on one machine: one end of the pair of sockets that joins them.

``ask`` sends a request and waits for its reply; requests of the far end are given to
``serve``, each in a separate task, in turn where they are about one lease.  A caller
that is cancelled has the far end give the request up, and returns when it has.

The far end may be taken over.  A message that no honest process sends raises PeerError
out of ``run``, and the broker ends (docs/threat-model.md).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import trio

from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
    sole,
)
from broker.core.limits import host_viewer as pair_limits
from broker.core.stderr_log import log_exception
from broker.ipc import fdpass
from broker.ipc.channel import when_ready
from broker.net.host_pair import pair_messages as p
from broker.net.link import messages as m
from broker.net.link.lease_book import LeaseBook
from broker.net.link.wire_types import Role
from broker.net.link_service.lease_turns import LeaseTurns, Turn

_R = TypeVar("_R", bound=m.LinkRequest)
_ROOM = socket.CMSG_SPACE(array.array("i").itemsize)


class PairAnswer(NamedTuple):
    """A reply, and the descriptor that came with it, the receiver's to close; or -1."""

    reply: m.LinkReply
    fd: int = -1


Serve = Callable[[m.LinkRequest, int], Awaitable[PairAnswer]]
"""Carries out a request of the far end; owns its descriptor (-1: it has none), while
that of the answer is closed once it is sent.  Raises VitrailError, which is the reply."""


@dataclass(eq=False)
class _Asked:
    """Our request."""

    request: m.LinkRequest
    there: trio.Event = field(default_factory=trio.Event)
    answered: PairAnswer | None = None

    def settle(self, answered: PairAnswer | None) -> None:
        """The reply is here, or will never come."""
        self.answered = answered
        self.there.set()


class PairEnd:
    """One end; implements ``link_service.far_end.FarEnd``.  Owns the socket."""

    def __init__(self, sock: socket.socket, role: Role, serve: Serve) -> None:
        """Set up one end of the pair; ``role`` is this end's role."""
        sock.settimeout(0)
        self._sock = sock
        self._far = role.other
        self._serve = serve
        self._sending = trio.Lock()
        self._asked: dict[int, _Asked] = {}
        self._owed: dict[int, trio.CancelScope] = {}
        self._last_sent = 0
        self._last_received = 0
        self._turns = LeaseTurns()
        self.leases = LeaseBook(reconnects=False)
        self.live = True
        self.over = trio.Event()

    # -- asking ------------------------------------------------------------------

    async def ask(self, make: Callable[[int], _R], fd: int = -1) -> m.LinkReply:
        """See ``FarEnd``; a descriptor that is sent stays the caller's."""
        return (await self.exchange(make, fd)).reply

    async def exchange(self, make: Callable[[int], _R], fd: int = -1) -> PairAnswer:
        """Send a request; return its reply, which is not a failure, and a descriptor.

        A caller that is cancelled gets the reply in spite of that where the request has
        been carried out, so that it can undo it.  Raises the far end's error.
        """
        async with self._sending:
            asked = await self._send_request(make, fd)
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
        if asked.answered is None:
            raise _lost()
        if isinstance(asked.answered.reply, p.RequestFailed):
            raise p.error_of(asked.answered.reply.error)
        return asked.answered

    async def _send_request(self, make: Callable[[int], _R], fd: int) -> _Asked:
        """Send a request, after checking it as the far end will; return its entry."""
        if not self.live:
            raise _lost()
        if len(self._asked) >= pair_limits.PAIR_REQUESTS:
            raise RefusedError(f"{len(self._asked)} requests are unanswered")
        request = make(self._last_sent + 1)
        body = self._packet(request)
        of_lease = isinstance(request, m.LeaseBegun | m.LeaseEnded)
        try:
            self._enter(request)
        except ValueError as error:
            raise InternalError(f"cannot send the request: {error}") from error
        self._last_sent += 1
        asked = self._asked[request.request] = _Asked(request)
        try:
            # Both ends' books of leases are changed by sent messages.
            with trio.CancelScope(shield=of_lease):
                await self._send(body, fd)
        except OSError as error:
            # guard: a request that waits as the far end is lost is lost with it
            self._asked.pop(request.request, None)
            raise self._unsent(error) from error
        except BaseException:
            self._asked.pop(request.request, None)
            raise
        return asked

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

    def _lose(self) -> None:
        self.live = False
        for asked in self._asked.values():
            asked.settle(None)
        self._asked.clear()

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
        if number > self._last_received:
            raise PeerError("it cancels a request that it has not sent")
        scope = self._owed.get(number)
        if scope is not None:
            scope.cancel()

    def _take_reply(self, reply: m.LinkReply, fd: int) -> None:
        """Settle the request that a reply answers.

        Raises PeerError for one of no request.
        """
        asked = self._asked.get(reply.request)
        # guard: a reply answers our request with a message that fits it
        if asked is None or not isinstance(reply, _replies_to(asked.request)):
            raise PeerError(f"it sent a {type(reply).__name__} that no request expects")
        if isinstance(reply, p.HostRowsFile) and fd < 0:
            reply = _without_descriptor(reply.request)
        del self._asked[reply.request]
        self._settle(asked.request, reply)
        asked.settle(PairAnswer(reply, fd))

    def _take_request(
        self, request: m.LinkRequest, fd: int, nursery: trio.Nursery
    ) -> None:
        """Begin a request of the far end's in a task.

        Raises PeerError against the rules.
        """
        if request.request <= self._last_received:
            raise PeerError("it reuses the number of a request")
        # guard: requests of the far end are bounded
        if len(self._owed) >= pair_limits.PAIR_REQUESTS:
            raise PeerError(f"it has {len(self._owed)} unanswered requests")
        try:
            self._enter(request)
        except ValueError as error:
            raise PeerError(f"it announced {error}") from error
        self._last_received = request.request
        scope = self._owed[request.request] = trio.CancelScope()
        nursery.start_soon(self._answer, request, fd, self._turns.take(request), scope)

    async def _answer(
        self, request: m.LinkRequest, fd: int, turn: Turn, scope: trio.CancelScope
    ) -> None:
        """Carry out a request of the far end's, and send the reply or its error."""
        given_up = p.RequestFailed(request.request, p.GIVEN_UP)
        answered = PairAnswer(given_up)
        try:
            with scope:
                answered = await self._carry_out(request, fd, turn)
        except Exception as error:  # noqa: BLE001 -- the reply, whatever it is
            first = sole(error)
            if not isinstance(first, VitrailError):
                # An internal error in one request ends no other.
                log_exception(error)
                first = InternalError(
                    "an internal error occurred; see the broker's log"
                )
            answered = PairAnswer(p.RequestFailed(request.request, p.failed(first)))
        del self._owed[request.request]
        self._settle(request, answered.reply)
        try:
            with trio.CancelScope(shield=True):
                await self._put_reply(*answered)
        finally:
            if answered.fd >= 0:
                os.close(answered.fd)

    async def _put_reply(self, reply: m.LinkReply, fd: int) -> None:
        """Send a reply and its descriptor, or that it failed, to the far end."""
        try:
            async with self._sending:
                await self._send(self._packet(reply), fd)
        except InternalError as error:  # the reply cannot be sent; its failure can
            log_exception(error)
            await self._put(p.RequestFailed(reply.request, p.failed(error)))
        except OSError as error:
            # guard: a reply whose descriptor is not taken has a failure in its place
            if error.errno == errno.ETOOMANYREFS:
                failure = p.failed(self._unsent(error))
                await self._put(p.RequestFailed(reply.request, failure))

    async def _carry_out(
        self, request: m.LinkRequest, fd: int, turn: Turn
    ) -> PairAnswer:
        """Serve a request in its turn.

        Closes the descriptor that it did not pass on.
        """
        try:
            async with turn:
                if isinstance(request, m.LinkPing):
                    return PairAnswer(m.RequestDone(request.request))
                # guard: a process that may open no more files refuses this one
                if fd < 0 and isinstance(request, p.WITH_DESCRIPTOR):
                    return PairAnswer(_without_descriptor(request.request))
                mine, fd = fd, -1
                return await self._serve(request, mine)
        finally:
            if fd >= 0:
                os.close(fd)

    # -- the book of leases --------------------------------------------------------------

    def _enter(self, request: m.LinkRequest) -> None:
        if isinstance(request, m.LeaseBegun):
            self.leases.begin(request)
        elif isinstance(request, m.LeaseEnded):
            self.leases.end(request)

    def _settle(self, request: m.LinkRequest, reply: m.LinkReply) -> None:
        if isinstance(request, m.LeaseBegun) and isinstance(reply, m.RequestDone):
            self.leases.confirm(request)

    # -- a far end that hangs -----------------------------------------------------------

    async def watch(self) -> None:
        """Return when the far end does not answer any more, or has ended.

        Seconds are counted one by one: after a time in which this process was stopped
        as well, the far end has almost as many of them again.
        """
        while self.live:
            await trio.sleep(pair_limits.PAIR_BEAT_SECONDS)
            asked: _Asked | None = None
            for _ in range(pair_limits.PAIR_SILENT_SECONDS):
                with trio.move_on_after(1.0):
                    if asked is None:
                        async with self._sending:
                            asked = await self._send_request(m.LinkPing, -1)
                    await asked.there.wait()
                    break
            # guard: a host that does not answer ends the broker
            if asked is None or asked.answered is None:
                return


def _lost() -> UpstreamError:
    return UpstreamError("the broker's other process has ended")


def _was_given_up(reply: m.LinkReply) -> bool:
    return isinstance(reply, p.RequestFailed) and reply.error == p.GIVEN_UP


def _replies_to(request: m.LinkRequest) -> tuple[type[m.LinkReply], ...]:
    return p.REPLIES.get(type(request), m.RequestDone), p.RequestFailed


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
