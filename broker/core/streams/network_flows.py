"""Messages between a sandbox's frame filter and the viewer, which has flows decided.

The filter reads the guest's packets and is jailed; its statements about them are claims
about its sandbox.  It asks for each destination once, and carries flows to it while
the answer holds.  Frames are as ``core.framing`` has them, in a pair of stream sockets.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError
from broker.core.framing import encode_frame

MESSAGE_BYTES = 1024
"""The longest message has a host's name of 253 characters."""
MOVED = 32
"""Flows in one report of bytes; each has 28 bytes at most."""


class _Message(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag_field="type",
    forbid_unknown_fields=True,
):
    pass


class AskFlow(_Message, frozen=True, tag=1):
    """Ask whether flows may go there; ``protocol`` ``dns``: for its addresses.

    ``number`` counts up.  Answered by FlowAnswer, at any time.
    """

    number: int
    host: str
    protocol: str
    port: int | None


class FlowRelease(_Message, frozen=True, tag=2):
    """No flow of this answer is left, and it is not needed any more."""

    number: int


class FlowBegun(_Message, frozen=True, tag=3):
    """A flow, by the answer ``number``, to this address."""

    flow: int
    number: int
    address: str


class FlowEnded(_Message, frozen=True, tag=4):
    """A flow's end, and the bytes of its packets each way."""

    flow: int
    sent: int
    received: int
    reason: str


class FlowsMoved(_Message, frozen=True, tag=5):
    """Flows that have moved bytes since the last report.

    Each as ``(flow, sent, received)``: bytes of its packets each way until now.
    """

    counts: Annotated[list[tuple[int, int, int]], msgspec.Meta(max_length=MOVED)]


class FlowAnswer(_Message, frozen=True, tag=16):
    """The answer; an allow holds until FlowCut."""

    number: int
    allowed: bool


class FlowCut(_Message, frozen=True, tag=17):
    """The answer holds no longer: end its flows."""

    number: int


class FlowLimits(_Message, frozen=True, tag=18):
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
_from_filter: msgspec.msgpack.Decoder[FromFilter] = msgspec.msgpack.Decoder(FromFilter)
_to_filter: msgspec.msgpack.Decoder[ToFilter] = msgspec.msgpack.Decoder(ToFilter)


def encode(message: FromFilter | ToFilter) -> bytes:
    """Return the frame of a message."""
    return encode_frame(_encoder.encode(message), MESSAGE_BYTES)


def decode_from_filter(untrusted_body: bytes) -> FromFilter:
    """Return a filter's message.  Raises PeerError."""
    try:
        return _from_filter.decode(untrusted_body)
    except UNREADABLE as error:
        raise PeerError(f"a message that cannot be read: {error}") from error


def decode_to_filter(body: bytes) -> ToFilter:
    """Return the viewer's message.  Raises PeerError."""
    try:
        return _to_filter.decode(body)
    except UNREADABLE as error:
        raise PeerError(f"a message that cannot be read: {error}") from error
