"""Answers of a broker, as brokerctl reads them: values, or errors to raise.

The authority runs the decoder, too, for an answer that another process of the broker
makes.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from broker.core.errors import InternalError, PeerError, UpstreamError, VitrailError
from broker.ipc.control.types.base import INTERFACE
from broker.ipc.control.varlink import (
    BAD_JSON,
    OF_FAULT,
    ErrorParameters,
    VarlinkReply,
    decode_reply,
)
from broker.wire.faults import from_fault

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def unreadable_answer(error: Exception) -> UpstreamError:
    """Return the error of an answer that no broker of this version gives."""
    return UpstreamError(
        f"cannot decode the broker's answer: {error}",
        hint="check that brokerctl and the running broker have the same version; to end the program that answered, run 'brokerctl stop --broker --force'",
    )


def reply_in(message: bytes) -> VarlinkReply:
    """Return the reply in a broker's message.  Raises UpstreamError if it is invalid."""
    try:
        return decode_reply(message)
    except PeerError as error:
        raise unreadable_answer(error) from error


def answer_in(reply: VarlinkReply, into: type[_Struct]) -> _Struct:
    """Return the answer or item in a reply.  Raises the error that it carries."""
    if reply.error:
        raise error_of(reply)
    try:
        return msgspec.json.decode(reply.parameters, type=into)
    except BAD_JSON as error:
        raise unreadable_answer(error) from error


def error_of(reply: VarlinkReply) -> VitrailError:
    """Return the error that the broker's reply carries, for brokerctl to raise."""
    if not reply.error.startswith(f"{INTERFACE}."):
        detail = bytes(reply.parameters).decode("utf-8", "backslashreplace")
        return InternalError(
            f"the broker does not support this call: {reply.error} {detail}",
            hint="check that brokerctl and the running broker have the same version; to stop an old broker, run 'brokerctl stop --broker'",
        )
    try:
        told = msgspec.json.decode(reply.parameters, type=ErrorParameters)
    except BAD_JSON:
        told = ErrorParameters(message=reply.error)
    fault = next((f for f, n in OF_FAULT.items() if n == reply.error), told.fault)
    return from_fault(fault, told.message, told.hint, told.where)
