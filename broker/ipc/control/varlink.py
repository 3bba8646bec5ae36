"""Varlink on the wire, without the wire.

A message is a JSON object and a NUL byte.  Sans-IO: feed bytes, take
messages; chunking never changes the result.  A message that is too long or
that is none raises once, and the connection is of no use after that.
(Reference: varlink.org, "Protocol" and "Service".)

The authority and brokerctl run it at the two ends of the control socket; the host, to
talk with systemd-machined.
"""

from __future__ import annotations

import os
import re
from types import MappingProxyType
from typing import TypeVar

import msgspec

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import InternalError, PeerError, RefusedError, VitrailError
from broker.core.escape import printable
from broker.ipc.control.types.base import INTERFACE
from broker.wire.faults import fault_of

SERVICE = "org.varlink.service"


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """A method call."""

    method: str
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    oneway: bool = False
    more: bool = False
    upgrade: bool = False


class VarlinkReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer; ``error`` is empty unless it is an error."""

    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    continues: bool = False
    error: str = ""


class VarlinkError(Exception):
    """An error of the protocol itself, as the specification names it."""

    def __init__(self, name: str, **parameters: str) -> None:
        super().__init__(name, parameters)
        self.name = f"{SERVICE}.{name}"
        self.parameters = parameters


class VarlinkReader:
    """Splits a byte stream into messages of at most ``limit`` bytes each."""

    def __init__(self, limit: int = limits.CONTROL_MESSAGE_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._seen = 0  # bytes of the buffer that are known to hold no NUL

    def feed(self, untrusted_data: bytes) -> list[bytes]:
        """Return the messages completed by this data, oldest first.

        Raises PeerError beyond the limit; messages before it are lost with
        the connection.
        """
        self._buffer += untrusted_data
        messages: list[bytes] = []
        start = 0
        while (end := self._buffer.find(0, max(start, self._seen))) >= 0:
            self._check(end - start)
            messages.append(bytes(self._buffer[start:end]))
            start = end + 1
        del self._buffer[:start]
        self._seen = len(self._buffer)
        self._check(self._seen)
        return messages

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise PeerError(f"a control message is longer than {self._limit} bytes")


_calls = msgspec.json.Decoder(Call)
_replies = msgspec.json.Decoder(VarlinkReply)
_encoder = msgspec.json.Encoder()
# The errors of msgspec for bytes that are not the expected JSON.
BAD_JSON = UNREADABLE
_CALL_BYTES = 1024
"""Room for what surrounds the parameters of a call."""


def decode_call(untrusted_message: bytes) -> Call:
    """Return the call in a message.  Raises PeerError if it is not a call."""
    try:
        return _calls.decode(untrusted_message)
    except BAD_JSON as error:
        raise PeerError(f"invalid varlink call: {error}") from error


def decode_reply(message: bytes) -> VarlinkReply:
    """Return the reply in a message.  Raises PeerError if it is not a reply."""
    try:
        return _replies.decode(message)
    except BAD_JSON as error:
        raise PeerError(f"invalid varlink reply: {error}") from error


def encode(message: Call | VarlinkReply) -> bytes:
    """Return the message with its NUL byte.

    Raises InternalError beyond ``limits.CONTROL_MESSAGE_BYTES``.
    """
    body = _encoder.encode(message)
    if len(body) > limits.CONTROL_MESSAGE_BYTES:
        raise InternalError(f"the control message is too long: {len(body)} bytes")
    return body + b"\0"


def request(method: str, parameters: msgspec.Struct, *, more: bool) -> bytes:
    """Encode a call of our interface, without its NUL byte.

    Raises RefusedError for words of the user's that are not UTF-8, or have more than
    ``limits.CONTROL_MESSAGE_BYTES``.
    """
    try:
        call = Call(f"{INTERFACE}.{method}", raw(parameters), more=more)
    except UnicodeEncodeError as error:
        text = printable(os.fsencode(error.object), 200)
        raise RefusedError(
            f"{text} is not UTF-8 text",
            hint="rename the file, or give the text in UTF-8",
        ) from error
    if len(call.parameters) > limits.CONTROL_MESSAGE_BYTES - _CALL_BYTES:
        raise RefusedError(
            f"the request has {len(call.parameters)} bytes, more than the broker takes",
            hint="put long text into a file, and name the file",
        )
    return encode(call)[:-1]


def raw(value: object) -> msgspec.Raw:
    """Return a value as parameters of a message."""
    return msgspec.Raw(_encoder.encode(value))


# How msgspec names the place: "... - at `$.grace`", "... field `color`".
_PLACE = re.compile(r"`\$\.([A-Za-z0-9_]+)|field `([^`]+)`")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def decode_parameters(parameters: msgspec.Raw, into: type[_Struct]) -> _Struct:
    """Return a call's parameters in their type.

    Raises VarlinkError InvalidParameter with the parameter's name.
    """
    try:
        return msgspec.json.decode(parameters, type=into)
    except BAD_JSON as error:
        place = _PLACE.search(str(error))
        name = (place[1] or place[2]) if place else "parameters"
        raise VarlinkError("InvalidParameter", parameter=name) from error


# -- errors ------------------------------------------------------------------------

REFUSED = f"{INTERFACE}.Refused"
NOT_FOUND = f"{INTERFACE}.NotFound"
FAILED = f"{INTERFACE}.Failed"


class ErrorParameters(msgspec.Struct, frozen=True):
    """Parameters of every error of our interface."""

    message: str = ""
    hint: str = ""
    where: str = ""
    fault: str = ""
    """Only with Failed: ``setup``, ``upstream``, ``peer`` or ``internal``."""


OF_FAULT = MappingProxyType(
    {"not found": NOT_FOUND, "refused": REFUSED, "held": REFUSED}
)
"""Errors of our interface whose name says the fault; the rest is Failed."""


def error_reply(problem: VitrailError | VarlinkError) -> VarlinkReply:
    """Convert an error of ours to the varlink reply that carries it."""
    if isinstance(problem, VarlinkError):
        return VarlinkReply(error=problem.name, parameters=raw(problem.parameters))
    fault = fault_of(problem)
    name = OF_FAULT.get(fault, FAILED)
    told = ErrorParameters(
        _text(problem.message),
        _text(problem.hint),
        _text(problem.where),
        fault if name == FAILED else "",
    )
    return VarlinkReply(error=name, parameters=raw(told))


def _text(words: str) -> str:
    """Without lone surrogates, as in a path that is no UTF-8: JSON has none."""
    return words.encode("utf-8", "backslashreplace").decode()
