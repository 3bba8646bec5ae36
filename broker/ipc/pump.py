"""Messages between broker and pump process, and the end of a stream.

One SEQPACKET socket joins the two: a message is one packet of a fixed form,
so nothing is ever half read.  ``Submit`` carries two descriptors
(SCM_RIGHTS, unix(7)): the stream's sides *a* and *b*.  Every submitted stream
is answered by exactly one ``StreamDone``, whatever happens to it, unless the pump
dies.  Both processes run the same code, so a message that does not decode is
an internal error (InternalError), never a peer's.

The host and the viewer submit streams to their pumps, an acceptor to its own.
"""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass, replace
from typing import NamedTuple

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


class Submit(NamedTuple):
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
    """First message of a pump: it runs, and is confined.

    ``accelerated`` by the part in C.
    """

    pid: int
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

# What the pump's half of this (``helpers.pump.channel_messages``) has in common.
# Positions in these tuples are the numbers on the wire.
MODES = tuple(RelayMode)
_REASONS = tuple(EndReason)
_SIDES = tuple(Side)
MODE_NUMBER = {mode: number for number, mode in enumerate(MODES)}
REASON_NUMBER = {reason: number for number, reason in enumerate(_REASONS)}
SIDE_NUMBER = {side: number for number, side in enumerate(_SIDES)}

SUBMIT, ABORT, ASK, READY, DONE, LIVE = range(1, 7)
SUBMIT_FORM = struct.Struct("<BBB5xQQQQ")
NUMBER_FORM = struct.Struct("<B7xQ")  # abort: token; ask: request
READY_FORM = struct.Struct("<BBxxI")
DONE_FORM = struct.Struct("<BBBBBxHQQQ")
LIVE_FORM = struct.Struct("<BBHxxxxQ")
STREAM_FORM = struct.Struct("<QQQIIQQBB6x")

MESSAGE_BYTES = (
    LIVE_FORM.size + relay_limits.RELAY_STREAMS_PER_ANSWER * STREAM_FORM.size
)
"""The longest packet in either direction."""


def encode_to_pump(message: ToPump) -> bytes:
    """Encode a message to the pump process as one packet."""
    match message:
        case Submit():
            token, ab, ba, *limits = message
            modes = MODE_NUMBER[ab], MODE_NUMBER[ba]
            return SUBMIT_FORM.pack(SUBMIT, *modes, token, *limits)
        case Abort():
            return NUMBER_FORM.pack(ABORT, message.token)
        case PumpRequest():
            return NUMBER_FORM.pack(ASK, message.request)


def decode_from_pump(packet: bytes) -> FromPump:
    """Return the message of a packet.  Raises InternalError if it is invalid."""
    try:
        kind = packet[0]
        if kind == DONE:
            return _unpack_done(packet)
        if kind == LIVE:
            return _unpack_live(packet)
        if kind == READY:
            _, accelerated, pid = READY_FORM.unpack(packet)
            return PumpReady(pid, bool(accelerated))
    except (struct.error, IndexError) as error:
        raise InternalError("the pump sent an invalid message") from error
    raise InternalError(f"the pump sent a message of unknown kind {kind}")


def _unpack_done(packet: bytes) -> StreamDone:
    """Decode the counts at a stream's end."""
    _, reason, side, ab, ba, number, token, bytes_ab, bytes_ba = DONE_FORM.unpack(
        packet
    )
    end = StreamEnd(
        bytes_ab,
        bytes_ba,
        _REASONS[reason],
        number,
        _SIDES[side],
        MODES[ab],
        MODES[ba],
    )
    return StreamDone(token, end)


def _unpack_live(packet: bytes) -> Live:
    _, last, count, request = LIVE_FORM.unpack_from(packet)
    if len(packet) != LIVE_FORM.size + count * STREAM_FORM.size:
        raise InternalError("the pump's statistics have the wrong length")
    rows = STREAM_FORM.iter_unpack(packet[LIVE_FORM.size :])
    return Live(request, bool(last), tuple(map(_unpack_stream, rows)))


def _unpack_stream(row: tuple[int, ...]) -> StreamStatistics:
    """Convert a row of a packet to a stream's statistics."""
    token, bytes_ab, bytes_ba, held_ab, held_ba, age, idle, ab, ba = row
    return StreamStatistics(
        token,
        bytes_ab,
        bytes_ba,
        held_ab,
        held_ba,
        age / 1000,
        idle / 1000,
        MODES[ab],
        MODES[ba],
    )
