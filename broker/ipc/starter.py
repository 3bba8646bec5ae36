"""Messages between an authority and its starter, the process that starts its helpers.

The authority is confined and cannot execute a program.  Its starter can start
the programs of ``HelperProgram`` and no other: a request names one of them and has no
path, no option and no variable.

One msgpack value in one packet of a SEQPACKET socket (``ipc.fdpass``), one answer
for each request.  The descriptors of a request are the helper's.  Those of ``HelperStarted``
are the helper's pidfd, and a pipe into which the starter writes how it ended
(``END``); a pipe that ends without that says that the starter died first.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError

MESSAGE_BYTES = 16384
DESCRIPTORS = 2
"""Most descriptors of a message."""
END = struct.Struct("<i")
"""How a helper ended: its exit code, or minus the signal's number."""

_Line = Annotated[str, msgspec.Meta(max_length=4000)]
_Seconds = Annotated[int, msgspec.Meta(ge=1, le=60)]


class HelperProgram(enum.StrEnum):
    """The programs that an authority needs, with the descriptors of a request."""

    PROMPT = "prompt"
    """Its socket to the authority, its end of the pair to ``ACCESSIBLE``."""
    ACCESSIBLE = "accessible"
    """Its end of that pair."""
    SHIPPER = "shipper"


class _Message(
    msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True
):
    pass


class StartHelper(_Message, frozen=True, tag="start"):
    """Start one of our programs."""

    program: HelperProgram


class ShowNotification(_Message, frozen=True, tag="notify"):
    """Show a notification by notify-send(1); ``body`` is markup, ``title`` text."""

    title: _Line
    body: _Line
    seconds: _Seconds


Request: TypeAlias = StartHelper | ShowNotification


class HelperStarted(_Message, frozen=True, tag="started"):
    """It runs."""

    pid: Annotated[int, msgspec.Meta(ge=1)]


class HelperNotStarted(_Message, frozen=True, tag="not-started"):
    """It does not; ``missing``: because it is not installed."""

    reason: _Line
    hint: _Line = ""
    missing: bool = False


Answer: TypeAlias = HelperStarted | HelperNotStarted

_encoder = msgspec.msgpack.Encoder()
_request: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answer: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Return the packet of a message."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    """Return the request of a packet.  Raises PeerError for any other."""
    try:
        return _request.decode(data)
    except UNREADABLE as error:
        raise PeerError(f"not a request to start a helper: {error}") from error


def decode_answer(data: bytes) -> Answer:
    """Return the answer of a packet.  Raises PeerError for any other."""
    try:
        return _answer.decode(data)
    except UNREADABLE as error:
        raise PeerError(f"not a starter's answer: {error}") from error
