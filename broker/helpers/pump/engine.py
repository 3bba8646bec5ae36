"""The pump's loop: all streams of a broker, one epoll, no waiting elsewhere.

Rules, each of which was needed:

* Level-triggered.  EPOLLIN is asked for only while a direction flows,
  EPOLLOUT only while it is blocked.  (Edge-triggered EPOLLOUT on a UNIX
  socket wakes at every read of the peer.)
* A side that nothing is awaited from is parked: EPOLLHUP cannot be masked, so a
  hung-up side of a blocked stream would spin.  With EPOLLONESHOT it comes once.
* A side that is in the epoll set stays there until its stream ends: the kernel
  counts entries for the user, and when others have taken all there is no second
  one.  A stream that gets none at its beginning is refused, alone.
* A side that has ended, while bytes for it may still come, is watched for its
  disappearance alone, edge-triggered, so that its event comes once.
* Reading failed: the stream ends.  Writing failed: bytes that the vanished side
  sent before are still delivered, as the kernel would between two sockets, and
  the stream ends with the error then.
* A completion never blocks the loop: it waits in a queue of which each stream
  can add one.

Streams that only flow are carried in C where that was built (``turns.py``):
they are adopted at their beginning, and come back when anything fails.

Only the pump runs it: a broker's, an acceptor's or that of ``brokerctl proxy``.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import select
import socket
import time
from collections.abc import Callable
from functools import partial

from broker.core.limits import relay as relay_limits
from broker.helpers.pump.channel import PumpChannel
from broker.helpers.pump.flow import (
    BLOCKED,
    ENDED,
    FLOWING,
    READ_FAILED,
    WRITE_FAILED,
    FlowDirection,
    choose,
)
from broker.helpers.pump.pool import BufferPool, PipePool
from broker.helpers.pump.turns import MANY, Accelerator, Events, StreamPair, TurnWay
from broker.ipc.pump import (
    Abort,
    EndReason,
    Live,
    PumpReady,
    PumpRequest,
    RelayMode,
    Side,
    StreamDone,
    StreamEnd,
    StreamStatistics,
    Submit,
    ToPump,
)

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR
_READ = _IN | _GONE
_WRITE = _OUT | _GONE
# Nothing but EPOLLHUP and EPOLLERR, which come unasked, and each only once.
_WATCH_GONE = select.EPOLLET
# Nothing is awaited; EPOLLHUP and EPOLLERR come once at most.
_PARKED = select.EPOLLONESHOT

# These two mean that a peer went away; other errors are the kernel's refusals.
_RESETS = frozenset({errno.EPIPE, errno.ECONNRESET})

_MESSAGES_PER_TURN = 32

# Deadlines of ended streams that are kept before it is worth to clear them out.
_SLACK = 64


class _End:
    """One side of a stream: its socket, its input and its output."""

    __slots__ = ("mask", "said", "side", "sock", "stream", "told")

    def __init__(self, side: Side, sock: socket.socket) -> None:
        self.side = side
        self.sock = sock
        self.mask = 0
        self.stream: _Stream
        self.said: FlowDirection
        self.told: FlowDirection


class _Stream:
    """A stream; while it is ``adopted`` (its turns are taken in C) it has no ends."""

    __slots__ = (
        "a",
        "active",
        "adopted",
        "b",
        "began",
        "errno",
        "failed",
        "fds",
        "idle",
        "open",
        "order",
        "token",
    )
    a: _End
    b: _End

    def __init__(self, order: Submit, fds: list[int], now: float) -> None:
        self.order = order
        self.token = order.token
        self.fds = fds
        self.idle = order.idle_ms / 1000
        self.began = self.active = now
        self.errno = 0
        self.failed = Side.NONE
        self.open = True
        self.adopted = False


class RelayEngine:
    """All streams of one pump.  ``run`` returns when the broker has gone.

    ``accelerate`` makes the C part for an epoll set, or None.
    """

    def __init__(
        self,
        control: socket.socket,
        kernel: tuple[int, int],
        *,
        accelerate: Callable[[int], Accelerator | None] = lambda _: None,
    ) -> None:
        self._kernel = kernel
        self._epoll = select.epoll()
        self._turns = accelerate(self._epoll.fileno())
        self._channel = PumpChannel(control, self._epoll)
        self._pipes = PipePool()
        self._buffers = BufferPool()
        self._streams: dict[int, _Stream] = {}
        self._ends: dict[int, _End] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._now = time.monotonic()
        self._channel.send(PumpReady(os.getpid(), self._turns is not None))

    def run(self) -> None:
        """Relay all streams until the broker closes the control socket."""
        control = self._channel.fd
        ends = self._ends
        wait = self._wait if self._turns is None else partial(self._shared, self._turns)
        while self._channel.alive:
            events = wait()
            heard = 0
            busy = len(events) > MANY
            for fd, event in events:
                end = ends.get(fd)
                if end is not None:
                    self._turn(end, event, busy=busy)
                elif fd == control:
                    # Last, so that a descriptor number that a submission takes
                    # over cannot meet an event of its former owner.
                    heard = event
            if heard:
                self._hear(heard)
            if self._deadlines:
                self._end_idle()
        self.close()

    def close(self) -> None:
        """Close all streams, the control socket and the epoll, without completions."""
        for stream in self._streams.values():
            self._reclaim(stream)
            self._close(stream)
        self._streams.clear()
        self._turns = None
        self._pipes.close()
        self._epoll.close()
        self._channel.close()

    # -- waiting ---------------------------------------------------------------

    def _wait(self) -> Events:
        """Wait for events of the epoll, or the next deadline."""
        if self._deadlines:
            # epoll_wait counts milliseconds; a little late is better than
            # early, which would spin.
            left = max(0.0, self._deadlines[0][0] - time.monotonic()) + 0.001
        else:
            left = -1
        events = self._epoll.poll(left)
        self._now = time.monotonic()
        return events

    def _shared(self, turns: Accelerator) -> Events:
        """Wait while the C part takes its streams' turns; return our own events."""
        until = self._deadlines[0][0] if self._deadlines else -1.0
        self._now, events, left, over = turns.wait(until)
        for token, ab, ba in over:
            del self._streams[token]
            self._channel.send(StreamDone(token, _ended(ab, ba)))
        for pair in left:
            stream = self._streams[pair.token]
            self._take_back(stream, pair)
            for end in (stream.a, stream.b):
                if stream.open:
                    # Also where it flows or is blocked: a copy awaits other events than
                    # the splice before it.
                    self._changed(stream, end.said)
        return events

    def _take_back(self, stream: _Stream, pair: StreamPair) -> None:
        """Continue in Python where the C part stopped a stream."""
        stream.adopted = False
        self._equip(stream)
        stream.active = pair.active
        for end, way in zip((stream.a, stream.b), pair.ways, strict=True):
            end.mask = way.mask
            end.said.resume(way)

    def _reclaim(self, stream: _Stream) -> None:
        """Take a stream back that the C part would keep."""
        if self._turns is not None and stream.adopted:
            self._take_back(stream, self._turns.release(stream.fds[0]))

    # -- a stream's turn -------------------------------------------------------

    def _turn(self, end: _End, event: int, *, busy: bool) -> None:
        """Handle an event of one end: move bytes both ways as far as possible."""
        stream, said, told = end.stream, end.said, end.told
        stream.active = self._now
        if (
            said.state is FLOWING
            and event & _READ
            and said.move(busy=busy) is not FLOWING
        ):
            self._changed(stream, said)
        if (
            told.state is BLOCKED
            and event & _WRITE
            and stream.open
            and told.move(busy=busy) is not BLOCKED
        ):
            self._changed(stream, told)
        if event & _GONE and end.mask == _WATCH_GONE and stream.open:
            # It is no longer there to receive anything.  Stop the other side
            # from sending more, and let the bytes already sent meet the error.
            self._watch(end, 0)
            self._shut_read(told.source)
            if told.move() is not FLOWING:
                self._changed(stream, told)

    def _changed(self, stream: _Stream, direction: FlowDirection) -> None:
        """Act on a direction's new state: end the stream, or watch other events."""
        state = direction.state
        if state is READ_FAILED:
            self._fail(stream, direction.error, self._side(stream, direction.source))
        elif state is WRITE_FAILED:
            self._unwritable(stream, direction)
        if not stream.open:
            return
        if stream.a.said.state >= ENDED and stream.b.said.state >= ENDED:
            self._finish(stream)
            return
        self._watch(stream.a)
        self._watch(stream.b)

    def _unwritable(self, stream: _Stream, direction: FlowDirection) -> None:
        """End a stream whose destination is gone, after its last answer was passed."""
        side = self._side(stream, direction.destination)
        if direction.error not in _RESETS:
            self._fail(stream, direction.error, side)
            return
        stream.errno, stream.failed = direction.error, side
        direction.release()
        self._shut_read(direction.source)

    def _fail(self, stream: _Stream, number: int, side: Side) -> None:
        if not stream.errno:
            stream.errno, stream.failed = number, side
        self._finish(stream)

    def _watch(self, end: _End, mask: int | None = None) -> None:
        """Set the epoll's mask to the events awaited from this side."""
        if mask is None:
            said, told = end.said.state, end.told.state
            mask = (_IN if said is FLOWING else 0) | (_OUT if told is BLOCKED else 0)
            if not mask and said is ENDED and told is FLOWING:
                mask = _WATCH_GONE
        # guard: a stream that runs needs no further entry of an epoll set
        mask = mask or _PARKED
        if mask != end.mask:
            self._epoll.modify(end.sock, mask)
            end.mask = mask

    @staticmethod
    def _side(stream: _Stream, sock: socket.socket) -> Side:
        return Side.A if sock is stream.a.sock else Side.B

    @staticmethod
    def _shut_read(sock: socket.socket) -> None:
        # ENOTCONN when that side is gone as well.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)

    # -- beginnings and ends ---------------------------------------------------

    def _begin(self, order: Submit, fds: list[int]) -> None:
        """Begin a stream that the broker submitted."""
        if len(fds) != 2:
            # The kernel drops what no descriptor number is left for (unix(7)).
            for fd in fds:
                os.close(fd)
            self._refuse(order, errno.EMFILE)
            return
        stream = _Stream(order, fds, self._now)
        try:
            self._enter(stream)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            # guard: a stream without a place in the epoll set is refused alone
            self._refuse(order, error.errno or errno.EIO)
            return
        self._streams[order.token] = stream
        if stream.idle:
            self._remember(self._now + stream.idle, order.token)

    def _enter(self, stream: _Stream) -> None:
        """Add both sides to the epoll.  Raises OSError; both stay open."""
        if self._turns is not None and self._flows(self._turns, stream):
            self._turns.adopt(stream.token, *stream.fds)
            stream.adopted = True
            return
        self._equip(stream)
        try:
            for end in (stream.a, stream.b):
                self._epoll.register(end.sock, _IN)
                end.mask = _IN
        except OSError:
            for end in (stream.a, stream.b):
                if end.mask:  # closing does not take out what its sender still holds
                    self._epoll.unregister(end.sock)
                del self._ends[end.sock.detach()]
            raise

    def _flows(self, turns: Accelerator, stream: _Stream) -> bool:
        """Return whether both directions move by splice, in whole pipes."""
        order = stream.order
        if order.max_write or order.max_bytes:
            return False
        a, b = turns.domains(*stream.fds)
        splices = RelayMode.SPLICE
        return (
            choose(order.mode_ab, a, b, self._kernel) is splices
            and choose(order.mode_ba, b, a, self._kernel) is splices
        )

    def _equip(self, stream: _Stream) -> None:
        """Create a stream's ends.  Raises OSError for a descriptor that is not a socket."""
        order = stream.order
        a = self._open(stream.fds[0])
        try:
            b = self._open(stream.fds[1])
        except OSError:
            a.detach()
            raise
        one, two = stream.a, stream.b = _End(Side.A, a), _End(Side.B, b)
        one.stream = two.stream = stream
        one.said = two.told = self._direction(a, b, order.mode_ab, order)
        two.said = one.told = self._direction(b, a, order.mode_ba, order)
        self._ends[a.fileno()] = one
        self._ends[b.fileno()] = two

    @staticmethod
    def _open(fd: int) -> socket.socket:
        # Type and protocol are given so that only the family is asked for.
        sock = socket.socket(type=socket.SOCK_STREAM, proto=0, fileno=fd)
        sock.settimeout(0)
        return sock

    def _direction(
        self,
        source: socket.socket,
        destination: socket.socket,
        mode: RelayMode,
        order: Submit,
    ) -> FlowDirection:
        """Return one direction of a stream, with the mode that its sockets allow."""
        return FlowDirection(
            source,
            destination,
            choose(
                mode, source.family, destination.family, self._kernel, order.max_write
            ),
            pipes=self._pipes,
            buffers=self._buffers,
            may_fall_back=mode is not RelayMode.SPLICE,
            max_write=order.max_write,
            max_bytes=order.max_bytes,
        )

    def _refuse(self, order: Submit, number: int) -> None:
        end = StreamEnd(
            0, 0, EndReason.ERROR, number, mode_ab=order.mode_ab, mode_ba=order.mode_ba
        )
        self._channel.send(StreamDone(order.token, end))

    def _finish(self, stream: _Stream, reason: EndReason | None = None) -> None:
        """End a stream, and report its end to the broker."""
        self._reclaim(stream)
        if reason is None:
            reason = EndReason.END
            if stream.errno:
                reason = EndReason.RESET if stream.errno in _RESETS else EndReason.ERROR
        del self._streams[stream.token]
        ab, ba = stream.a.said, stream.b.said
        self._close(stream)
        end = StreamEnd(
            ab.count,
            ba.count,
            reason,
            stream.errno,
            stream.failed,
            ab.mode,
            ba.mode,
        )
        self._channel.send(StreamDone(stream.token, end))

    def _close(self, stream: _Stream) -> None:
        """Close a stream's sockets, and remove them from the epoll."""
        stream.open = False
        for end in (stream.a, stream.b):
            if end.mask:
                self._epoll.unregister(end.sock)
                end.mask = 0
            del self._ends[end.sock.fileno()]
            end.said.release()
            end.sock.close()

    # -- deadlines ---------------------------------------------------------------

    def _remember(self, due: float, token: int) -> None:
        """Note a deadline; forget those of ended streams when they are many."""
        deadlines = self._deadlines
        if len(deadlines) >= 2 * len(self._streams) + _SLACK:
            deadlines[:] = [one for one in deadlines if one[1] in self._streams]
            heapq.heapify(deadlines)
        heapq.heappush(deadlines, (due, token))

    def _end_idle(self) -> None:
        """End the streams that have been idle too long.

        An entry is not moved when its stream moves bytes: it is looked at when
        it comes up, and put back with the time that is left.
        """
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= self._now:
            _, token = heapq.heappop(deadlines)
            stream = self._streams.get(token)
            if stream is None:
                continue
            if self._turns is not None and stream.adopted:
                stream.active = self._turns.look(stream.fds[0]).active
            due = stream.active + stream.idle
            if due <= self._now:
                self._finish(stream, EndReason.IDLE)
            else:
                heapq.heappush(deadlines, (due, token))

    # -- the broker --------------------------------------------------------------

    def _hear(self, event: int) -> None:
        """Handle an event of the control socket: send answers, read orders."""
        if event & _OUT:
            self._channel.flush()
        if event & _READ:
            for _ in range(_MESSAGES_PER_TURN):
                heard = self._channel.receive()
                if heard is None:
                    return
                self._obey(*heard)

    def _obey(self, message: ToPump, fds: list[int]) -> None:
        """Carry out one message of the broker."""
        match message:
            case Submit() as order:
                self._begin(order, fds)
            case Abort(token):
                stream = self._streams.get(token)
                if stream is not None:
                    self._finish(stream, EndReason.ABORTED)
            case PumpRequest(request):
                self._report(request)

    def _report(self, request: int) -> None:
        live = [self._statistics(stream) for stream in self._streams.values()]
        size = relay_limits.RELAY_STREAMS_PER_ANSWER
        for start in range(0, max(1, len(live)), size):
            part = tuple(live[start : start + size])
            self._channel.send(Live(request, start + size >= len(live), part))

    def _statistics(self, stream: _Stream) -> StreamStatistics:
        """Return a stream's statistics."""
        ab: FlowDirection | TurnWay
        ba: FlowDirection | TurnWay
        modes = RelayMode.SPLICE, RelayMode.SPLICE
        if self._turns is not None and stream.adopted:
            pair = self._turns.look(stream.fds[0])
            (ab, ba), stream.active = pair.ways, pair.active
        else:
            ab, ba = stream.a.said, stream.b.said
            modes = ab.mode, ba.mode
        return StreamStatistics(
            stream.token,
            ab.count,
            ba.count,
            ab.held,
            ba.held,
            self._now - stream.began,
            # The C part reads the clock itself: a stream that it adopted in this
            # turn was active after the turn began.
            max(0.0, self._now - stream.active),
            *modes,
        )


def _ended(bytes_ab: int, bytes_ba: int) -> StreamEnd:
    """How a stream ends that the C part has carried to its end."""
    splice = RelayMode.SPLICE
    return StreamEnd(bytes_ab, bytes_ba, EndReason.END, mode_ab=splice, mode_ba=splice)
