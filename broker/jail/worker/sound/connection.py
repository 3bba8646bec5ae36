"""The sockets around one sound filter: reads, writes, deadlines, no parsing.

As ``wayland_shell``: read bytes are fed, and the output is sent at once in
the same step, so a piece of sound costs one wake-up, and no turn of a task.  No
descriptor is ever received: without room for them the kernel throws them away.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio
from typing_extensions import override

from broker.core.errors import (
    PeerError,
    UpstreamError,
)
from broker.core.limits import sound as limits
from broker.jail.sound import frames
from broker.jail.sound.filter import PulseFilter
from broker.jail.sound.sandbox import SoundSandbox
from broker.jail.worker.duplex import GONE, DuplexConnection
from broker.jail.worker.readiness import ReadyTasks, WatchedFile

_BUFFER = memoryview(bytearray(65536))
"""Reads go into this buffer first: to make room for the largest read each time
costs more than to copy the bytes.  Nothing waits between the two."""
_LOOK_SECONDS = 0.002
_UCRED = struct.Struct("iII")
_USER = os.getuid(), os.getgid()
"""Asked for here: in its jail, a worker cannot."""


class PulseConnection(DuplexConnection[PulseFilter]):
    """One client, one connection to the sound server, one filter."""

    KIND = "sound"

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        sandbox: SoundSandbox,
        cookie: bytes,
    ) -> None:
        super().__init__(client, server)
        self._moved = trio.Event()
        self._kick = trio.Event()
        self._feeding = False
        self._named = False
        self._timer: float | None = None
        self.core = PulseFilter(sandbox, cookie, trio.current_time(), self._wake)
        self.from_client = 0
        self.to_client = 0
        """Bytes so far."""

    @override
    def _tasks(self) -> Sequence[Callable[[], Awaitable[None]]]:
        return self._read, self._tick_at_deadlines

    @override
    async def _begin(self) -> None:
        if self.core.fault is not None:
            self._over.set()

    @override
    async def _close(self) -> None:
        # First: what a revoke or the end took back must not be among the last words.
        self.core.close()
        if self.core.fault is not None:
            await self._last_words(to_client=True)

    async def drained(self) -> bool:
        """Wait until the client has read all that was sent to it.

        After a revoke: earlier samples of the microphone lie in the kernel's
        buffer.  Ends the connection, and returns False, when the client does
        not take it in time.
        """
        with trio.move_on_after(limits.PULSE_REVOKE_SECONDS):
            while not self._over.is_set():
                if not self.core.down.data and not _unread(self._client):
                    return True
                await trio.sleep(_LOOK_SECONDS)  # the kernel has no event for it
        self._end(PeerError("the client did not read its recording"))
        return False

    # -- events ----------------------------------------------------------------

    def _wake(self) -> None:
        """Wake the task that sends, as the filter has output for this client.

        Output that appears while it is fed is sent right after that (``_fed``).
        """
        if not self._feeding:
            self._work.set()
            if self.core.fault is not None:
                self._over.set()

    def _fed(self) -> None:
        """Send the filter's output, handle its end, set its timer; after each step."""
        self._feeding = False
        self._flush()
        if self.core.fault is not None:
            self._over.set()
        deadline = self.core.deadline
        if deadline is not None and (self._timer is None or deadline < self._timer):
            self._kick.set()

    # -- sending -----------------------------------------------------------------

    @override
    def _send(self, *, to_client: bool) -> bool:
        """Send as much as the socket takes now; True when nothing is left."""
        data = self.core.down.data if to_client else self.core.up
        while data:
            try:
                if to_client:
                    count = self._client.send(data, socket.MSG_NOSIGNAL)
                elif self._named:
                    count = self._server.send(data, socket.MSG_NOSIGNAL)
                else:
                    count = self._send_named(data)
            except BlockingIOError:
                return False
            if to_client:
                self.to_client += count
                self.core.down.sent(count)
            else:
                del data[:count]
        return True

    def _send_named(self, data: bytearray) -> int:
        """Send the first bytes with our credentials, as libpulse does.

        PulseAudio lets its user in without a cookie.  The kernel only adds
        by itself who sends when it is asked to before that, and a server that
        has just accepted may not have asked yet.
        """
        who = _UCRED.pack(os.getpid(), *_USER)
        words = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)]
        try:
            count = self._server.sendmsg([data], words, socket.MSG_NOSIGNAL)
        except PermissionError:  # this process has become another user since
            count = self._server.send(data, socket.MSG_NOSIGNAL)
        self._named = True
        return count

    def _flush(self) -> None:
        """Send queued data to client and server."""
        idle = True
        try:
            if self.core.down.data:
                idle = self._send(to_client=True)
            if self.core.up:
                idle = self._send(to_client=False) and idle
        except OSError as error:
            self._lost(error)
            return
        if not idle:
            self._work.set()

    @override
    def _sent(self) -> None:
        self._go_on()

    @override
    async def _drain(self, *, to_client: bool) -> None:
        """Send what is queued for one side, waiting where it is full."""
        sock = self._client if to_client else self._server
        data = self.core.down.data if to_client else self.core.up
        while data and not self._over.is_set():
            try:
                if self._send(to_client=to_client):
                    return
            except OSError as error:
                self._lost(error)
                return
            waiting = len(data)
            with trio.move_on_after(limits.PULSE_STUCK_SECONDS) as patience:
                await trio.lowlevel.wait_writable(sock)
            if patience.cancelled_caught and len(data) >= waiting:
                self._end(PeerError("the client does not read from the connection"))
                return
            if len(data) <= limits.PULSE_QUEUE_BYTES:
                self._go_on()

    def _tell_moved(self) -> None:
        """Wake the tasks that wait for room, or for the server."""
        self._moved.set()
        self._moved = trio.Event()

    def _go_on(self) -> None:
        """Continue with the client's bytes that waited, as there is room again."""
        self._tell_moved()
        self.core.resume(trio.current_time())
        if self.core.up or self.core.down.data:
            self._work.set()
        if self.core.fault is not None:
            self._over.set()

    # -- reading -----------------------------------------------------------------

    # Each side has a step (``readiness``) and a task, which waits where the step
    # may not continue.

    async def _read(self) -> None:
        """Read client and server until one ends."""
        with (
            WatchedFile(self._client, self._client_step) as client,
            WatchedFile(self._server, self._server_step) as server,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._from_client, client)
                nursery.start_soon(self._from_server, server)

    async def _from_client(self, watch: WatchedFile) -> None:
        """Read the client, except while the filter is stalled."""
        while not self._over.is_set():
            while self.core.stalled:  # as it is after the end, too
                if self._over.is_set():
                    return
                await self._moved.wait()
            await watch.left()

    def _client_step(self) -> ReadyTasks:
        """Read the client's socket once; pass the bytes through the filter."""
        core = self.core
        data = self._receive(self._client)
        if data is None:
            return ReadyTasks.NONE
        if not data:
            self._end()
            return ReadyTasks.MINE
        self.from_client += len(data)
        now = trio.current_time()
        if core.passes_samples(data, now):
            turn = self._pass_on(self._server, data, core.up, core.send_up)
            # guard: samples wait for the server
            return (
                ReadyTasks.MINE if turn is ReadyTasks.PERHAPS and core.stalled else turn
            )
        self._feeding = True
        core.feed_client(bytes(data), now)
        self._fed()
        return ReadyTasks.MINE if core.stalled else ReadyTasks.PERHAPS

    async def _from_server(self, watch: WatchedFile) -> None:
        while not self._over.is_set():
            while len(self.core.down.data) > limits.PULSE_QUEUE_BYTES:
                await self._moved.wait()
            await watch.left()

    def _server_step(self) -> ReadyTasks:
        """Read the sound server's socket once; pass the bytes through the filter."""
        core = self.core
        # guard: requests wait for the client
        if len(core.down.data) > limits.PULSE_QUEUE_BYTES:
            return ReadyTasks.MINE
        view = self._receive(self._server)
        if view is None:
            return ReadyTasks.NONE
        if not view:
            self._end(UpstreamError("the sound server closed the connection"))
            return ReadyTasks.MINE
        data, now = bytes(view), trio.current_time()
        if core.passes_request(data, now):
            self.to_client += len(data)
            return self._pass_on(self._client, data, core.down.data, self._send_down)
        stalled = core.stalled
        self._feeding = True
        core.feed_server(data, now)
        self._fed()
        if stalled and not core.stalled:
            self._tell_moved()
        return ReadyTasks.PERHAPS

    def _send_down(self, data: bytes) -> None:
        self.to_client -= len(data)
        self.core.down.add(data)
        self._work.set()

    def _pass_on(
        self,
        sock: socket.socket,
        data: frames.Bytes,
        waiting: bytearray,
        later: Callable[[bytes], None],
    ) -> ReadyTasks:
        """Send bytes after those that wait; pass what cannot be sent to ``later``."""
        count = 0
        if not waiting:
            try:
                count = sock.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                count = 0  # no room: all of it waits
            except OSError as error:
                self._lost(error)
                return ReadyTasks.MINE
        if count == len(data):
            # Else a REQUEST has let go on what waited for it.
            return ReadyTasks.PERHAPS if self.core.up else ReadyTasks.NONE
        later(bytes(data[count:]))
        return ReadyTasks.PERHAPS

    def _receive(self, sock: socket.socket) -> memoryview | None:
        """Receive bytes; none at the end, None when there is nothing yet."""
        try:
            return _BUFFER[: sock.recv_into(_BUFFER)]
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in GONE:
                self._lost(error)
            return _BUFFER[:0]

    # -- time ----------------------------------------------------------------------

    async def _tick_at_deadlines(self) -> None:
        """Call the filter's ``tick`` at each deadline that it sets."""
        while not self._over.is_set():
            self._timer = self.core.deadline
            self._kick = trio.Event()
            with trio.move_on_at(float("inf") if self._timer is None else self._timer):
                await self._kick.wait()
            now = trio.current_time()
            if self._timer is not None and now >= self._timer:
                self._feeding = True
                self.core.tick(now)
                self._fed()
                if not self.core.stalled:
                    self._tell_moved()


def _unread(sock: socket.socket) -> int:
    """Bytes that were sent and that the other end has not read (SIOCOUTQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


# -- the sound server ----------------------------------------------------------------


@dataclass
class PulseService:
    """State that all sound connections of one sandbox share."""

    sandbox: SoundSandbox
    cookie: bytes
    connections: set[PulseConnection] = field(default_factory=set)

    # A revoke is answered when the kernel has released the recorded sound. Sound
    # recorded before the revoke may be in the socket's buffer. The answer waits until
    # the sandbox's side has taken it, for a second at most; a sandbox that does not
    # take it is cut off. Beyond our socket (a vsock, a guest's own buffers) earlier
    # bytes may still be on their way; they were recorded while it was allowed.
    async def revoke_microphone(self) -> None:
        """End recording, and wait until clients have read the samples that were sent.

        A client that does not read them in time loses its connection, so that no byte of
        the real source is read from our sockets after this has returned.
        """
        self.sandbox.deny_microphone(trio.current_time())
        async with trio.open_nursery() as nursery:
            for connection in list(self.connections):
                nursery.start_soon(connection.drained)
