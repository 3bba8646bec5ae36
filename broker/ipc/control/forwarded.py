"""Calls of the control socket that another process of the broker answers.

The process with the control socket checks the envelope of a call and passes its
parameters on unread; the process that owns the method answers.  A frame is a JSON
object with its length before it (``framing``), and an order's signature between them.

An item of a call that has several answers waits until the one before it was taken,
so that a client that does not read holds up its call only, and no more than one
item of a call is in memory.

The process with the socket is the authority; host and viewer answer.  A session child
checks a call's signature by these forms.
"""

from __future__ import annotations

import msgspec

from broker.core import limits
from broker.core.decoding import Reader, reader
from broker.core.framing import encode_frame

FRAME_BYTES = limits.CONTROL_MESSAGE_BYTES + 4096
"""A message of the control socket, and the words around it."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """A client calls a method."""

    call: int
    method: str
    """With the interface."""
    parameters: msgspec.Raw
    more: bool
    pid: int
    """The client's, as the kernel reported it to the process with the socket."""
    uid: int
    at: float
    """CLOCK_MONOTONIC; the order is a warrant (``ipc.session.warrant``)."""


class CallItemTaken(msgspec.Struct, frozen=True, tag="taken"):
    """The client has received the item of a call: the next one may come."""

    call: int


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """The client of a call has gone.  ``Done`` is still to come."""

    call: int


class CallItem(msgspec.Struct, frozen=True, tag="item"):
    """One of several answers, but not the last."""

    call: int
    parameters: msgspec.Raw


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The last answer of a call."""

    call: int
    parameters: msgspec.Raw
    error: str = ""


Order = Begin | CallItemTaken | Cancel
Answer = CallItem | Done

_encode = msgspec.json.Encoder().encode


def encode_answer(answer: Answer) -> bytes:
    """Return the frame of an answer.  Raises ValueError beyond ``FRAME_BYTES``."""
    return encode_frame(_encode(answer), FRAME_BYTES)


decode_order: Reader[Order] = reader(
    msgspec.json.Decoder(Order), "invalid order of the control socket"
)
"""Return an order without its signature."""
