"""Messages between broker and prompt agent: one value in one packet.

The agent is ours and trusted, and still asked only for facts that it can know: which
question was answered, and how.  The broker checks each answer against the choices it
offered.  They speak over a pair of sockets that has no name anywhere, so
no other process can connect.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from broker.core import limits
from broker.core.errors import InternalError, PeerError
from broker.core.question import PersonAnswer, Question


class _Message(
    msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True
):
    pass


class Show(_Message, frozen=True, tag="show"):
    """Ask this; whatever is shown now goes.  ``seconds``: time left to answer."""

    id: int
    question: Question
    phrase: str
    seconds: float


class WithdrawQuestion(_Message, frozen=True, tag="withdraw"):
    """Show nothing."""


class PromptHello(_Message, frozen=True, tag="hello"):
    """The agent is connected to the compositor; ``layer``: by layer-shell."""

    layer: bool


class Shown(_Message, frozen=True, tag="shown"):
    """The compositor has shown that question."""

    id: int


class PromptAnswer(_Message, frozen=True, tag="said"):
    """The person has answered."""

    id: int
    answer: PersonAnswer


class Unable(_Message, frozen=True, tag="unable"):
    """The agent cannot show anything (no compositor), and ends."""

    reason: str


ToAgent: TypeAlias = Show | WithdrawQuestion
FromAgent: TypeAlias = PromptHello | Shown | PromptAnswer | Unable

_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToAgent | FromAgent) -> bytes:
    """Return a packet.  Raises InternalError beyond its limit."""
    packet = _encoder.encode(message)
    if len(packet) > limits.PROMPT_MESSAGE_BYTES:
        raise InternalError(f"a message of {len(packet)} bytes to the prompt agent")
    return packet


def decode_to_agent(packet: bytes) -> ToAgent:
    """Return what the broker says.  Raises PeerError."""
    try:
        return _to_agent.decode(packet)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError(f"the broker's words are not understood: {error}") from error


def decode_from_agent(packet: bytes) -> FromAgent:
    """Return what the agent says.  Raises PeerError."""
    try:
        return _from_agent.decode(packet)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError(f"the agent's words are not understood: {error}") from error
