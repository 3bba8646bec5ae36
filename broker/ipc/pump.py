"""Messages between broker and pump process, and the end of a stream.

One SEQPACKET socket joins the two: a message is one packet of a fixed form,
so nothing is ever half read.  ``Submit`` carries two descriptors
(SCM_RIGHTS, unix(7)): the stream's sides *a* and *b*.  Every submitted stream
is answered by exactly one ``StreamDone``, whatever happens to it, unless the pump
dies.  Both processes run the same code, so a message that does not decode is
a mistake of ours (InternalError), never a peer's.
"""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass, replace

from broker.core.errors import InternalError
from broker.core.limits import relay as relay_limits


class RelayMode(enum.StrEnum):
    """How one direction moves bytes."""

    AUTO = "auto"
    """The cheaper of the two for these sockets; falls back to copy."""
    SPLICE = "splice"
    """Through a pipe, never through this program's memory; or not at all."""
    COPY = "copy"
    """read and write through one buffer."""


class EndReason(enum.StrEnum):
    """Why a stream ended.  Only ``END`` means that nothing was lost."""

    END = "end"
    """Both sides ended and every byte was delivered."""
    RESET = "reset"
    """A side went away with bytes still to come, or for it."""
    IDLE = "idle"
    """No byte moved for as long as the caller allowed."""
    ABORTED = "aborted"
    """The broker cut it."""
    ERROR = "error"
    """The kernel refused something; ``errno`` says what."""
    PUMP_DIED = "pump-died"
    """The process that carried it is gone."""


class Side(enum.StrEnum):
    """Side of a stream whose descriptor an error came from."""

    NONE = ""
    A = "a"
    B = "b"


@dataclass(frozen=True)
class StreamEnd:
    """How a stream ended.

    ``bytes_ab`` counts the bytes delivered to *b*, ``bytes_ba`` to *a*;
    ``errno`` is 0 unless ``reason`` is reset or error, ``side`` then names the
    side it came from.  The modes are those in use at the end.
    """

    bytes_ab: int
    bytes_ba: int
    reason: EndReason
    errno: int = 0
    side: Side = Side.NONE
    mode_ab: RelayMode = RelayMode.AUTO
    mode_ba: RelayMode = RelayMode.AUTO

    def describe(self) -> str:
        """The reason as people read it."""
        if not self.errno:
            return str(self.reason)
        of = f" of side {self.side}" if self.side else ""
        return f"{self.reason}{of} ({os.strerror(self.errno)})"


@dataclass(frozen=True)
class StreamStatistics:
    """A live stream.

    ``held_*`` are bytes taken from one side that the other does not take;
    ``name`` is the caller's, ``age`` and ``idle`` are seconds.
    """

    token: int
    bytes_ab: int
    bytes_ba: int
    held_ab: int
    held_ba: int
    age: float
    idle: float
    mode_ab: RelayMode
    mode_ba: RelayMode
    name: str = ""

    def named(self, name: str) -> StreamStatistics:
        """The same, with the caller's name for it."""
        return replace(self, name=name)


# -- messages ------------------------------------------------------------------


@dataclass(frozen=True)
class Submit:
    """Relay between the two descriptors of this packet; the pump owns them.

    ``idle_ms`` 0 means no limit; ``max_write`` (bytes, 0 for any) bounds a
    single write, for transports that lose larger ones (``auto`` copies then);
    ``max_bytes`` (0 for any) ends the stream before one direction moves more.
    """

    token: int
    mode_ab: RelayMode = RelayMode.AUTO
    mode_ba: RelayMode = RelayMode.AUTO
    idle_ms: int = 0
    max_write: int = 0
    max_bytes: int = 0


@dataclass(frozen=True)
class Abort:
    """Cut a stream; nothing happens when it has ended."""

    token: int


@dataclass(frozen=True)
class PumpRequest:
    """Send the statistics of all live streams."""

    request: int


@dataclass(frozen=True)
class PumpReady:
    """First message of a pump: it runs.

    ``confined`` by a system call filter; ``accelerated`` by the part in C.
    """

    pid: int
    confined: bool
    accelerated: bool = False


@dataclass(frozen=True)
class StreamDone:
    """A stream has ended and its descriptors are closed."""

    token: int
    end: StreamEnd


@dataclass(frozen=True)
class Live:
    """A part of the answer to ``PumpRequest``; ``last`` marks the last one."""

    request: int
    last: bool
    streams: tuple[StreamStatistics, ...]


ToPump = Submit | Abort | PumpRequest
FromPump = PumpReady | StreamDone | Live

# Positions in these tuples are the numbers on the wire.
_MODES = tuple(RelayMode)
_REASONS = tuple(EndReason)
_SIDES = tuple(Side)
_MODE_NUMBER = {mode: number for number, mode in enumerate(_MODES)}
_REASON_NUMBER = {reason: number for number, reason in enumerate(_REASONS)}
_SIDE_NUMBER = {side: number for number, side in enumerate(_SIDES)}

_SUBMIT, _ABORT, _ASK, _READY, _DONE, _LIVE = range(1, 7)
_submit = struct.Struct("<BBBxIQQQ")
_number = struct.Struct("<B7xQ")  # abort: token; ask: request
_ready = struct.Struct("<BBBxI")
_done = struct.Struct("<BBBBBxHQQQ")
_live = struct.Struct("<BBHxxxxQ")
_stream = struct.Struct("<QQQIIQQBB6x")

MESSAGE_BYTES = _live.size + relay_limits.RELAY_STREAMS_PER_ANSWER * _stream.size
"""The longest packet in either direction."""


def encode_to_pump(message: ToPump) -> bytes:
    """Return the packet of a message."""
    match message:
        case Submit():
            return _submit.pack(
                _SUBMIT,
                _MODE_NUMBER[message.mode_ab],
                _MODE_NUMBER[message.mode_ba],
                message.max_write,
                message.token,
                message.idle_ms,
                message.max_bytes,
            )
        case Abort():
            return _number.pack(_ABORT, message.token)
        case PumpRequest():
            return _number.pack(_ASK, message.request)


def decode_to_pump(packet: bytes) -> ToPump:
    """Return the message of a packet.  Raises InternalError if it is none."""
    try:
        kind = packet[0]
        if kind == _SUBMIT:
            _, ab, ba, max_write, token, idle_ms, max_bytes = _submit.unpack(packet)
            ways = _MODES[ab], _MODES[ba]
            return Submit(token, *ways, idle_ms, max_write, max_bytes)
        _, number = _number.unpack(packet)
    except (struct.error, IndexError) as error:
        raise InternalError("not a message to the pump") from error
    if kind == _ABORT:
        return Abort(number)
    if kind == _ASK:
        return PumpRequest(number)
    raise InternalError(f"no message to the pump has the number {kind}")


def encode_from_pump(message: FromPump) -> bytes:
    """Return the packet of a message."""
    match message:
        case PumpReady():
            return _ready.pack(
                _READY, message.confined, message.accelerated, message.pid
            )
        case StreamDone():
            end = message.end
            return _done.pack(
                _DONE,
                _REASON_NUMBER[end.reason],
                _SIDE_NUMBER[end.side],
                _MODE_NUMBER[end.mode_ab],
                _MODE_NUMBER[end.mode_ba],
                end.errno,
                message.token,
                end.bytes_ab,
                end.bytes_ba,
            )
        case Live():
            head = _live.pack(
                _LIVE, message.last, len(message.streams), message.request
            )
            return head + b"".join(map(_pack_stream, message.streams))


def decode_from_pump(packet: bytes) -> FromPump:
    """Return the message of a packet.  Raises InternalError if it is none."""
    try:
        kind = packet[0]
        if kind == _DONE:
            return _unpack_done(packet)
        if kind == _LIVE:
            return _unpack_live(packet)
        if kind == _READY:
            _, confined, accelerated, pid = _ready.unpack(packet)
            return PumpReady(pid, bool(confined), bool(accelerated))
    except (struct.error, IndexError) as error:
        raise InternalError("not a message of the pump") from error
    raise InternalError(f"no message of the pump has the number {kind}")


def _unpack_done(packet: bytes) -> StreamDone:
    _, reason, side, ab, ba, number, token, bytes_ab, bytes_ba = _done.unpack(packet)
    end = StreamEnd(
        bytes_ab,
        bytes_ba,
        _REASONS[reason],
        number,
        _SIDES[side],
        _MODES[ab],
        _MODES[ba],
    )
    return StreamDone(token, end)


def _pack_stream(stream: StreamStatistics) -> bytes:
    return _stream.pack(
        stream.token,
        stream.bytes_ab,
        stream.bytes_ba,
        stream.held_ab,
        stream.held_ba,
        int(stream.age * 1000),
        int(stream.idle * 1000),
        _MODE_NUMBER[stream.mode_ab],
        _MODE_NUMBER[stream.mode_ba],
    )


def _unpack_live(packet: bytes) -> Live:
    _, last, count, request = _live.unpack_from(packet)
    if len(packet) != _live.size + count * _stream.size:
        raise InternalError("a statistics answer of the wrong length")
    rows = _stream.iter_unpack(packet[_live.size :])
    return Live(request, bool(last), tuple(map(_unpack_stream, rows)))


def _unpack_stream(row: tuple[int, ...]) -> StreamStatistics:
    token, bytes_ab, bytes_ba, held_ab, held_ba, age, idle, ab, ba = row
    return StreamStatistics(
        token,
        bytes_ab,
        bytes_ba,
        held_ab,
        held_ba,
        age / 1000,
        idle / 1000,
        _MODES[ab],
        _MODES[ba],
    )
