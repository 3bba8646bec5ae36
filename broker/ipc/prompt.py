"""Messages of the prompt agent: one value in one packet.

The agent is ours and trusted, and still asked only for facts that it can know: which
question was answered, and how.  The broker checks each answer against the choices it
offered.  They speak over a pair of sockets that has no name anywhere, so
no other process can connect.

What a screen reader reads goes from the agent to a process that offers it on the
accessibility bus, over a pair of sockets of which the agent's end never reads.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from broker.core import limits
from broker.core.decoding import UNREADABLE
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
    """The user has answered."""

    id: int
    answer: PersonAnswer


class Unable(_Message, frozen=True, tag="unable"):
    """The agent cannot show anything (no compositor), and ends."""

    reason: str


class DescribedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row that can be chosen, in words."""

    words: str
    chosen: bool


class Described(_Message, frozen=True, tag="described"):
    """The dialog on the screen, in words; without a title: none is shown."""

    title: str = ""
    lines: tuple[str, ...] = ()
    targets: tuple[DescribedRow, ...] = ()
    keeps: tuple[DescribedRow, ...] = ()
    hint: str = ""
    armed: bool = False


ToAgent: TypeAlias = Show | WithdrawQuestion
FromAgent: TypeAlias = PromptHello | Shown | PromptAnswer | Unable

_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_described: msgspec.msgpack.Decoder[Described] = msgspec.msgpack.Decoder(Described)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToAgent | FromAgent | Described) -> bytes:
    """Return a packet.  Raises InternalError beyond its limit."""
    packet = _encoder.encode(message)
    if len(packet) > limits.PROMPT_MESSAGE_BYTES:
        raise InternalError(f"a message of {len(packet)} bytes to the prompt agent")
    return packet


def decode_to_agent(packet: bytes) -> ToAgent:
    """Return what the broker says.  Raises PeerError."""
    try:
        return _to_agent.decode(packet)
    except UNREADABLE as error:
        raise PeerError(f"the broker's words are not understood: {error}") from error


def decode_from_agent(packet: bytes) -> FromAgent:
    """Return what the agent says.  Raises PeerError."""
    try:
        return _from_agent.decode(packet)
    except UNREADABLE as error:
        raise PeerError(f"the agent's words are not understood: {error}") from error


def decode_described(packet: bytes) -> Described:
    """Return what the agent shows.  Raises PeerError."""
    try:
        return _described.decode(packet)
    except UNREADABLE as error:
        raise PeerError(f"the agent's words are not understood: {error}") from error
