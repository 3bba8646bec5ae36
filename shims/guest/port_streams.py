"""Connections to the broker over one virtio-serial port: the guest's end.

For a machine that has no AF_VSOCK because it shares its parent's memory.  A
separate process listens at UNIX sockets, one for each port of the broker's, and carries what
connects there, in the frames of ``broker/host/vmm/port_mux.py``.  It writes
nothing before the host's HELLO, and refuses programs: so each copy of a parent, in
which it waits, begins without a stream.

The first byte that a program receives is 0, or the errno of a refused connection: a
UNIX connection is accepted before the broker is asked.  ``Address`` reads it.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import heapq
import os
import select
import selectors
import signal
import socket
import struct
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Deque, Dict, List, Optional, Sequence

from shims.guest.loop import Loop, Timer, log
from shims.guest.parent import find_port, settle_memory
from shims.guest.pid1 import set_kernel
from shims.guest.protocol import PORT_SOCKETS, STREAM_PORTS

if TYPE_CHECKING:
    from shims.guest.guest import Guest

STREAMS_PORT = "vitrail.streams"
# As in broker/host/vmm/_portmux.c.
PORT_VERSION = 1
PORT_HEADER = struct.Struct("<BBHI")
PORT_STREAMS = 300
PORT_WINDOW = 262144
PORT_LARGE_WINDOW = 1048576
PORT_FRAME = 65536
HELLO, OPEN, ACCEPT, DATA, SHUTDOWN, CREDIT, CLOSE = range(1, 8)
# A write(2) to the port takes 32 KiB at most; writev(2) continues.
PORT_WRITE = 32768
PORT_PIECE = PORT_FRAME - PORT_HEADER.size
# Where instructions are emulated each change of process costs as much as 50 KiB of a
# stream, for the emulator forgets its addresses: as much is read at once as may be sent.
PORT_BURST = 16  # frames
# In such a machine a program may write so much before it waits, for the same reason.
PORT_SEND_BUFFER = ("net/core/wmem_default", "1703936")
# The driver's buffers have a page each, and a read(2) takes from one; readv(2) continues.
PORT_BUFFERS, PORT_BUFFER = 32, 4096
PORT_MORE = PORT_BUFFERS * PORT_BUFFER // 2  # after a read of less, most likely none
# So many streams may have the larger window for the broker's bytes.
PORT_LARGE_STREAMS = 16
PORT_DRAIN_SECONDS = 10.0
HANG_UP = select.EPOLLHUP | select.EPOLLERR


class PortError(Exception):
    """The port is of no further use: its machine ends."""


class PortStream:
    """One connection: its data under way, and which ends have ended."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.sock = sock
        self.gone = False  # the socket is closed
        self.accepted = False
        self.may_send = PORT_WINDOW
        self.may_take = PORT_WINDOW
        self.window = PORT_WINDOW  # for the broker's bytes
        self.taken = 0  # by the program, and not yet given back as credit
        self.held: Deque[bytes] = collections.deque()
        self.broken = False  # the program takes no more
        self.ended = False  # the program sends no more
        self.host_ended = False
        self.passed_end = False
        self.host_closed = False
        self.deadline: Optional[Timer] = None


class PortStreams:
    """The port's end: frames in and out, and the sockets of programs."""

    def __init__(
        self, loop: Loop, port: int, listeners: Dict[int, socket.socket]
    ) -> None:
        """``port``: descriptor of the virtio-serial port; UNIX sockets by broker port."""
        self._loop = loop
        self._port = port
        self._listeners = listeners
        self._greeted = False
        self.failure = ""
        self._streams: Dict[int, PortStream] = {}
        self._numbers = list(range(PORT_STREAMS))
        self._large = 0  # streams whose window is the larger one
        # The sockets that are read, apart: while the port is full none of them is.
        self._readers = select.epoll()
        self._read_by: Dict[int, PortStream] = {}
        self._out = bytearray()
        self._burst = bytearray(PORT_BURST * PORT_FRAME)
        frames = memoryview(self._burst)
        self._pieces = [
            frames[at + PORT_HEADER.size : at + PORT_FRAME]
            for at in range(0, len(frames), PORT_FRAME)
        ]
        self._in = bytearray(PORT_BUFFERS * PORT_BUFFER)
        whole = memoryview(self._in)
        self._buffers = [
            whole[at : at + PORT_BUFFER] for at in range(0, len(whole), PORT_BUFFER)
        ]
        self._header = b""
        self._current: Optional[PortStream] = None
        self._left = 0  # of the current stream's DATA

    def begin(self) -> None:
        """Wait for the host's HELLO."""
        os.set_blocking(self._port, False)
        self._watch_port()
        self._watch_listeners()

    # -- the port

    def _watch_port(self) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._loop.watch(self._port, events, self._port_ready)

    def _port_ready(self, events: int) -> None:
        """Write to and read from the port; fail it on an error."""
        try:
            if events & selectors.EVENT_WRITE:
                self._flush()
            if events & selectors.EVENT_READ:
                self._read_port()
        except (PortError, OSError) as error:
            self._fail(str(error))
        except Exception:
            self._fail(traceback.format_exc())

    def _fail(self, why: str) -> None:
        self.failure = why
        self._loop.stop()

    def _read_port(self) -> None:
        """Read frames from the port, a bounded number at once."""
        for _ in range(PORT_BUFFERS):  # then programs have their turn
            try:
                size = os.readv(self._port, self._buffers)
            except BlockingIOError:
                return
            if not size:
                self._host_away()
                return
            self._take(memoryview(self._in)[:size])
            if size < PORT_MORE:
                return  # epoll_wait(2) knows, for less than a read(2) that fails

    def _host_away(self) -> None:
        if self._greeted:
            raise PortError("the host closed the port")
        # A parent's port has an end that is silent, or none at all.
        self._loop.forget(self._port)
        self._loop.later(0.05, self._watch_port)

    def _put(self, data: "memoryview | bytes") -> None:
        """Write frames, or keep them until the port has room."""
        sent = 0
        if not self._out:
            with contextlib.suppress(BlockingIOError):
                if len(data) <= PORT_WRITE:
                    sent = os.write(self._port, data)
                else:
                    starts = range(0, len(data), PORT_WRITE)
                    parts = [data[at : at + PORT_WRITE] for at in starts]
                    sent = os.writev(self._port, parts)
        if sent == len(data):
            return
        if not self._out and self._greeted:
            self._loop.forget(self._readers.fileno())
        self._out += data[sent:]
        self._watch_port()

    def _flush(self) -> None:
        """Write kept frames to the port."""
        with contextlib.suppress(BlockingIOError):
            while self._out:
                sent = os.write(
                    self._port, memoryview(self._out)[:PORT_WRITE].tobytes()
                )
                del self._out[:sent]
        if not self._out:
            self._watch_port()
            self._watch_readers()

    def _send(self, kind: int, number: int, value: int = 0) -> None:
        self._put(PORT_HEADER.pack(kind, 0, number, value))

    # -- frames of the host's

    def _take(self, view: memoryview) -> None:
        """Parse the port's bytes: frames, and data of streams."""
        at = 0
        parts: List[memoryview] = []  # of the current stream, delivered at once
        while at < len(view):
            if self._left:
                part = view[at : at + self._left]
                self._left -= len(part)
                at += len(part)
                parts.append(part)
                continue
            part = view[at : at + PORT_HEADER.size - len(self._header)]
            self._header += part
            at += len(part)
            if len(self._header) == PORT_HEADER.size:
                kind, zero, number, value = PORT_HEADER.unpack(self._header)
                self._header = b""
                same = self._current is not None and self._current.number == number
                if kind != DATA or not same:
                    self._pass_on(parts)
                self._frame(kind, zero, number, value)
        self._pass_on(parts)

    def _pass_on(self, parts: List[memoryview]) -> None:
        if parts and self._current is not None:
            self._deliver(self._current, parts)
            parts.clear()

    def _frame(self, kind: int, zero: int, number: int, value: int) -> None:
        """Handle a frame of the host.  Raises PortError."""
        if zero:
            raise PortError("the host sent a frame with a nonzero second byte")
        if not self._greeted:
            self._greet(kind, number, value)
            return
        stream = self._streams.get(number)
        if stream is None or stream.host_closed:
            raise PortError(f"the host sent a frame for the closed stream {number}")
        if kind == ACCEPT and not stream.accepted:
            self._accepted(stream, 0)
        elif kind == DATA and stream.accepted:
            if not 0 < value <= min(stream.may_take, PORT_FRAME - PORT_HEADER.size):
                raise PortError(f"the host sent DATA of {value} bytes")
            stream.may_take -= value
            self._current, self._left = stream, value
        elif kind == SHUTDOWN:
            stream.host_ended = True
            self._settle(stream)
        elif kind == CREDIT:
            if not 0 < value <= PORT_LARGE_WINDOW - stream.may_send:
                raise PortError(f"the host sent a credit of {value} bytes")
            stream.may_send += value
            if stream.may_send == value:  # it waited for this
                self._watch_stream(stream)
        elif kind == CLOSE:
            if not stream.accepted:
                self._accepted(stream, value or errno.ECONNRESET)
            self._closed(stream)
        else:
            raise PortError(f"the host sent a frame of type {kind}")

    def _accepted(self, stream: PortStream, code: int) -> None:
        """Pass the broker's answer to the program."""
        stream.accepted = True
        if not stream.gone:
            answer_program(stream.sock, code)

    def _greet(self, kind: int, version: int, nonce: int) -> None:
        if (kind, version) != (HELLO, PORT_VERSION):
            raise PortError("the host's first frame is not a HELLO of our version")
        self._greeted = True
        self._send(HELLO, PORT_VERSION, nonce)
        self._watch_readers()

    def _closed(self, stream: PortStream) -> None:
        """Note that the host has closed a stream; it drains for a while."""
        stream.host_closed = True
        if stream.gone:
            self._free(stream)
            return
        self._unread(stream)
        stream.deadline = self._loop.later(
            PORT_DRAIN_SECONDS, lambda: self._leave(stream)
        )
        self._settle(stream)

    # -- programs

    def _watch_listeners(self) -> None:
        # At the limit the next connection waits in the backlog.
        events = selectors.EVENT_READ if self._numbers else 0
        for port, listener in self._listeners.items():
            self._loop.watch(listener.fileno(), events, partial(self._accept, port))

    def _accept(self, port: int, _events: int) -> None:
        """Open a stream for a program's connection."""
        try:
            sock, _ = self._listeners[port].accept()
        except OSError:
            return
        sock.settimeout(0)
        if not self._greeted:
            # A parent's program finds no broker; a connection that waited would be
            # opened by each copy.
            answer_program(sock, errno.ENODEV)
            sock.close()
            return
        stream = PortStream(heapq.heappop(self._numbers), sock)
        self._streams[stream.number] = stream
        self._send(OPEN, stream.number, port)
        self._watch_stream(stream)
        if not self._numbers:
            self._watch_listeners()

    def _watch_readers(self) -> None:
        if self._greeted and not self._out:
            self._loop.watch(
                self._readers.fileno(), selectors.EVENT_READ, self._read_programs
            )

    def _watch_stream(self, stream: PortStream) -> None:
        """Read it while there is credit; behind its end, look for a hang-up only."""
        if stream.gone or stream.host_closed or not (stream.may_send or stream.ended):
            self._unread(stream)
            return
        fd = stream.sock.fileno()
        events = 0 if stream.ended else select.EPOLLIN
        if fd in self._read_by:
            self._readers.modify(fd, events)
        else:
            self._readers.register(fd, events)
            self._read_by[fd] = stream

    def _unread(self, stream: PortStream) -> None:
        fd = stream.sock.fileno()
        if self._read_by.pop(fd, None) is not None:
            self._readers.unregister(fd)

    def _read_programs(self, _events: int) -> None:
        """Read from programs' sockets, until the port is full."""
        try:
            for fd, events in self._readers.poll(0, 16):
                stream = self._read_by.get(fd)
                if stream is not None:
                    self._read(stream, closed=bool(events & HANG_UP))
                if self._out:
                    return
        except (PortError, OSError) as error:
            self._fail(str(error))

    def _read(self, stream: PortStream, *, closed: bool) -> None:
        """Read a program's data within its credit, and frame it."""
        size = 0
        if not stream.ended:
            try:
                size = stream.sock.recvmsg_into(self._room(stream.may_send))[0]
            except BlockingIOError:
                return
            except OSError:
                closed = True
        if size:
            stream.may_send -= size
            self._put(self._frames(stream.number, size))
            if not stream.may_send:
                self._unread(stream)
        elif closed:
            self._leave(stream)
        else:
            stream.ended = True
            self._send(SHUTDOWN, stream.number)
            self._watch_stream(stream)
            self._settle(stream)

    def _room(self, most: int) -> List[memoryview]:
        """Return the places of so many bytes, at most, behind their frames' headers."""
        whole, rest = divmod(most, PORT_PIECE)
        if whole >= PORT_BURST:
            return self._pieces
        return [*self._pieces[:whole], self._pieces[whole][:rest]]

    def _frames(self, number: int, size: int) -> memoryview:
        """Return the frames of so many bytes in ``_room``."""
        at = 0
        while size:
            part = min(size, PORT_PIECE)
            PORT_HEADER.pack_into(self._burst, at, DATA, 0, number, part)
            at += PORT_HEADER.size + part
            size -= part
        return memoryview(self._burst)[:at]

    def _deliver(self, stream: PortStream, parts: List[memoryview]) -> None:
        """Write data to a program; keep what it does not take."""
        if stream.gone or stream.broken:
            return
        rest = b"".join(parts) if stream.held else self._write(stream, parts)
        self._give_back(stream)
        if rest:
            stream.held.append(rest)
            self._loop.watch(
                stream.sock.fileno(),
                selectors.EVENT_WRITE,
                lambda _events: self._drain(stream),
            )

    def _write(
        self, stream: PortStream, parts: "Sequence[memoryview | bytes]"
    ) -> bytes:
        """Write data to a program; return the rest, which waits for it."""
        try:
            sent = stream.sock.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            # It reads no more; what it wrote before is still the broker's.
            stream.broken = True
            stream.held.clear()
            return b""
        stream.taken += sent
        return b"".join(parts)[sent:] if sent < sum(map(len, parts)) else b""

    def _drain(self, stream: PortStream) -> None:
        """Write kept data to a program."""
        while stream.held:
            rest = self._write(stream, [stream.held.popleft()])
            if rest:
                stream.held.appendleft(rest)
                break
        self._give_back(stream)
        if not stream.held:
            self._loop.forget(stream.sock.fileno())
            self._settle(stream)

    def _give_back(self, stream: PortStream) -> None:
        """Send the host new credit, once half is used."""
        if stream.taken < stream.window // 2 or stream.host_ended:
            return
        credit, stream.taken = stream.taken, 0
        small = stream.window == PORT_WINDOW
        if small and not stream.held and self._large < PORT_LARGE_STREAMS:
            # The program keeps up, and each wait for credit is a change of process.
            stream.window = PORT_LARGE_WINDOW
            self._large += 1
            credit += PORT_LARGE_WINDOW - PORT_WINDOW
        stream.may_take += credit
        self._send(CREDIT, stream.number, credit)

    # -- ends

    def _settle(self, stream: PortStream) -> None:
        """Close or go on, once the program has taken all data."""
        if stream.gone or stream.held:
            return
        if stream.host_closed or (stream.ended and stream.broken):
            self._leave(stream)
            return
        if stream.host_ended and not stream.passed_end:
            stream.passed_end = True
            with contextlib.suppress(OSError):  # it may have gone
                stream.sock.shutdown(socket.SHUT_WR)
        if stream.passed_end and stream.ended:
            self._leave(stream)

    def _leave(self, stream: PortStream) -> None:
        """Close the program's socket and tell the host."""
        if stream.gone:
            return
        self._unread(stream)
        self._loop.forget(stream.sock.fileno())
        stream.gone = True
        self._large -= stream.window == PORT_LARGE_WINDOW
        stream.sock.close()
        stream.held.clear()
        if stream.deadline is not None:
            stream.deadline.cancel()
        self._send(CLOSE, stream.number)
        if stream.host_closed:
            self._free(stream)

    def _free(self, stream: PortStream) -> None:
        del self._streams[stream.number]
        heapq.heappush(self._numbers, stream.number)
        if len(self._numbers) == 1:
            self._watch_listeners()


def answer_program(sock: socket.socket, code: int) -> None:
    """Write the first byte; a program that has gone reads none."""
    with contextlib.suppress(OSError):
        sock.send(bytes([min(code, 255)]))


def listen_for_programs(directory: str, uid: int, gid: int) -> Dict[int, socket.socket]:
    """Listen at a socket for each port; root and this user may connect."""
    os.makedirs(directory, mode=0o755, exist_ok=True)
    listeners = {}
    for port in STREAM_PORTS:
        path = os.path.join(directory, str(port))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        # guard: programs of other users do not reach the broker by the port
        os.chmod(path, 0o600)
        os.chown(path, uid, gid)
        # At a full backlog a connect(2) that does not block fails, as ours do.
        listener.listen(1024)
        listener.settimeout(0)
        listeners[port] = listener
    return listeners


def serve_port(port: int, listeners: Dict[int, socket.socket]) -> str:
    """Carry connections until the port fails; returns why."""
    loop = Loop()
    streams = PortStreams(loop, port, listeners)
    streams.begin()
    loop.run()
    return streams.failure


def start_port_streams(guest: "Guest") -> None:
    """Start the process; the machine ends with it, for nothing else reaches the broker.

    Forked, and not executed: Python's start takes half a second where every
    instruction is emulated, and its memory is ours already.
    """
    set_kernel(*PORT_SEND_BUFFER)
    listeners = listen_for_programs(PORT_SOCKETS, guest.account.uid, guest.account.gid)
    port = os.open(find_port(STREAMS_PORT), os.O_RDWR | os.O_NONBLOCK)
    settle_memory()
    pid = os.fork()
    if not pid:
        _be_child(port, listeners)
    os.close(port)
    for listener in listeners.values():
        listener.close()

    def ended(code: int) -> None:
        log(f"the process of the port ended with code {code}: powering off")
        guest.power_off()

    guest.loop.child_number(pid, ended)


def _be_child(port: int, listeners: Dict[int, socket.socket]) -> None:
    """Serve the port in the child; does not return."""
    failure = "it stopped"
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        with (
            contextlib.suppress(OSError),
            open("/proc/self/oom_score_adj", "w") as file,
        ):
            file.write("-1000")
        kept = {0, 1, 2, port, *(one.fileno() for one in listeners.values())}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        failure = serve_port(port, listeners)
    except BaseException:
        failure = traceback.format_exc()
    log(f"the process of the port failed: {failure}")
    sys.stderr.flush()
    os._exit(1)
