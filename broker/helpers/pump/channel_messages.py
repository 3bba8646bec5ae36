"""The pump's half of ``ipc.pump``: it decodes orders and encodes answers.

Only the pump runs it.
"""

from __future__ import annotations

import struct

from broker.core.errors import InternalError
from broker.ipc import pump as wire


def decode_to_pump(packet: bytes) -> wire.ToPump:
    """Decode a packet for the pump.  Raises InternalError if it is malformed."""
    try:
        kind = packet[0]
        if kind == wire.SUBMIT:
            _, ab, ba, token, *limits = wire.SUBMIT_FORM.unpack(packet)
            return wire.Submit(token, wire.MODES[ab], wire.MODES[ba], *limits)
        _, number = wire.NUMBER_FORM.unpack(packet)
    except (struct.error, IndexError) as error:
        raise InternalError("invalid message to the pump") from error
    if kind == wire.ABORT:
        return wire.Abort(number)
    if kind == wire.ASK:
        return wire.PumpRequest(number)
    raise InternalError(f"unknown kind of message to the pump: {kind}")


def encode_from_pump(message: wire.FromPump) -> bytes:
    """Encode a message of the pump as one packet for the broker."""
    match message:
        case wire.PumpReady():
            return wire.READY_FORM.pack(wire.READY, message.accelerated, message.pid)
        case wire.StreamDone():
            end = message.end
            return wire.DONE_FORM.pack(
                wire.DONE,
                wire.REASON_NUMBER[end.reason],
                wire.SIDE_NUMBER[end.side],
                wire.MODE_NUMBER[end.mode_ab],
                wire.MODE_NUMBER[end.mode_ba],
                end.errno,
                message.token,
                end.bytes_ab,
                end.bytes_ba,
            )
        case wire.Live():
            head = wire.LIVE_FORM.pack(
                wire.LIVE, message.last, len(message.streams), message.request
            )
            return head + b"".join(map(_pack_stream, message.streams))


def _pack_stream(stream: wire.StreamStatistics) -> bytes:
    return wire.STREAM_FORM.pack(
        stream.token,
        stream.bytes_ab,
        stream.bytes_ba,
        stream.held_ab,
        stream.held_ba,
        int(stream.age * 1000),
        int(stream.idle * 1000),
        wire.MODE_NUMBER[stream.mode_ab],
        wire.MODE_NUMBER[stream.mode_ba],
    )
