"""One program's Wayland connection, and its stream to the host."""

from __future__ import annotations

import array
import collections
import os
import selectors
import socket
import struct
import sys
from typing import TYPE_CHECKING, Callable, Deque, Dict, List, Optional, Tuple

from shims.wayland.arena_places import CHUNK_BYTES, ROWS, ArenaMemory, ArenaPlaces
from shims.wayland.client_objects import ClientObjects
from shims.wayland.drawn_pixels import Box, ProgramBuffer, ProgramPool, Region, rows_of
from shims.wayland.gpu_buffers import DMABUF, FEEDBACK, GPU_NAME, PARAMS, GpuBuffers
from shims.wayland.gpu_memory import LOST
from shims.wayland.stream_blocks import (
    ACK_NBLOCKS,
    ARENA_FILL,
    BUFFER_FILL,
    CLOSE,
    EXTEND_FILE,
    FILL_BYTES,
    HEADER,
    INJECT_RIDS,
    MESSAGES_BYTES,
    OPEN_ARENA,
    OPEN_FILE,
    OPEN_IR_PIPE,
    PIPE_SHUTDOWN_R,
    PIPE_SHUTDOWN_W,
    PIPE_TRANSFER,
    PROTOCOL,
    block,
    split_messages,
    take_blocks,
)
from shims.wayland.stream_pipes import StreamPipes

if TYPE_CHECKING:
    from shims.wayland.gpu_memory import Gpu
    from shims.wayland.ready_loop import ReadyLoop

READ_BYTES = 16384
DESCRIPTORS = 28
"""In one message of a socket, as libwayland has it."""
QUEUE_BYTES = 1 << 19
"""Bytes that wait for one side, before the other one is not read any more."""
_TAG = 0xF800


class Rows:
    """Rows of a buffer that are still to be sent."""

    def __init__(self, buffer: ProgramBuffer, box: Box) -> None:
        self.pool, self.stride = buffer.pool, buffer.stride
        self.start, self.width, self.count = rows_of(buffer, box)


class ClientStream:
    """Both sides, until one ends."""

    def __init__(
        self,
        loop: "ReadyLoop",
        client: socket.socket,
        host: socket.socket,
        memory: Optional[ArenaMemory],
        closed: "Callable[[ClientStream], None]",
        gpu: "Optional[Gpu]" = None,
    ) -> None:
        self._loop, self._client, self._host, self._closed = loop, client, host, closed
        self._memory = memory
        self._places: Optional[ArenaPlaces] = None
        """None until the host has announced the arena."""
        self._pipes = StreamPipes(loop, self._say_and_go)
        self._objects = ClientObjects(self._drawn, self._grown)
        self._from_client = bytearray()
        self._from_host = bytearray()
        self._to_host = bytearray(HEADER)
        self._to_client: Deque[Tuple[bytearray, List[int]]] = collections.deque()
        self._to_client_bytes = self._to_client_fds = 0
        self._held = False
        """Whether messages of the program wait until it reads."""
        self._fds: Deque[int] = collections.deque()
        self._injected: List[int] = []
        self._batch = bytearray()
        self._rows: Deque[Rows] = collections.deque()
        self._last_rid = 0
        self._said = 0
        """Blocks that count for the host's acknowledgements."""
        self._files: Dict[int, int] = {}
        self._host_fds: List[int] = []
        self._ended = False
        self._open = True
        self._gpu = gpu
        self._gpu_buffers: Optional[GpuBuffers] = None
        """None without a GPU, and while it is not known whether it still works."""
        self._checking = self._reading = False
        self._watch()
        if gpu is not None:
            self._checking = True
            gpu.check(self._checked)

    def _checked(self, reason: str) -> None:
        """Use the GPU if its check succeeded; begin."""
        self._checking = False
        if self._gpu is not None and not reason:
            self._gpu_buffers = GpuBuffers(
                self._gpu, self._objects, self._queue, self._open_file
            )
        if self._open:
            self._watch()

    def close(self) -> None:
        """End the connection: close both sockets, pipes, objects and descriptors."""
        if not self._open:
            return
        self._open = False
        for sock in (self._client, self._host):
            self._loop.forget(sock.fileno())
            sock.close()
        self._pipes.close()
        self._objects.close()
        for fd in [*self._fds, *self._host_fds, *self._files.values()]:
            os.close(fd)
        for _, fds in self._to_client:
            for fd in fds:
                os.close(fd)
        if self._places is not None:
            self._places.close()
        self._closed(self)

    def _watch(self) -> None:
        """Await what can be read or written now."""
        client = host = 0
        roomy = len(self._to_host) < QUEUE_BYTES and not self._full()
        if not self._ended and not self._rows and roomy:
            client |= selectors.EVENT_READ
        if self._to_client or self._held:
            client |= selectors.EVENT_WRITE
        if self._to_client_bytes < QUEUE_BYTES and not self._checking:
            host |= selectors.EVENT_READ
        if self._to_host:
            host |= selectors.EVENT_WRITE
        self._loop.watch(self._client.fileno(), client, self._on_client)
        self._loop.watch(self._host.fileno(), host, self._on_host)

    def _on_client(self, events: int) -> None:
        self._guarded(self._read_client, self._write_client, events)

    def _on_host(self, events: int) -> None:
        self._guarded(self._read_host, self._write_host, events)

    def _guarded(
        self, read: Callable[[], None], write: Callable[[], None], events: int
    ) -> None:
        """Read or write by an event; close on an error."""
        try:
            if events & selectors.EVENT_READ:
                read()
            if self._open and events & selectors.EVENT_WRITE:
                write()
            self._go_on()
        except (OSError, ValueError, struct.error, KeyError) as error:
            if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
                print(f"wayland: {type(error).__name__}: {error}", file=sys.stderr)
            self.close()

    def _go_on(self) -> None:
        """Process and send what is possible now, and wait for the rest."""
        if not self._open:
            return
        self._advance()
        self._write_host()
        self._write_client()
        if self._ended and not self._rows and not self._to_host:
            self.close()
            return
        self._watch()

    # -- to the host

    def _say(self, kind: int, *parts: "bytes | memoryview") -> None:
        if kind not in (ACK_NBLOCKS, CLOSE):
            self._said += 1
        self._to_host += block(kind, *parts)

    def _say_and_go(self, kind: int, *parts: bytes) -> None:
        self._say(kind, *parts)
        if self._open:
            self._watch()

    def _write_host(self) -> None:
        try:
            while self._to_host:
                del self._to_host[: self._host.send(self._to_host)]
        except BlockingIOError:
            return

    def _read_client(self) -> None:
        """Read the program's bytes and descriptors."""
        room = socket.CMSG_SPACE(DESCRIPTORS * 4)
        try:
            data, control, _, _ = self._client.recvmsg(
                READ_BYTES, room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds += fds
        if not data:
            self._ended = True
            self._say(CLOSE, struct.pack("<i", 0))
            return
        self._from_client += data

    def _advance(self) -> None:
        """Process the program's messages, as far as their pixels fit."""
        while self._send_rows() and not self._full():
            took = 0
            for oid, opcode, begin, end in split_messages(self._from_client):
                message = self._from_client[begin:end]
                if len(self._batch) + len(message) > MESSAGES_BYTES:
                    self._end_batch()
                drawn = self._of_gpu(oid, opcode, bytes(message[8:]))
                if drawn is not None:
                    self._batch += drawn
                else:
                    self._passed(oid, opcode, message)
                    self._objects.request(oid, opcode, bytes(message[8:]))
                    self._batch += message
                took = end
                # The rows are sent before the message that shows them.
                if self._rows or self._full():
                    break
            del self._from_client[:took]
            if not took:
                break
        self._held = self._full()
        if not self._rows:
            self._end_batch()

    def _full(self) -> bool:
        """Return whether a program that does not read has enough queued."""
        # guard: a program that reads nothing takes few descriptors of its guest's end
        many = self._to_client_fds > DESCRIPTORS
        return many or self._to_client_bytes >= QUEUE_BYTES

    def _end_batch(self) -> None:
        """Send the batch of messages with its descriptors."""
        if self._injected:
            self._say(
                INJECT_RIDS, struct.pack(f"<{len(self._injected)}i", *self._injected)
            )
            self._injected = []
        if self._batch:
            self._say(PROTOCOL, bytes(self._batch))
            self._batch = bytearray()

    def _of_gpu(self, oid: int, opcode: int, body: bytes) -> Optional[bytes]:
        """Return what the host gets of a request to an object of the GPU; None of others."""
        gpu, kind = self._gpu_buffers, self._objects.kinds.get(oid)
        if gpu is None:
            return None
        if kind in (DMABUF, PARAMS, FEEDBACK):
            fds = []
            if (kind, opcode) == (PARAMS, 1) and self._fds:
                fds.append(self._fds.popleft())
            try:
                return gpu.request(oid, opcode, body, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        named = (kind, opcode) == ("wl_registry", 0)
        if named and struct.unpack_from("<I", body)[0] == GPU_NAME:
            return gpu.bind(oid, body)
        return None

    def _open_file(self, size: int) -> int:
        """Begin a file in the stream for the next message; returns its id."""
        self._last_rid += 1
        self._say(OPEN_FILE, struct.pack("<iI", self._last_rid, size))
        self._injected.append(self._last_rid)
        return self._last_rid

    def _passed(self, oid: int, opcode: int, message: bytearray) -> None:
        """Move a request's descriptors to its batch."""
        count = self._objects.descriptors(oid, opcode)
        if not count:
            return
        if not self._fds:
            raise ValueError("a request has no descriptor")
        fd = self._fds.popleft()
        if self._objects.kinds[oid] == "wl_shm":
            new, size = struct.unpack_from("<Ii", message, 8)
            size = max(0, size)
            pool = ProgramPool(fd, size, self._open_file(size))
            self._objects.make(new, "wl_shm_pool", pool)
        else:
            self._last_rid += 1
            self._pipes.to_program(self._last_rid, fd)
            self._injected.append(self._last_rid)
        struct.pack_into("<H", message, 4, opcode | count << 11)

    def _grown(self, pool: ProgramPool, size: int) -> None:
        self._say(EXTEND_FILE, struct.pack("<iI", pool.rid, size))

    def _drawn(self, buffer: ProgramBuffer, region: Region) -> None:
        """Queue the drawn rows; read a GPU's picture first."""
        drawn = buffer.pool.drawn
        if drawn is not None and self._gpu is not None and region:
            if self._gpu.lost:
                return  # the window keeps what it shows
            self._reading = True
            top, bottom = min(box[1] for box in region), max(box[3] for box in region)
            self._gpu.read(drawn, top, bottom, self._read_back)
        self._rows += [Rows(buffer, box) for box in region]

    def _read_back(self, reason: str) -> None:
        """Go on after the GPU's picture was read, or could not be."""
        self._reading = False
        if not self._open:
            return
        if reason:
            self._rows.clear()
        if reason and not reason.startswith(LOST):
            print(f"wayland: {reason}", file=sys.stderr)
            self.close()
            return
        self._on_host(0)

    def _send_rows(self) -> bool:
        """Send pixels; false when some have to wait, for the GPU or for room in the arena."""
        if self._reading:
            return False
        while self._rows:
            rows = self._rows[0]
            while rows.count:
                done = self._into_arena(rows)
                if not done and self._places is not None and self._places.worth_waiting:
                    return False
                done = done or self._into_stream(rows)
                rows.start += done * rows.stride
                rows.count -= done
            self._rows.popleft()
        return True

    def _into_arena(self, rows: Rows) -> int:
        """Copy the next rows to the arena; return how many, 0 without room."""
        if self._places is None or not 0 < rows.width <= CHUNK_BYTES:
            return 0
        count = min(rows.count, CHUNK_BYTES // rows.width)
        if rows.width != rows.stride:
            count = min(count, ROWS)
        place = self._places.room(count * rows.width)
        if place is None:
            return 0
        _copy(rows, count, place)
        base = self._places.named(count * rows.width, self._said + 1)
        shape = (rows.start, rows.stride, rows.width, count, base)
        self._say(ARENA_FILL, struct.pack("<iIIIII", rows.pool.rid, *shape))
        return count

    def _into_stream(self, rows: Rows) -> int:
        """Send the next rows in the stream; return how many."""
        # A block has bytes without gaps: whole rows, or one.
        count = 1
        if rows.width == rows.stride and rows.width:
            count = min(rows.count, max(1, FILL_BYTES // rows.width))
        size = count * rows.width
        data = bytearray(size)
        _copy(rows, count, memoryview(data))
        for at in range(0, size, FILL_BYTES):
            piece = memoryview(data)[at : at + FILL_BYTES]
            start = rows.start + at
            head = struct.pack("<iII", rows.pool.rid, start, start + len(piece))
            self._say(BUFFER_FILL, head, piece)
        return count

    # -- from the host

    def _read_host(self) -> None:
        """Read blocks of the host."""
        try:
            data = self._host.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._from_host += data
        for kind, body in take_blocks(self._from_host):
            self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        """Handle one block of the host."""
        number = struct.unpack_from("<i", body)[0]
        if kind == PROTOCOL:
            self._deliver(body)
        elif kind == INJECT_RIDS:
            for (rid,) in struct.iter_unpack("<i", body):
                self._host_fds.append(self._files.pop(rid))
        elif kind == OPEN_FILE:
            fd = os.memfd_create("vitrail-file", os.MFD_CLOEXEC)
            self._files[number] = fd
            os.ftruncate(fd, struct.unpack_from("<I", body, 4)[0])
        elif kind == BUFFER_FILL:
            start = struct.unpack_from("<I", body, 4)[0]
            if number in self._files:
                os.pwrite(self._files[number], body[12:], start)
        elif kind == OPEN_IR_PIPE:
            self._files[number] = self._pipes.from_program(number)
        elif kind == PIPE_TRANSFER:
            self._pipes.take(number, body[4:])
        elif kind in (PIPE_SHUTDOWN_R, PIPE_SHUTDOWN_W):
            self._pipes.shut(number)
        elif kind == ACK_NBLOCKS:
            if self._places is not None:
                self._places.acknowledged(number & 0xFFFFFFFF)
        elif kind == OPEN_ARENA and self._memory is not None:
            # guard: an arena is opened once
            self._places = self._places or ArenaPlaces(self._memory)
        # Others are not for us, or say that the host closes, which it does.

    def _deliver(self, body: bytes) -> None:
        """Queue messages for the program, each with its descriptors."""
        data = bytearray(body)
        for oid, word, begin, end in split_messages(data):
            message = data[begin:end]
            count, opcode = (word & _TAG) >> 11, word & ~_TAG
            struct.pack_into("<H", message, 4, opcode)
            self._objects.event(oid, opcode, message)
            fds, self._host_fds = self._host_fds[:count], self._host_fds[count:]
            kind = self._objects.kinds.get(oid)
            if kind == DMABUF:
                continue  # what the host's wl_shm has
            self._queue(message, fds)
            if (kind, opcode) == ("wl_registry", 0) and self._gpu_buffers is not None:
                self._gpu_buffers.global_event(oid, message)

    def _queue(self, message: "bytes | bytearray", fds: List[int]) -> None:
        """Queue a message and its descriptors for the program."""
        self._to_client_bytes += len(message)
        self._to_client_fds += len(fds)
        if fds or not self._to_client or self._to_client[-1][1]:
            self._to_client.append((bytearray(message), fds))
        else:
            self._to_client[-1][0].extend(message)

    def _write_client(self) -> None:
        """Write queued messages and descriptors to the program."""
        try:
            while self._to_client:
                data, fds = self._to_client[0]
                control = []
                if fds:
                    rights = array.array("i", fds)
                    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                sent = self._client.sendmsg([data], control)
                for fd in fds:
                    os.close(fd)
                self._to_client_fds -= len(fds)
                fds.clear()
                self._to_client_bytes -= sent
                del data[:sent]
                if not data:
                    self._to_client.popleft()
        except BlockingIOError:
            return


def _copy(rows: Rows, count: int, into: memoryview) -> None:
    """Read rows of a program's memory; a part that it has cut off is zero."""
    if rows.width == rows.stride:
        parts = [into]
        starts = [rows.start]
    else:
        parts = [into[n * rows.width : (n + 1) * rows.width] for n in range(count)]
        starts = [rows.start + n * rows.stride for n in range(count)]
    for part, start in zip(parts, starts):
        got = rows.pool.read(part, start)
        if got < len(part):
            part[got:] = bytes(len(part) - got)
