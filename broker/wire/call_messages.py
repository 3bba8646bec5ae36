"""The messages on a wire: what a call, its items and its answer look like as bytes.

Each is one msgpack array, whose first value tells them apart.  The bodies are encoded by
the types of the row (``row.Row``) and stay bytes here.

Every process of the broker imports this.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import PackedMessage, Reader, reader
from broker.core.errors import VitrailError
from broker.wire.faults import fault_of, from_fault

_LAST_NUMBER = (1 << 53) - 1
_ERROR_CHARACTERS = 4000
_CallNumber = Annotated[int, msgspec.Meta(ge=1, le=_LAST_NUMBER)]
_RowName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Text = Annotated[str, msgspec.Meta(max_length=_ERROR_CHARACTERS)]
_Fault = Annotated[str, msgspec.Meta(max_length=32)]


class CallMessage(PackedMessage, frozen=True, tag=1):
    """A call begins."""

    call: _CallNumber
    """Counted by the caller, upwards."""
    row: _RowName
    body: msgspec.Raw
    warrant: bytes = b""
    """What the authority has signed; empty: the row needs nothing."""


class NoticeMessage(PackedMessage, frozen=True, tag=2):
    """A request that has no answer."""

    row: _RowName
    body: msgspec.Raw


class ItemMessage(PackedMessage, frozen=True, tag=3):
    """One of several results of a call, before its answer."""

    call: _CallNumber
    body: msgspec.Raw


class TakenMessage(PackedMessage, frozen=True, tag=4):
    """The caller has taken an item of a paced row: the next one may come."""

    call: _CallNumber


class AnswerMessage(PackedMessage, frozen=True, tag=5):
    """The answer of a call."""

    call: _CallNumber
    body: msgspec.Raw


class ErrorMessage(PackedMessage, frozen=True, tag=6):
    """The error of a call: an answer, too."""

    call: _CallNumber
    fault: _Fault
    """The error's kind (``faults``)."""
    message: _Text
    hint: _Text = ""
    where: _Text = ""

    @classmethod
    def of(cls, call: int, error: VitrailError) -> ErrorMessage:
        """Return an error as the answer of a call."""
        return cls(
            call,
            fault_of(error),
            error.message[:_ERROR_CHARACTERS],
            error.hint[:_ERROR_CHARACTERS],
            error.where[:_ERROR_CHARACTERS],
        )

    def error(self) -> VitrailError:
        """Return the error, to be raised by the caller."""
        return from_fault(self.fault, self.message, self.hint, self.where)


class ErrorReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error in a request, whole: it is shown as if there were one process."""

    kind: str
    message: str
    hint: str = ""
    where: str = ""

    @classmethod
    def of(cls, error: VitrailError) -> ErrorReport:
        """Return an error for a message."""
        return cls(fault_of(error), error.message, error.hint, error.where)

    def error(self) -> VitrailError:
        """Return the error, to be raised."""
        return from_fault(self.kind, self.message, self.hint, self.where)


class CancelMessage(PackedMessage, frozen=True, tag=7):
    """The caller waits no more: the call is given up, and still answered."""

    call: _CallNumber


class PingMessage(PackedMessage, frozen=True, tag=8):
    """A request for a sign of life."""


class PongMessage(PackedMessage, frozen=True, tag=9):
    """The answer to a ping."""


WireMessage: TypeAlias = (
    CallMessage
    | NoticeMessage
    | ItemMessage
    | TakenMessage
    | AnswerMessage
    | ErrorMessage
    | CancelMessage
    | PingMessage
    | PongMessage
)

encode_message = msgspec.msgpack.Encoder().encode
"""Return the bytes of a message."""

decode_message: Reader[WireMessage] = reader(
    msgspec.msgpack.Decoder(WireMessage), "it sent bytes that are no message"
)
"""Return the message of these bytes.  Raises PeerError."""
