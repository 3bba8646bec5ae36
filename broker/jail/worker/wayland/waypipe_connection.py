"""One application's waypipe stream in front of one filter.

As ``wayland_shell.Connection``, with a stream in the place of the client's
socket: the filter's output is encoded, the input is decoded, and pipes,
which on a socket would be passed as descriptors, are carried in pieces.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import trio
from typing_extensions import override

from broker.core.errors import InternalError, PeerError, UpstreamError
from broker.core.limits import wayland as limits
from broker.core.limits import waypipe as waypipe_limits
from broker.core.streams.wayland_verdicts import DMABUF
from broker.jail.wayland.protocol.wire import bad_message
from broker.jail.wayland.waypipe.channel import (
    Closed,
    Event,
    Messages,
    PipeBytes,
    PipeEnded,
    PipeSource,
    SentFile,
    WaypipeChannel,
)
from broker.jail.worker import readiness
from broker.jail.worker.duplex import LAST_WORDS_SECONDS
from broker.jail.worker.pipes import PipeWriter
from broker.jail.worker.readiness import ReadyTasks, WatchedFile
from broker.jail.worker.wayland.connection import WaylandConnection

if TYPE_CHECKING:
    from broker.core.streams.wayland_rules import WindowRules
    from broker.jail.wayland.sandbox import Sandbox
    from broker.jail.wayland.waypipe.ports import Arena
    from broker.jail.worker.wayland.waypipe_memory import StreamMachine

_EPROTO = 71
_T = TypeVar("_T")


def _to_realtime(clock: int) -> int:
    """Nanoseconds from a clock of clock_gettime(2) to CLOCK_REALTIME."""
    try:
        return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(clock)
    except OSError:
        return 0  # a clock that this kernel has not: times stay as they are


class _Sink:
    """A pipe into which the sandbox's bytes go."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting: deque[bytes] = deque()
        self.size = 0
        self.more = trio.Event()
        self.room = trio.Event()
        self.over = False

    def put(self, data: bytes) -> bool:
        """Queue bytes; return False when the reader is too slow for them."""
        # A piece of one byte, or of none, takes memory, too.
        # guard: memory of a paste's pieces
        cost = len(data) + waypipe_limits.WAYPIPE_PIPE_PIECE_BYTES
        # guard: memory of a paste
        if self.size + cost > waypipe_limits.WAYPIPE_PIPE_QUEUE_BYTES:
            return False
        self.waiting.append(data)
        self.size += cost
        self.more.set()
        return True

    def advance(self, writer: PipeWriter) -> None:
        """Write queued bytes as far as the pipe takes them.

        Raises BlockingIOError, or OSError as ``PipeWriter``.
        """
        if not writer.staged:
            data = self.waiting[0]
            count = writer.take(data)
            self.size -= count
            self.waiting.popleft()
            if count < len(data):
                self.waiting.appendleft(data[count:])
            else:
                self.size -= waypipe_limits.WAYPIPE_PIPE_PIECE_BYTES
        if writer.staged:
            writer.push()

    def end(self) -> None:
        self.over = True
        self.more.set()


class StreamConnection(WaylandConnection):
    """``work`` is the time, in seconds, that decoding and filtering have taken."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        rules: WindowRules,
        sandbox: Sandbox,
        machine: StreamMachine,
        *,
        trace: Callable[[str], None] | None = None,
        arena: Arena | None = None,
    ) -> None:
        # guard: no buffers of a GPU by waypipe
        rules = replace(rules, allow=rules.allow - {DMABUF})
        super().__init__(client, server, rules, sandbox, machine, trace=trace)
        self.core.clock_shift = _to_realtime
        self._stream = client
        self.channel = WaypipeChannel(machine, arena)
        self.work = 0.0
        self._began = 0.0
        """Since when this stream is worked on by its task, while it is."""
        self._left: Event | None = None
        """An event that a step has received and could not handle."""
        self._fed = False
        """Whether it has fed messages that are not settled."""
        self._later = b""
        """Messages that came at once with those, and were too many."""
        self._owed = 0.0
        """Seconds to wait for spans that came too fast."""
        self._sinks: dict[int, _Sink] = {}
        self._sources: dict[int, trio.CancelScope] = {}
        self._for_room = trio.lowlevel.ParkingLot()
        self._pipes: trio.Nursery

    def begin_with(self, untrusted_head: bytes) -> None:
        """Take bytes that were read before."""
        with self.channel.room() as room:
            room[: len(untrusted_head)] = untrusted_head
        self.channel.filled(len(untrusted_head))

    @override
    async def run(self) -> None:
        """Serve the stream to its end, with its pipes."""
        async with trio.open_nursery() as self._pipes:
            try:
                await super().run()
            finally:
                self.channel.close()
                self._pipes.cancel_scope.cancel()

    # -- to the application ----------------------------------------------------------

    @override
    def _send(self, *, to_client: bool) -> bool:
        """Encode and send what is queued for the guest."""
        if not to_client:
            return super()._send(to_client=False)
        core, out = self.core, self.channel.out
        while core.down.data and len(out) < waypipe_limits.WAYPIPE_OUT_BYTES:
            self._encode()
        return self._push() and not core.down.data

    @override
    def _flush(self) -> None:
        """Send queued messages, then the rest of waypipe's protocol.

        The rest is acknowledgements and pipe data that no message carried.
        """
        super()._flush()
        if self.channel.out and not self._over.is_set():
            try:
                if not self._push():
                    self._work.set()
            except OSError as error:
                self._lost(error)

    def _encode(self) -> None:
        """Encode the next run of messages for the application, with its descriptors."""
        queue = self.core.down
        view, fds = queue.front()
        with view:
            whole = len(view)
            try:
                sendable = [self._sendable(fd) for fd in fds]
            except (OSError, ValueError):
                # A message that cannot be sent whole is not sent at all: one without
                # its descriptor would end the application.
                first = int.from_bytes(view[6:8], "little")
                self.channel.send_messages(view[first:], [])
            else:
                for sink in self.channel.send_messages(view, sendable):
                    made = _Sink(os.dup(sink.fd))
                    self._sinks[sink.rid] = made
                    self._pipes.start_soon(self._fill_sink, sink.rid, made)
        for fd in queue.sent(whole):
            os.close(fd)

    def _sendable(self, fd: int) -> SentFile | int:
        """Convert a descriptor to a file's bytes, or a pipe.

        Raises ValueError or OSError.
        """
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            # guard: files that are sent
            if status.st_size > waypipe_limits.WAYPIPE_SENT_FILE_BYTES:
                raise ValueError("the file is too large")
            return SentFile(os.pread(fd, status.st_size, 0))
        # guard: pipes that are sent
        if self.channel.pipes >= waypipe_limits.WAYPIPE_PIPES:
            raise ValueError("too many pipes")
        return fd

    def _push(self) -> bool:
        """Send the encoded bytes; True when nothing is left."""
        out = self.channel.out
        while out:
            try:
                count = self._stream.send(out, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError) as error:
                out.clear()
                self._for_room.unpark_all()
                self._reset(error)
                return True
            del out[:count]
            if len(out) <= waypipe_limits.WAYPIPE_OUT_BYTES:
                self._for_room.unpark_all()
            self.to_client += count
            if self.core.ready:
                self.answered.set()
        return True

    # -- from the application ----------------------------------------------------------

    @override
    async def _from_client(self) -> None:
        """Read the guest's blocks, once its header has come."""
        try:
            if await self._begins():
                await self._ready.wait()
                await trio.sleep(self._budget.first(trio.current_time()))
                await self._decode()
            else:
                self._end(reason="the client closed the connection before it sent data")
        except PeerError as error:
            self._end(error)
        except ConnectionResetError as error:
            self._reset(error)
        except OSError as error:
            self._lost(error)
        except Exception as error:  # noqa: BLE001 - as the filter's one door
            # An internal error that some input found ends this stream only.
            internal = InternalError(
                f"a stream's decoder failed: {type(error).__name__}: {error}"
            )
            internal.__cause__ = error
            self._end(internal)

    def _reset(self, error: OSError) -> None:
        self._end(reason=f"the sandbox reset the connection ({error.strerror})")

    async def _begins(self) -> bool:
        """Read the stream's header; return False when the stream ends before it."""
        # guard: a header in time
        with trio.move_on_after(waypipe_limits.WAYPIPE_HEADER_SECONDS):
            while not self.channel.begin():
                if not await self._fill():
                    return False
            return True
        raise PeerError(
            "the client did not send a waypipe header within "
            f"{waypipe_limits.WAYPIPE_HEADER_SECONDS:.0f} s"
        )

    async def _decode(self) -> None:
        """Decode the stream to its end: in steps, and here what a step has left.

        A frame of a video comes in ten pieces, because the sender's socket
        holds no more, and a task's turn for each would cost as much as what
        is to be done with it.
        """
        self._began = perf_counter()
        with WatchedFile(self._stream, self._step) as watch:
            await self._catch_up()  # the bytes that came with the header
            while not self._over.is_set():
                await self._away(watch.left)
                await self._catch_up()

    def _step(self) -> ReadyTasks:
        """Read once, and decode as long as no wait is necessary."""
        # guard: nothing after the end
        # guard: a stream waits for room
        if self._over.is_set() or self._waits():
            return ReadyTasks.MINE
        began = perf_counter()
        count = self._read()
        if count is None:
            return ReadyTasks.NONE
        if not count:
            self._end(reason="end")
            return ReadyTasks.MINE
        turn = self._work_until(began + waypipe_limits.WAYPIPE_TURN_SECONDS)
        self.work += perf_counter() - began
        return turn

    def _work_until(self, end: float) -> ReadyTasks:
        """Decode blocks until ``end``.

        Return MINE when something is left to the task.
        """
        channel, turn = self.channel, ReadyTasks.NONE
        while True:
            worked, event = channel.next()
            if isinstance(event, Messages):
                turn = ReadyTasks.PERHAPS
                if not self._feed(event):
                    self._fed = True
                    return ReadyTasks.MINE
            elif event is not None:
                self._left = event
                return ReadyTasks.MINE
            if not worked or self._over.is_set():
                break
            # guard: a stream's turn ends
            if perf_counter() > end:
                return ReadyTasks.MINE
        if channel.out:
            self._flush()
            turn = ReadyTasks.PERHAPS
        self._owed = channel.pause(trio.current_time())
        return ReadyTasks.MINE if self._owed else turn

    async def _catch_up(self) -> None:
        """Do what a step could not do without waiting, and all that has come by now."""
        if self._fed:
            self._fed = False
            await self._settle()
        event, self._left = self._left, None
        if event is not None:
            await self._act(event)
        worked = True
        while worked and not self._over.is_set():
            worked, event = self.channel.next()
            if event is not None:
                await self._act(event)
            if perf_counter() - self._began > waypipe_limits.WAYPIPE_TURN_SECONDS:
                await self._away(self._slow_down)
        self._flush()
        await self._away(self._pay)
        await self._away(self._wait_for_room)

    async def _away(self, wait: Callable[[], Awaitable[_T]]) -> _T:
        """Wait for something, and do not count that time as work."""
        self.work += perf_counter() - self._began
        try:
            return await wait()
        finally:
            self._began = perf_counter()

    async def _slow_down(self) -> None:
        """Let others have their turn; who sends too many spans waits longer."""
        await readiness.turn()
        await self._pay()
        await self._wait_for_room()

    async def _pay(self) -> None:
        """Pause for what blocks have cost."""
        pause = self._owed or self.channel.pause(trio.current_time())
        self._owed = 0.0
        if pause > 0:
            self.core.sandbox.refused["spans"] += 1
            # guard: spans of a second
            await trio.sleep(pause)

    def _read(self) -> int | None:
        """Read the present bytes: their number, 0 at the end of the stream, or None."""
        with self.channel.room() as room:
            try:
                count = self._stream.recv_into(room)
            except BlockingIOError:
                return None
        self.channel.filled(count)
        return count

    async def _fill(self) -> int:
        """Wait for bytes of the guest and read once.

        Return their number, 0 at the end.
        """
        while True:
            await trio.lowlevel.wait_readable(self._stream)
            count = self._read()
            if count is not None:
                return count

    async def _act(self, event: Event) -> None:
        """Act on a block: messages, pipes, files."""
        match event:
            case Messages():
                if not self._feed(event):
                    await self._settle()
            case PipeSource(rid, fd):
                self._sources[rid] = trio.CancelScope()
                self._pipes.start_soon(self._empty_source, rid, fd, self._sources[rid])
            case PipeBytes(rid, data):
                await self._pour(rid, data)
            case PipeEnded(rid):
                if rid in self._sinks:
                    self._sinks.pop(rid).end()
                elif rid in self._sources:
                    self._sources.pop(rid).cancel()
            case Closed(code):
                # No fault: an application that just exits leaves waypipe an
                # error.  But who looks for one will want to see it.
                self._end(reason=f"end; waypipe reported {code}" if code else "end")

    def _feed(self, messages: Messages) -> bool:
        """Pass messages to the filter.

        Return False when some are left (``_settle``).
        """
        core, most = self.core, limits.WAYLAND_CLIENT_READ_BYTES
        now = trio.current_time()
        core.from_client(messages.data[:most], messages.fds, now)
        self._later = messages.data[most:]
        self._flush()
        if core.paused or core.fault is not None or core.unclaimed or self._later:
            return False
        self._pause = self._budget.pause(core.messages, core.pixels, now)
        return not self._pause

    async def _settle(self) -> None:
        """Wait as needed until the filter has taken the rest, or report its fault."""
        core, most = self.core, limits.WAYLAND_CLIENT_READ_BYTES
        while (core.paused or self._later) and not self._over.is_set():
            await self._away(self._breathe)
            more = b""
            if not core.paused:
                more, self._later = self._later[:most], self._later[most:]
            core.from_client(more, [], trio.current_time())
            self._flush()
        # guard: descriptors that a message takes
        if core.fault is None and core.unclaimed:
            core.fail(bad_message(1, "a block has descriptors that no message uses"))
        if core.fault is not None:
            self._end()
            return
        # guard: streams have the same budget
        await self._away(self._rest)

    # -- pipes -----------------------------------------------------------------------------

    async def _empty_source(self, rid: int, fd: int, scope: trio.CancelScope) -> None:
        """Copy a selection from its pipe to the application that asked for it."""
        try:
            with scope:
                await self._read_source(rid, fd)
        finally:
            os.close(fd)
            self._sources.pop(rid, None)
            self.channel.pipe_ended(rid)
            self._wake()

    async def _read_source(self, rid: int, fd: int) -> None:
        """Read a pipe of the sandbox's and send it to the guest."""
        while not self._over.is_set():
            with trio.move_on_after(
                waypipe_limits.WAYPIPE_PIPE_IDLE_SECONDS
            ) as patience:
                await trio.lowlevel.wait_readable(fd)
            if patience.cancelled_caught:
                return
            try:
                untrusted_data = os.read(fd, waypipe_limits.WAYPIPE_PIPE_READ_BYTES)
            except BlockingIOError:
                continue
            if not untrusted_data:
                return
            self.channel.pipe_bytes(rid, untrusted_data)
            self._flush()
            await self._wait_for_room()
            while len(self.channel.out) > waypipe_limits.WAYPIPE_OUT_BYTES:
                # For the writer task, not for the socket: that has one waiter.
                self._work.set()
                await self._for_room.park()

    async def _pour(self, rid: int, data: bytes) -> None:
        """Queue bytes for a pipe; its reader may hold the stream up a little."""
        sink = self._sinks.get(rid)
        while sink is not None and not sink.over and not sink.put(data):
            sink.room = trio.Event()
            with trio.move_on_after(
                waypipe_limits.WAYPIPE_PIPE_STALL_SECONDS
            ) as patience:
                await self._away(sink.room.wait)
            # guard: slow pastes are dropped
            if patience.cancelled_caught:
                self.core.sandbox.refused["slow pipes"] += 1
                self._drop_sink(rid)

    async def _fill_sink(self, rid: int, sink: _Sink) -> None:
        """Copy a selection from the application to the requesting client."""
        writer = PipeWriter(sink.fd)
        try:
            with contextlib.suppress(OSError):  # gone; the sandbox is notified below
                await self._write_sink(sink, writer)
        finally:
            writer.close()
            os.close(sink.fd)
            self._drop_sink(rid)

    async def _write_sink(self, sink: _Sink, writer: PipeWriter) -> None:
        """Write the guest's bytes into a pipe."""
        while True:
            while sink.waiting or writer.staged:
                with trio.move_on_after(
                    waypipe_limits.WAYPIPE_PIPE_IDLE_SECONDS
                ) as patience:
                    await trio.lowlevel.wait_writable(sink.fd)
                if patience.cancelled_caught:
                    return
                with contextlib.suppress(BlockingIOError):
                    sink.advance(writer)
                if sink.size <= waypipe_limits.WAYPIPE_PIPE_QUEUE_BYTES // 2:
                    sink.room.set()
            if sink.over:
                return
            with trio.move_on_after(
                waypipe_limits.WAYPIPE_PIPE_IDLE_SECONDS
            ) as patience:
                await sink.more.wait()
            if patience.cancelled_caught:
                return
            if not sink.over:
                sink.more = trio.Event()

    def _drop_sink(self, rid: int) -> None:
        """Drop a pipe whose reader has gone, and tell the guest."""
        sink = self._sinks.pop(rid, None)
        if sink is not None:
            sink.waiting.clear()
            sink.end()
            sink.room.set()
        if not self.channel.closed:
            self.channel.pipe_ended(rid)
            self._wake()

    @override
    async def _last_words(self, *, to_client: bool) -> None:
        """Send the reason of the end to the guest, if it still reads."""
        fault = self.core.fault
        with trio.CancelScope(shield=True), trio.move_on_after(LAST_WORDS_SECONDS):
            await super()._last_words(to_client=to_client)
            if self.channel.header is None:
                return
            self.channel.say_goodbye(
                0 if fault is None or isinstance(fault, UpstreamError) else -_EPROTO
            )
            try:
                while not self._push():
                    await trio.lowlevel.wait_writable(self._stream)
            except OSError:
                return  # it has gone without listening
