"""One direction of a stream: bytes from one socket to another, no waiting.

A direction is filled, then drained, never both at once, so the bytes in
flight are at most one pipe or one buffer, and a pipe is empty whenever it is
not blocked.  ``move`` does as much as it may without waiting and leaves the
direction in one of five states; what to wait for, and what an end or an error
means for the stream, is the engine's business (``engine.py``) or the
reference's (``inloop.py``).

Only the pump runs it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import socket

from broker.core.limits import relay as relay_limits
from broker.helpers.pump.pool import BufferPool, Pipe, PipePool
from broker.helpers.pump.turns import TurnWay
from broker.ipc.pump import RelayMode

_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_PIPE = relay_limits.RELAY_PIPE_BYTES
_ROUNDS = range(relay_limits.RELAY_ROUNDS)
_BUSY_ROUNDS = range(1)
"""A turn while many others wait: a bulk stream comes again soon enough."""

# A fill smaller than a quarter has emptied the source, most likely: asking
# again would only fetch EAGAIN.  This makes a small message three system
# calls (epoll_wait and two splices).
_SMALL = _PIPE // 4


_NO_PIPES = frozenset({errno.EMFILE, errno.ENFILE})


class FlowState(enum.IntEnum):
    """Where a direction stands after ``move``."""

    FLOWING = 0
    """Everything there was has been delivered; wait for the source."""
    BLOCKED = 1
    """The destination takes no more; wait for it."""
    ENDED = 2
    """The source ended, all was delivered and the destination notified."""
    READ_FAILED = 3
    """Reading failed with ``error``; all that had been read was delivered."""
    WRITE_FAILED = 4
    """Writing failed with ``error``; ``held`` bytes or more are lost."""


# Plain names for the loop below: an attribute of an enum costs a lookup more.
FLOWING = FlowState.FLOWING
BLOCKED = FlowState.BLOCKED
ENDED = FlowState.ENDED
READ_FAILED = FlowState.READ_FAILED
WRITE_FAILED = FlowState.WRITE_FAILED


def choose(
    mode: RelayMode,
    source: int,
    destination: int,
    kernel: tuple[int, int],
    max_write: int = 0,
) -> RelayMode:
    """Return splice or copy for a direction between two socket families.

    Between UNIX sockets splice moves pages and copies nothing.  vsock copies
    at each end whatever we do: its splice_read is a copy into a pipe since
    6.5, which saves the trip through our memory, and one packet for every
    4 KiB page before, which costs more than it saves; vsock to vsock it gains
    nothing anywhere (measured).  Where single writes are
    bounded, a pipe would have to be drained in as many calls as a buffer.
    """
    if mode is not RelayMode.AUTO:
        return mode
    if max_write:
        return RelayMode.COPY
    ends = (source, destination)
    if ends.count(socket.AF_VSOCK) == 2:
        return RelayMode.COPY
    if socket.AF_VSOCK in ends and kernel < (6, 5):
        return RelayMode.COPY
    return RelayMode.SPLICE


class FlowDirection:
    """Bytes from ``source`` to ``destination`` (non-blocking sockets).

    ``held`` bytes have been read and not written yet; ``count`` have been
    written.  ``may_fall_back`` is false where splice was ordered.
    """

    __slots__ = (
        "_buffer",
        "_buffers",
        "_from",
        "_pipe",
        "_pipes",
        "_start",
        "_to",
        "count",
        "destination",
        "error",
        "held",
        "max_bytes",
        "max_write",
        "may_fall_back",
        "mode",
        "source",
        "state",
    )

    def __init__(
        self,
        source: socket.socket,
        destination: socket.socket,
        mode: RelayMode,
        *,
        pipes: PipePool,
        buffers: BufferPool,
        may_fall_back: bool = True,
        max_write: int = 0,
        max_bytes: int = 0,
    ) -> None:
        self.source = source
        self.destination = destination
        self._from = source.fileno()
        self._to = destination.fileno()
        self.mode = mode
        self.may_fall_back = may_fall_back
        self.max_write = max_write
        self.max_bytes = max_bytes
        self.state = FLOWING
        self.count = 0
        self.held = 0
        self.error = 0
        self._pipes = pipes
        self._buffers = buffers
        self._pipe: Pipe | None = None
        self._buffer: memoryview | None = None
        self._start = 0

    def move(self, *, busy: bool = False) -> FlowState:
        """Move what can be moved without waiting; return the new state.

        ``busy``: others wait for their turn, so make this one short.
        Does nothing once the direction has ended or failed.
        """
        if self.state > BLOCKED:
            return self.state
        if self.mode is not RelayMode.SPLICE:
            self.state = self._copy()
            return self.state
        rounds = _BUSY_ROUNDS if busy else _ROUNDS
        pipe = self._pipe
        if pipe is None:
            try:
                pipe = self._pipes.take()
            except OSError as error:
                self.state = self._without_pipe(error)
                return self.state
        state = self._splice(pipe, rounds)
        if self.held:
            self._pipe = pipe
        else:
            self._pipe = None
            self._pipes.give(pipe)
        if state > ENDED and self._may_copy():
            state = self._copy_instead(state)
        self.state = state
        return state

    def resume(self, way: TurnWay) -> None:
        """Continue from the state in which ``_turns.c`` stopped; it stops at errors."""
        self.count, self.held = way.count, way.held
        self.error = way.error
        pipe = self._pipe = Pipe(*way.pipe) if way.held else None
        state = FlowState(way.state)
        if state is READ_FAILED and way.error in _NO_PIPES:
            state = self._without_pipe(OSError(way.error, ""))
        elif state > ENDED and self._may_copy():
            state = self._copy_instead(state)
        elif pipe is not None and state is FLOWING:
            state = BLOCKED  # its bytes wait in the pipe
        self.state = state

    def release(self) -> None:
        """Give up pipe and buffer; bytes still held are lost."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.held = self.held
            self._pipes.give(pipe)
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._buffers.give(buffer)
        self.held = 0

    # -- splice ----------------------------------------------------------------

    # `auto` stays with splice between UNIX sockets, also for small writes. One goal was
    # that `auto` is never slower than the better of splice and copy by more than a
    # tenth; another one that a UNIX-to-UNIX stream's payload is never read into user
    # space. For bulk in writes of 4 KiB both cannot be had: copying carries 1.8 times
    # as much there (`python -m tests.bench.relay.modes`). We took the mode that keeps
    # payload out of our memory. A relay that measured both ways now and then and took
    # the cheaper one was written, worked, and was rejected for that reason. Where a
    # vsock is one of the ends payload is copied by the kernel in any case, and `auto`
    # chooses by kernel version.
    def _splice(self, pipe: Pipe, rounds: range) -> FlowState:
        """Fill and drain the pipe in turn; leave it empty unless ``held``."""
        splice = os.splice
        queued = self.held
        most = self.max_write or _PIPE
        for _ in rounds:
            if not queued:
                try:
                    queued = splice(self._from, pipe.write, _PIPE, None, None, _FLAGS)
                except BlockingIOError:
                    return FLOWING
                except OSError as error:
                    self.error = error.errno or errno.EIO
                    return READ_FAILED
                if not queued or self._beyond(queued):
                    return READ_FAILED if queued else self._finish()
            filled = queued
            try:
                while queued:
                    size = min(queued, most)
                    moved = splice(pipe.read, self._to, size, None, None, _FLAGS)
                    queued -= moved
                    self.count += moved
            except BlockingIOError:
                self.held = queued
                return BLOCKED
            except OSError as error:
                self.held = queued
                self.error = error.errno or errno.EIO
                return WRITE_FAILED
            self.held = 0
            if filled < _SMALL:
                return FLOWING
        return FLOWING

    def _without_pipe(self, error: OSError) -> FlowState:
        """Continue in copy mode after pipe2 failed, or fail."""
        if self.may_fall_back and error.errno in _NO_PIPES:
            self.mode = RelayMode.COPY
            self.error = 0
            return self._copy()
        self.error = error.errno or errno.EIO
        return READ_FAILED

    def _beyond(self, held: int) -> bool:
        """Return whether more was read than may pass; then none of it is written."""
        # guard: no more bytes than the rule allows
        if not self.max_bytes or self.count + held <= self.max_bytes:
            return False
        self.held, self.error = held, errno.EFBIG
        return True

    def _may_copy(self) -> bool:
        return self.error == errno.EINVAL and self.may_fall_back

    def _copy_instead(self, state: FlowState) -> FlowState:
        """Continue in copy mode: the kernel cannot splice at least one socket."""
        pipe = self._pipe
        if pipe is not None:
            # It could be read but not written: take over what the pipe holds.
            buffer = self._buffers.take()
            if os.readv(pipe.read, [buffer[: self.held]]) != self.held:
                return state  # not ours to mend; the bytes count as lost
            self._pipe = None
            self._pipes.give(pipe)
            self._buffer, self._start = buffer, 0
        self.mode = RelayMode.COPY
        self.error = 0
        return self._copy()

    # -- copy ------------------------------------------------------------------

    def _copy(self) -> FlowState:
        """Move bytes through a buffer; return the new state."""
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffers.take()
        state = self._copy_through(buffer)
        if self.held:
            self._buffer = buffer
        else:
            self._buffer = None
            self._buffers.give(buffer)
        return state

    def _copy_through(self, buffer: memoryview) -> FlowState:
        """Read into the buffer and write from it, in turn; return the new state."""
        for _ in _ROUNDS:
            if not self.held:
                try:
                    self.held = os.readv(self._from, [buffer])
                except BlockingIOError:
                    return FLOWING
                except OSError as error:
                    self.error = error.errno or errno.EIO
                    return READ_FAILED
                if not self.held:
                    return self._finish()
                if self._beyond(self.held):
                    return READ_FAILED
                self._start = 0
            filled = self.held
            try:
                self._write(buffer)
            except BlockingIOError:
                return BLOCKED
            except OSError as error:
                self.error = error.errno or errno.EIO
                return WRITE_FAILED
            if filled < _SMALL:
                return FLOWING
        return FLOWING

    def _write(self, buffer: memoryview) -> None:
        """Write the held bytes as far as possible.  Raises OSError."""
        while self.held:
            size = min(self.held, self.max_write) if self.max_write else self.held
            moved = os.write(self._to, buffer[self._start : self._start + size])
            self._start += moved
            self.held -= moved
            self.count += moved

    def _finish(self) -> FlowState:
        # ENOTCONN: the destination is gone already; whatever that means shows
        # when the other direction reads from it.
        with contextlib.suppress(OSError):
            self.destination.shutdown(socket.SHUT_WR)
        return ENDED
