"""The carriers of a Peer, with a far end that the test controls byte by byte.

Each carrier has the viewer's Peer at the near end.  The far end is the host, which may
have been compromised: it sends any bytes and descriptors, and reads what it likes.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio

from broker.core import limits
from broker.core.errors import RefusedError
from broker.wire.call_messages import (
    AnswerMessage,
    CallMessage,
    CancelMessage,
    ErrorMessage,
    ItemMessage,
    NoticeMessage,
    TakenMessage,
    decode_message,
    encode_message,
)
from broker.wire.frame_carrier import Frames
from broker.wire.habits import Habits
from broker.wire.one_way import OneWay
from broker.wire.packets import Packets
from broker.wire.peer import Peer
from broker.wire.row import ProcessKind, Row, rows_of, serves

VIEWER, HOST = frozenset({ProcessKind.VIEWER}), frozenset({ProcessKind.HOST})
MESSAGE_BYTES = limits.WORKER_MESSAGE_BYTES
"""The limit of all carriers here: that of the orders of a worker."""
LENGTH = struct.Struct("<I")


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request, item and answer of all rows here."""

    text: str


# Rows that the near end serves.
ECHO = Row("Echo", Text, Text, VIEWER, HOST)
SLEEP = Row("Sleep", Text, Text, VIEWER, HOST, droppable=True)
COUNT = Row("Count", Text, Text, VIEWER, HOST, item=Text, paced=True)
PASS = Row("Pass", Text, Text, VIEWER, HOST, takes=2, gives=2)
TELL = Row("Tell", Text, None, VIEWER, HOST)
FEW = Row("Few", Text, Text, VIEWER, HOST, at_once=2)
# Rows that the far end serves.
ASK = Row("Ask", Text, Text, HOST, VIEWER)
LOOK = Row("Look", Text, Text, HOST, VIEWER, droppable=True)
FETCH = Row("Fetch", Text, Text, HOST, VIEWER, gives=1)
READ = Row("Read", Text, Text, HOST, VIEWER, item=Text, paced=True)
WATCH = Row("Watch", Text, Text, HOST, VIEWER, item=Text)
# A row of processes that are not on this connection.
OTHER = Row(
    "Other",
    Text,
    Text,
    frozenset({ProcessKind.AUTHORITY}),
    frozenset({ProcessKind.WORKER}),
)
ROWS = rows_of(globals())


class Served:
    """Serves the near end's rows."""

    def __init__(self):
        self.notices = []
        self.cancelled = 0
        self.order = []

    @serves(ECHO)
    async def echo(self, _, request):
        self.order.append(request.text)
        if request.text == "refused":
            raise RefusedError("the near end refuses", hint="a hint")
        if request.text == "mistake":
            raise ZeroDivisionError
        return request

    @serves(SLEEP)
    async def sleep(self, _, request):
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled += 1
        return request

    @serves(COUNT)
    async def count(self, exchange, request):
        for number in range(int(request.text)):
            await exchange.emit(Text(str(number)))
        return Text("end")

    @serves(PASS)
    async def pass_back(self, exchange, request):
        for _ in range(2):
            exchange.give_fd(exchange.take_fd())
        return request

    @serves(TELL)
    async def tell(self, _, request):
        self.notices.append(request.text)

    @serves(FEW)
    async def few(self, _, request):
        await trio.sleep_forever()
        return request


@dataclass
class Far:
    """The far end: raw bytes, and messages in the encoding of the wire."""

    read: socket.socket | int
    write: socket.socket | int
    is_framed: bool
    frames: bytes = b""
    fds: list = field(default_factory=list)

    def frame(self, data):
        return LENGTH.pack(len(data)) + data if self.is_framed else data

    async def send(self, data, fds=()):
        """Send the bytes of one message."""
        await self.send_raw(self.frame(data), fds)

    async def send_raw(self, data, fds=()):
        """Send bytes as they are."""
        if isinstance(self.write, int):
            while data:
                try:
                    data = data[os.write(self.write, data) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.write)
            return
        while data:
            try:
                if fds:
                    sent = socket.send_fds(self.write, [data], fds)
                else:
                    sent = self.write.send(data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.write)
                continue
            data, fds = data[sent:], ()

    async def call(self, row, number, text="", fds=(), warrant=b""):
        body = msgspec.Raw(msgspec.msgpack.encode(Text(text)))
        name = row if isinstance(row, str) else row.name
        await self.send(encode_message(CallMessage(number, name, body, warrant)), fds)

    async def notice(self, row, text=""):
        body = msgspec.Raw(msgspec.msgpack.encode(Text(text)))
        await self.send(encode_message(NoticeMessage(row.name, body)))

    async def answer(self, number, text="", fds=()):
        body = msgspec.Raw(msgspec.msgpack.encode(Text(text)))
        await self.send(encode_message(AnswerMessage(number, body)), fds)

    async def item(self, number, text=""):
        body = msgspec.Raw(msgspec.msgpack.encode(Text(text)))
        await self.send(encode_message(ItemMessage(number, body)))

    async def fail(self, number):
        await self.send(encode_message(ErrorMessage(number, "refused", "no")))

    async def cancel(self, number):
        await self.send(encode_message(CancelMessage(number)))

    async def take(self, number):
        await self.send(encode_message(TakenMessage(number)))

    async def receive(self):
        """Return the near end's next message; None when it has closed."""
        while True:
            if self.is_framed and isinstance(self.read, socket.socket):
                frame = self._next_frame()
                if frame is not None:
                    return decode_message(frame)
            await trio.lowlevel.wait_readable(self.read)
            try:
                data, fds, _, _ = socket.recv_fds(self.read, 1 << 20, 8)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return None
            self.fds += fds
            if not data:
                return None
            if not self._reads_frames():
                return decode_message(data)
            self.frames += data

    def _reads_frames(self):
        return self.is_framed and self.read is self.write

    def _next_frame(self):
        if not self._reads_frames() or len(self.frames) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self.frames)
        frame = self.frames[LENGTH.size : LENGTH.size + length]
        if len(frame) < length:
            return None
        self.frames = self.frames[LENGTH.size + length :]
        return frame

    def close(self):
        """Close the far end; again: nothing happens."""
        for end in {self.read, self.write}:
            if not isinstance(end, int):
                end.close()
            elif end >= 0:
                os.close(end)
                self.write = -1


def packets():
    """Return a carrier over packets, and its far end."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far.setblocking(False)
    return Packets(near, MESSAGE_BYTES), Far(far, far, is_framed=False)


def frames():
    """Return a carrier over frames, and its far end."""
    near, far = socket.socketpair()
    far.setblocking(False)
    carrier = Frames(
        near, receive_bytes=MESSAGE_BYTES, send_bytes=MESSAGE_BYTES, waiting=1 << 20
    )
    return carrier, Far(far, far, is_framed=True)


def one_way():
    """Return a carrier whose far end sends no descriptor, and that end."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.shutdown(socket.SHUT_RD)
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write, False)
    far.setblocking(False)
    carrier = OneWay(Packets(near, MESSAGE_BYTES), read)
    return carrier, Far(far, write, is_framed=True)


CARRIERS = {"packets": packets, "frames": frames, "one-way": one_way}
WITH_DESCRIPTORS = ["packets"]
"""Carriers on which both ends send descriptors."""


@dataclass
class Connection:
    """The near end's Peer, what it serves, and the far end."""

    peer: Peer
    served: Served
    far: Far


@asynccontextmanager
async def connected(name, **habits):
    """Connect a Peer that is not yet run, and check that no descriptor is left."""
    open_before = len(os.listdir("/proc/self/fd"))
    carrier, far = CARRIERS[name]()
    served = Served()
    options = {"follows_cancelled": True, "message_bytes": MESSAGE_BYTES} | habits
    peer = Peer(
        carrier,
        ProcessKind.VIEWER,
        ProcessKind.HOST,
        ROWS,
        [served],
        habits=Habits(**options),
    )
    with ExitStack() as stack:
        stack.callback(carrier.close)
        stack.callback(far.close)
        yield Connection(peer, served, far)
    for fd in far.fds:
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == open_before, "a descriptor is left open"
