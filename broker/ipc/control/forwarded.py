"""Calls of the control socket that another process of the broker answers.

The process with the control socket checks the envelope of a call and passes its
parameters on unread; the process that owns the method answers.  Parameters and answers
are JSON, as the client sends and receives them.

The process with the socket is the authority; host and viewer answer.  A session child
checks a call's signature by these forms.
"""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.decoding import UNREADABLE, Reader, reader
from broker.ipc.session.warrant import SIGNATURE_BYTES
from broker.wire.row import ProcessKind, Row, rows_of

_AUTHORITY: Final = frozenset({ProcessKind.AUTHORITY})
_OWNERS: Final = frozenset({ProcessKind.HOST, ProcessKind.VIEWER})
_json = msgspec.json.Decoder(msgspec.Raw)


class CallWarrant(msgspec.Struct, frozen=True, tag="begin"):
    """A call of a client, as the authority signs it (``ipc.session.warrant``)."""

    method: str
    """With the interface."""
    parameters: msgspec.Raw
    more: bool
    pid: int
    """The client's process, as the kernel reported it to the process with the socket."""
    uid: int
    at: float
    """CLOCK_MONOTONIC, when it was signed."""


class ForwardedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer a call of brokerctl."""

    signed: bytes
    """The signature, and a ``CallWarrant`` as JSON."""


class ForwardedItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several answers, but not the last."""

    parameters: bytes

    def __post_init__(self) -> None:
        """Refuse what is not one JSON value.  Raises ValueError."""
        # A NUL byte would end its message at the client, and begin another one in the
        # name of the broker: JSON has none.
        try:
            _json.decode(self.parameters)
        except UNREADABLE as error:
            # guard: an answer of another process is one message to the client
            raise ValueError(f"it is not one JSON value: {error}") from error


class ForwardedReply(ForwardedItem, frozen=True, forbid_unknown_fields=True):
    """The last answer of a call."""

    error: str = ""


FORWARDED_CALL: Final = Row(
    "ForwardedCall", ForwardedCall, ForwardedReply, _OWNERS, _AUTHORITY, droppable=True
)
FORWARDED_CALL_WITH_ITEMS: Final = Row(
    "ForwardedCallWithItems",
    ForwardedCall,
    ForwardedReply,
    _OWNERS,
    _AUTHORITY,
    item=ForwardedItem,
    paced=True,
    droppable=True,
)
"""Answer a call of a client that takes several answers, one at a time."""
FORWARDED_ROWS: Final = rows_of(globals())


_decode: Reader[CallWarrant] = reader(
    msgspec.json.Decoder(CallWarrant), "invalid call of the control socket"
)


def call_of(request: ForwardedCall) -> CallWarrant:
    """Return a call without its signature.  Raises PeerError."""
    return _decode(request.signed[SIGNATURE_BYTES:])
