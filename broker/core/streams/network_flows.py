"""Messages between a sandbox's frame filter and the viewer, which has flows decided.

The filter reads the guest's packets and is jailed; its statements about them are claims
about its sandbox.  It asks for each destination once, and carries flows to it while
the answer holds.  Frames are as ``core.framing`` has them, in a pair of stream sockets.

The process of the filter is the packet guard, which the host starts.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import PackedMessage, Reader, reader
from broker.core.framing import encode_frame

MESSAGE_BYTES = 1024
"""The longest message has a host's name of 253 characters."""
MOVED = 32
"""Flows in one report of bytes; each has 28 bytes at most."""


class AskFlow(PackedMessage, frozen=True, tag=1):
    """Ask whether flows may go there; ``protocol`` ``dns``: for its addresses.

    ``number`` counts up.  Answered by FlowAnswer, at any time.
    """

    number: int
    host: str
    protocol: str
    port: int | None


class FlowRelease(PackedMessage, frozen=True, tag=2):
    """No flow of this answer is left, and it is not needed any more."""

    number: int


class FlowBegun(PackedMessage, frozen=True, tag=3):
    """A flow, by the answer ``number``, to this address."""

    flow: int
    number: int
    address: str


class FlowEnded(PackedMessage, frozen=True, tag=4):
    """A flow's end, and the bytes of its packets each way."""

    flow: int
    sent: int
    received: int
    reason: str


class FlowsMoved(PackedMessage, frozen=True, tag=5):
    """Flows that have moved bytes since the last report.

    Each as ``(flow, sent, received)``: bytes of its packets each way until now.
    """

    counts: Annotated[list[tuple[int, int, int]], msgspec.Meta(max_length=MOVED)]


class FlowAnswer(PackedMessage, frozen=True, tag=16):
    """The answer; an allow holds until FlowCut."""

    number: int
    allowed: bool


class FlowCut(PackedMessage, frozen=True, tag=17):
    """The answer holds no longer: end its flows."""

    number: int


class FlowLimits(PackedMessage, frozen=True, tag=18):
    """What the sandbox's record allows to its flows; the first message, and any later.

    Counts are of open flows, and of new flows and questions for addresses a second;
    rates are bytes a second each way, None: without a limit.
    """

    flows: int
    new_flows: int
    lookups: int
    send_rate: int | None
    receive_rate: int | None
    encrypted_hello: bool
    """Whether a hello may have an encrypted part."""


FromFilter: TypeAlias = AskFlow | FlowRelease | FlowBegun | FlowEnded | FlowsMoved
ToFilter: TypeAlias = FlowAnswer | FlowCut | FlowLimits

_encoder = msgspec.msgpack.Encoder()


def encode(message: FromFilter | ToFilter) -> bytes:
    """Return the frame of a message."""
    return encode_frame(_encoder.encode(message), MESSAGE_BYTES)


decode_from_filter: Reader[FromFilter] = reader(
    msgspec.msgpack.Decoder(FromFilter), "cannot decode the message"
)
"""Return a filter's message."""

decode_to_filter: Reader[ToFilter] = reader(
    msgspec.msgpack.Decoder(ToFilter), "cannot decode the message"
)
"""Return the viewer's message."""
