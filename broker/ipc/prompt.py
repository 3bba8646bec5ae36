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
from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.errors import InternalError
from broker.core.question import PersonAnswer, Question


class Show(TypedMessage, frozen=True, tag="show"):
    """Ask a question; whatever is shown now goes.

    ``seconds``: time to answer, from when it is on the screen; ``yes_word``: the one
    that is typed as a yes.
    """

    id: int
    question: Question
    phrase: str
    seconds: float
    yes_word: str


class WithdrawQuestion(TypedMessage, frozen=True, tag="withdraw"):
    """Show nothing."""


class MoreQuestions(TypedMessage, frozen=True, tag="more"):
    """Show that ``behind`` further questions wait until this one is answered."""

    behind: int


class RaiseQuestion(TypedMessage, frozen=True, tag="raise"):
    """Bring the dialog to the front, by the compositor's activation token if not empty."""

    token: str


class PromptHello(TypedMessage, frozen=True, tag="hello"):
    """The agent is connected to the compositor; ``layer``: by layer-shell."""

    layer: bool


class Shown(TypedMessage, frozen=True, tag="shown"):
    """The compositor has shown that question."""

    id: int


class Covered(TypedMessage, frozen=True, tag="covered"):
    """A dialog that is an ordinary window is not, or is again, the active one."""

    id: int
    covered: bool


class PromptAnswer(TypedMessage, frozen=True, tag="said"):
    """The user has answered."""

    id: int
    answer: PersonAnswer


class Unable(TypedMessage, frozen=True, tag="unable"):
    """The agent cannot show anything (no compositor), and ends."""

    reason: str


class DescribedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row that can be chosen, in words."""

    words: str
    chosen: bool


class Described(TypedMessage, frozen=True, tag="described"):
    """The dialog on the screen, in words; without a title: none is shown."""

    title: str = ""
    lines: tuple[str, ...] = ()
    targets: tuple[DescribedRow, ...] = ()
    keeps: tuple[DescribedRow, ...] = ()
    hint: str = ""
    yes_word: str = ""
    """The word that is typed as a yes."""
    armed: bool = False


ToAgent: TypeAlias = Show | WithdrawQuestion | MoreQuestions | RaiseQuestion
FromAgent: TypeAlias = PromptHello | Shown | Covered | PromptAnswer | Unable

_encoder = msgspec.msgpack.Encoder()


def encode(message: ToAgent | FromAgent | Described) -> bytes:
    """Return a packet.  Raises InternalError beyond its limit."""
    packet = _encoder.encode(message)
    if len(packet) > limits.PROMPT_MESSAGE_BYTES:
        raise InternalError(f"a prompt message is too long: {len(packet)} bytes")
    return packet


decode_to_agent: Reader[ToAgent] = reader(
    msgspec.msgpack.Decoder(ToAgent), "the broker sent an invalid message"
)
"""Return what the broker says."""

decode_from_agent: Reader[FromAgent] = reader(
    msgspec.msgpack.Decoder(FromAgent), "the prompt agent sent an invalid message"
)
"""Return what the agent says."""

decode_described: Reader[Described] = reader(
    msgspec.msgpack.Decoder(Described), "the prompt agent sent an invalid message"
)
"""Return what the agent shows."""
