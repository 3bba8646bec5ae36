"""Calls of the control socket that another process of the broker answers.

The process with the control socket checks the envelope of a call and passes its
parameters on unread; the process that owns the method answers.  A frame is a JSON
object with its length before it (``framing``).

An item of a call that has several answers waits until the one before it was taken,
so that a client that does not read holds up its own call only, and no more than one
item of a call is in memory.

``Calls`` is the end of the process with the control socket, sans-IO.  The owner may
have been taken over: an answer to nothing, two answers, or an item that nobody asked
for ends the channel, and an answer is one JSON value.  (A NUL byte in it would end its
message at the client, and begin another one in the name of the broker: the decoder
accepts none.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError, RefusedError
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
_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode(message: Order | Answer) -> bytes:
    """Return the frame of a message.  Raises ValueError beyond ``FRAME_BYTES``."""
    return encode_frame(_encode(message), FRAME_BYTES)


def decode_order(frame: bytes) -> Order:
    """Return the order in a frame.  Raises PeerError."""
    try:
        return _orders.decode(frame)
    except UNREADABLE as error:
        raise PeerError(f"not an order of the control socket: {error}") from error


class Calls:
    """The calls that one process has to answer."""

    def __init__(self, owner: str, send: Callable[[bytes], None]) -> None:
        """``send`` takes frames and never waits; ``owner`` is for messages."""
        self._owner = owner
        self._send = send
        self._numbers = itertools.count(1)
        self._open: dict[int, bool] = {}
        """Each call, and whether an item may come."""

    def begin(
        self,
        method: str,
        parameters: msgspec.Raw,
        *,
        more: bool,
        caller: tuple[int, int],
    ) -> int:
        """Pass a call on, and return its number; ``caller`` is a pid and a uid.

        Raises RefusedError when too many wait for this process.
        """
        # guard: a process that does not answer leaves room for others' clients
        if len(self._open) >= limits.CONTROL_FORWARDED:
            raise RefusedError(
                f"{limits.CONTROL_FORWARDED} calls wait for the {self._owner}",
                hint="'brokerctl status' shows whether it runs",
            )
        number = next(self._numbers)
        pid, uid = caller
        self._send(encode(Begin(number, method, parameters, more, pid, uid)))
        self._open[number] = more
        return number

    def taken(self, number: int) -> None:
        """Ask for the next item of a call."""
        if number in self._open:
            self._open[number] = True
            self._send(encode(CallItemTaken(number)))

    def cancel(self, number: int) -> None:
        """Pass on that the client has gone; the call stays until it is done."""
        if number in self._open:
            self._send(encode(Cancel(number)))

    def receive(self, untrusted_frame: bytes) -> Answer:
        """Return the answer or item in a frame.

        Raises PeerError for what answers no call, or cannot be passed on.
        """
        try:
            answer = _answers.decode(untrusted_frame)
        except UNREADABLE as error:
            raise PeerError(f"the {self._owner} sent no answer: {error}") from error
        # guard: a process answers the calls that it was passed, once
        if answer.call not in self._open:
            raise PeerError(f"the {self._owner} answered call {answer.call}: no such")
        if isinstance(answer, Done):
            del self._open[answer.call]
            return answer
        # guard: items come as they are taken
        if not self._open[answer.call]:
            raise PeerError(f"the {self._owner} sent an item that was not asked for")
        self._open[answer.call] = False
        return answer
