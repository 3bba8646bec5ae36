"""One application's stream: bytes in, messages and pipe bytes out, and back.

Read into ``room()``, say how much with ``filled``, then take one block's worth
of work at a time with ``next``.  Messages to the application are encoded by
``send_messages`` and the pipes' methods into ``out``.

Order on the wire: files and pipes are opened and written first, ``InjectRIDs``
names those that the next messages carry, the messages use them all.  In a
message the five upper bits of the opcode count its descriptors; they are
taken off here and set again on the way back.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.core.errors import PeerError
from broker.core.limits import waypipe as waypipe_limits
from broker.core.token_bucket import TokenBucket
from broker.jail.wayland.waypipe import blocks
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.wayland.waypipe.files import RemoteFiles
from broker.jail.wayland.waypipe.header import HEADER_BYTES, Header, read_header
from broker.jail.wayland.waypipe.ids import OwnIds, RemoteIds
from broker.jail.wayland.waypipe.ports import Arena, Memory

_WORD = struct.Struct("<I")
_ID = struct.Struct("<i")
_HEAD = struct.Struct("<II")
_TAG = struct.Struct("<H")
_MAX_TAG = 31


@dataclass(frozen=True)
class Messages:
    """Whole Wayland messages, and the files and descriptors they use in order.

    A descriptor is a number where it is a pipe's, a ``ports.File`` otherwise.
    """

    data: bytes
    fds: list[object]


@dataclass(frozen=True)
class PipeSource:
    """Our pipe that the sandbox will read.

    The bytes of ``fd`` go to it by ``pipe_bytes`` and ``pipe_ended``.
    """

    rid: int
    fd: int


@dataclass(frozen=True)
class PipeBytes:
    """Bytes of a pipe that the sandbox writes."""

    rid: int
    data: bytes


@dataclass(frozen=True)
class PipeEnded:
    """The sandbox's side of a pipe is over: it writes, or reads, no more."""

    rid: int


@dataclass(frozen=True)
class Closed:
    """The other end closed orderly; ``code`` is 0 or a negative errno, its claim."""

    code: int


Event = Messages | PipeSource | PipeBytes | PipeEnded | Closed


@dataclass(frozen=True)
class Sink:
    """A pipe that the sandbox writes into: its bytes come as ``PipeBytes``."""

    rid: int
    fd: int


@dataclass(frozen=True)
class SentFile:
    """A file of the compositor (a keymap), read whole."""

    data: bytes


class WaypipeChannel:
    """The stream of one application.

    ``header`` is None until the stream's beginning has come; ``blocks`` and
    ``bytes`` count the received ones, ``unacknowledged`` those bytes that were
    not acknowledged to the sender yet.
    """

    def __init__(self, memory: Memory, arena: Arena | None = None) -> None:
        """Set up one stream.

        ``arena``: the sandbox's, owned and closed with the stream.
        """
        self._memory = memory
        self._arena = arena
        self._announced = False
        # Pages of an application that says little are never touched.
        self._buffer = mmap.mmap(
            -1,
            waypipe_limits.WAYPIPE_BUFFER_BYTES,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        )
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._ids = RemoteIds()
        self._own = OwnIds()
        self.files = RemoteFiles(memory, self._ids)
        self._pipes: dict[int, int] = {}
        """Writing ends that no message has got yet, by id."""
        self._sources: set[int] = set()
        self._sinks: set[int] = set()
        self._injected: list[object] = []
        self._counted = self._acknowledged = 0
        self._sent = self._heard = 0
        """Counted blocks of ours, and how many of them were acknowledged."""
        self._pace = TokenBucket(
            waypipe_limits.WAYPIPE_SPANS_PER_SECOND, waypipe_limits.WAYPIPE_SPANS_BURST
        )
        self._paid = 0
        self.unacknowledged = 0
        self.header: Header | None = None
        self.out = bytearray()
        self.blocks = 0
        self.bytes = 0
        self.closed = False

    def close(self) -> None:
        """Close the arena, files and pipes of an ended stream."""
        if self._arena is not None:
            self._arena.close()
            self._arena = None
        self.files.close()
        for fd in [*self._pipes.values(), *self._injected]:
            self._memory.discard(fd)
        self._pipes.clear()
        self._injected.clear()
        self.closed = True

    # -- in ---------------------------------------------------------------------

    def room(self) -> memoryview:
        """Return where the next bytes are to be read.

        Not empty once ``next`` gave None.
        """
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._start < waypipe_limits.WAYPIPE_BLOCK_BYTES:
            # The block that has begun may not fit; the moved part has not come
            # whole, and memoryview allows that the places overlap.
            rest = self._end - self._start
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were read into ``room()``."""
        self._end += count
        self.bytes += count

    def begin(self) -> bool:
        """Return whether the header has come.

        Raises PeerError for an unknown one.
        """
        if self.header is None and self._end - self._start >= HEADER_BYTES:
            raw = self._view[self._start : self._start + HEADER_BYTES]
            self._start += HEADER_BYTES
            self.header = read_header(bytes(raw))
            # guard: no arena for an end that does not know it
            if self.header.arena and self._arena is not None:
                self._announced = True
                self._say(blocks.open_arena(self._arena.size))
        return self.header is not None

    def next(self) -> tuple[bool, Event | None]:
        """Handle one block; return False when there is no whole one.

        Only after ``begin``.  Raises PeerError when the stream has to end.
        """
        if self._end - self._start < 4:
            return False, None
        (word,) = _WORD.unpack_from(self._buffer, self._start)
        kind, size = blocks.read_head(word)
        if self._end - self._start < blocks.padded(size):
            return False, None
        body = self._view[self._start + 4 : self._start + size]
        self._start += blocks.padded(size)
        self.blocks += 1
        if blocks.is_counted(kind):
            self._counted += 1
            self.unacknowledged += size
            # guard: we acknowledge in time
            if self.unacknowledged > waypipe_limits.WAYPIPE_UNACKNOWLEDGED_BYTES:
                self.acknowledge()
        with body:
            return True, _HANDLERS[kind](self, body)

    def acknowledge(self) -> None:
        """Send how much was received, once for many blocks.

        waypipe 0.8 and 0.9 keep sent bytes until they receive this.
        """
        if self._acknowledged != self._counted:
            self._acknowledged = self._counted
            self.unacknowledged = 0
            self.out += blocks.acknowledge(self._counted)

    def pause(self, now: float) -> float:
        """Seconds not to read, for the spans since this was asked last."""
        spans = self.files.spans - self._paid
        self._paid += spans
        return self._pace.take(now, spans)

    def _protocol(self, body: memoryview) -> Messages:
        """Parse a block of Wayland messages, and tell which have descriptors."""
        data = bytearray(body)
        position, expected = 0, 0
        while position < len(data):
            if len(data) - position < 8:
                raise PeerError("a block of messages ends inside a message")
            _, word = _HEAD.unpack_from(data, position)
            size = word >> 16
            # guard: whole messages
            if size < 8 or size & 3 or position + size > len(data):
                raise PeerError(
                    f"invalid message of {size} bytes in a block of {len(data)} bytes"
                )
            if word & 0xF800:
                expected += (word & 0xF800) >> 11
                _TAG.pack_into(data, position + 4, word & 0x07FF)
            position += size
        fds, self._injected = self._injected, []
        # guard: descriptors as counted
        if expected != len(fds):
            for fd in fds:
                self._memory.discard(fd)
            raise PeerError(
                f"the messages require {expected} descriptors, but {len(fds)} were sent"
            )
        return Messages(bytes(data), fds)

    def _copy(self, body: memoryview) -> None:
        """Copied bytes count as received, so that the sender can use their place again."""
        arena = self._arena if self._announced else None
        self.unacknowledged += self.files.copy(body, arena)

    def _inject(self, body: memoryview) -> None:
        """Note the descriptors of the next messages.  Raises PeerError."""
        # guard: whole ids
        if len(body) % 4:
            raise PeerError("a list of descriptors ends inside an id")
        # guard: descriptors of one block
        if len(self._injected) + len(body) // 4 > waypipe_limits.WAYPIPE_FDS_PER_BLOCK:
            raise PeerError("too many descriptors for one block of messages")
        for (rid,) in _ID.iter_unpack(body):
            fd: object = self.files.take(rid)
            if fd is None:
                fd = self._pipes.pop(rid, None)
            # guard: descriptors that exist
            if fd is None:
                raise PeerError(
                    f"a message refers to the descriptor {rid}, which "
                    + ("was already used" if self._ids.known(rid) else "does not exist")
                )
            self._injected.append(fd)

    def _open_pipe(self, body: memoryview) -> PipeSource:
        """Open a pipe that the guest announces.  Raises PeerError."""
        (rid,) = _ID.unpack(body)
        self._ids.use(rid)
        # guard: number of pipes
        if self.pipes >= waypipe_limits.WAYPIPE_PIPES:
            raise PeerError(f"more than {waypipe_limits.WAYPIPE_PIPES} pipes are open")
        try:
            reading, writing = self._memory.pipe()
        except ValueError as error:
            raise PeerError(f"cannot open a pipe: {error}") from error
        self._pipes[rid] = writing
        self._sources.add(rid)
        return PipeSource(rid, reading)

    def _transfer(self, body: memoryview) -> PipeBytes | None:
        (rid,) = _ID.unpack_from(body)
        if rid in self._sinks:
            return PipeBytes(rid, bytes(body[4:]))
        self._late(rid)
        return None

    def _shut(self, body: memoryview) -> PipeEnded | None:
        """Note that the guest has closed a pipe."""
        (rid,) = _ID.unpack(body)
        for pipes in (self._sinks, self._sources):
            if rid in pipes:
                pipes.discard(rid)
                return PipeEnded(rid)
        self._late(rid)
        return None

    def _late(self, rid: int) -> None:
        # guard: pipes that were opened
        if not self._ids.known(rid) and not self._own.known(rid):
            raise PeerError(f"received data for the pipe {rid}, which was never opened")

    def _bye(self, body: memoryview) -> Closed:
        return Closed(_ID.unpack(body)[0])

    def _acknowledged_by_it(self, body: memoryview) -> None:
        """Check that an acknowledgement is of blocks that were sent.

        Raises PeerError.
        """
        (count,) = _WORD.unpack(body)
        more = count - self._heard & 0xFFFFFFFF
        # guard: acknowledgements of sent blocks
        if not 0 < more <= self._sent - self._heard:
            raise PeerError(
                f"acknowledgement of {count} blocks after {self._heard & 0xFFFFFFFF}, but "
                f"{self._sent} were sent"
            )
        self._heard += more

    # -- out ---------------------------------------------------------------------

    def _say(self, block: bytes) -> None:
        """Queue a block that counts for the other side's acknowledgements."""
        self._sent += 1
        self.out += block

    @property
    def pipes(self) -> int:
        """Pipes that are open now, in either direction.

        One whose source has been shut counts until a message has got its end.
        """
        return len(self._sources | self._pipes.keys()) + len(self._sinks)

    def send_messages(
        self, data: bytes | memoryview, fds: Sequence[SentFile | int]
    ) -> list[Sink]:
        """Encode whole messages; ``fds`` belong to the first of them.

        A number is a pipe's writing end, which is the caller's to write the
        coming ``PipeBytes`` into.  Raises ValueError for what cannot be sent.
        """
        sinks: list[Sink] = []
        if fds:
            if len(fds) > _MAX_TAG:
                raise ValueError(f"the message has {len(fds)} descriptors")
            rids: list[int] = []
            for fd in fds:
                rid = self._own.new()
                rids.append(rid)
                if isinstance(fd, SentFile):
                    self._send_file(rid, fd.data)
                else:
                    self._say(blocks.of_pipe(BlockKind.OPEN_IR_PIPE, rid))
                    self._sinks.add(rid)
                    sinks.append(Sink(rid, fd))
            self._say(blocks.inject(rids))
            tagged = bytearray(data)
            (word,) = _TAG.unpack_from(tagged, 4)
            _TAG.pack_into(tagged, 4, word & 0x07FF | len(fds) << 11)
            data = bytes(tagged)
        most = waypipe_limits.WAYPIPE_MESSAGES_BYTES
        while len(data) > most:
            cut = _whole(data, most)
            self._say(blocks.block(BlockKind.PROTOCOL, data[:cut]))
            data = data[cut:]
        if data:
            self._say(blocks.block(BlockKind.PROTOCOL, data))
        return sinks

    def _send_file(self, rid: int, data: bytes) -> None:
        self._say(blocks.open_file(rid, len(data)))
        piece = waypipe_limits.WAYPIPE_BLOCK_BYTES // 2
        for start in range(0, len(data), piece):
            self._say(blocks.fill(rid, start, data[start : start + piece]))

    def pipe_bytes(self, rid: int, data: bytes) -> None:
        """Send bytes of a source."""
        if rid in self._sources:
            self._say(blocks.of_pipe(BlockKind.PIPE_TRANSFER, rid, data))

    def pipe_ended(self, rid: int) -> None:
        """Tell the application that a source has ended, or a sink's reader is gone."""
        if rid in self._sources:
            self._sources.discard(rid)
            self._say(blocks.of_pipe(BlockKind.PIPE_SHUTDOWN_W, rid))
        elif rid in self._sinks:
            self._sinks.discard(rid)
            self._say(blocks.of_pipe(BlockKind.PIPE_SHUTDOWN_R, rid))

    def say_goodbye(self, code: int) -> None:
        """The last block: 0, or a negative errno."""
        self.out += blocks.close(code)


def _whole(data: bytes | memoryview | bytearray, most: int) -> int:
    """Return the length of the longest run of whole messages in ``most`` bytes."""
    position = 0
    while True:
        size = _HEAD.unpack_from(data, position)[1] >> 16
        if position + size > most:
            return position
        position += size


_HANDLERS: dict[BlockKind, Callable[[WaypipeChannel, memoryview], Event | None]] = {
    BlockKind.PROTOCOL: WaypipeChannel._protocol,  # noqa: SLF001 - the table of this class
    BlockKind.INJECT_RIDS: WaypipeChannel._inject,  # noqa: SLF001
    BlockKind.OPEN_FILE: lambda channel, body: channel.files.open(body),
    BlockKind.EXTEND_FILE: lambda channel, body: channel.files.extend(body),
    BlockKind.BUFFER_FILL: lambda channel, body: channel.files.fill(body),
    BlockKind.BUFFER_DIFF: lambda channel, body: channel.files.diff(body),
    BlockKind.ARENA_FILL: WaypipeChannel._copy,  # noqa: SLF001
    BlockKind.OPEN_IR_PIPE: WaypipeChannel._open_pipe,  # noqa: SLF001
    BlockKind.OPEN_RW_PIPE: WaypipeChannel._open_pipe,  # noqa: SLF001
    BlockKind.PIPE_TRANSFER: WaypipeChannel._transfer,  # noqa: SLF001
    BlockKind.PIPE_SHUTDOWN_R: WaypipeChannel._shut,  # noqa: SLF001
    BlockKind.PIPE_SHUTDOWN_W: WaypipeChannel._shut,  # noqa: SLF001
    BlockKind.ACK_NBLOCKS: WaypipeChannel._acknowledged_by_it,  # noqa: SLF001
    BlockKind.CLOSE: WaypipeChannel._bye,  # noqa: SLF001
}
