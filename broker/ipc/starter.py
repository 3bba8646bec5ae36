"""Messages between an authority and its starter, the process that starts its helpers.

The authority is confined and cannot execute a program.  Its starter can start
the programs of ``HelperProgram`` and no other: a request names one of them and has no
path, no option and no variable.

One msgpack value in one packet of a SEQPACKET socket (``wire.fdpass``), one answer
for each request.  The descriptors of a request are the helper's.  Those of ``HelperStarted``
are the helper's pidfd, and a pipe into which the starter writes how it ended
(``END``); a pipe that ends without that says that the starter died first.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.ipc.session.warrant import KEY_BYTES

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


class StartHelper(TypedMessage, frozen=True, tag="start"):
    """Start our program."""

    program: HelperProgram


class ShowNotification(TypedMessage, frozen=True, tag="notify"):
    """Show a notification by notify-send(1); ``body`` is markup, ``title`` text."""

    title: _Line
    body: _Line
    seconds: _Seconds


class WarrantKey(TypedMessage, frozen=True, tag="key"):
    """The key of the authority's warrants (``ipc.session.warrant``).  Has no answer."""

    key: Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


Request: TypeAlias = StartHelper | ShowNotification | WarrantKey


class HelperStarted(TypedMessage, frozen=True, tag="started"):
    """It runs."""

    pid: Annotated[int, msgspec.Meta(ge=1)]


class HelperNotStarted(TypedMessage, frozen=True, tag="not-started"):
    """It does not; ``missing``: because it is not installed."""

    reason: _Line
    hint: _Line = ""
    missing: bool = False


Answer: TypeAlias = HelperStarted | HelperNotStarted

_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Answer) -> bytes:
    """Return the packet of a message."""
    return _encoder.encode(message)


decode_request: Reader[Request] = reader(
    msgspec.msgpack.Decoder(Request), "invalid request to start a helper"
)
"""Return the request of a packet."""

decode_answer: Reader[Answer] = reader(
    msgspec.msgpack.Decoder(Answer), "the starter sent an invalid answer"
)
"""Return the answer of a packet."""
