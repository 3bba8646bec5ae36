"""Varlink as a client of our interface has it: calls out, answers or errors in."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from broker.core.errors import InternalError, RefusedError, VitrailError
from broker.ipc.control.types.base import INTERFACE, NotFoundError
from broker.ipc.control.varlink import (
    BAD_JSON,
    FAULTS,
    NOT_FOUND,
    REFUSED,
    Call,
    ErrorParameters,
    VarlinkReply,
    encode,
    raw,
)

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def request(method: str, parameters: msgspec.Struct, *, more: bool) -> bytes:
    """Return a call of our interface, without its NUL byte.

    Raises InternalError beyond ``limits.CONTROL_MESSAGE_BYTES``.
    """
    call = Call(f"{INTERFACE}.{method}", raw(parameters), more=more)
    return encode(call)[:-1]


def answer_in(reply: VarlinkReply, into: type[_Struct]) -> _Struct:
    """Return the answer or item in a reply.  Raises the error that it carries."""
    if reply.error:
        raise error_of(reply)
    try:
        return msgspec.json.decode(reply.parameters, type=into)
    except BAD_JSON as error:
        raise InternalError(
            f"the broker's answer is not understood: {error}",
            hint="are brokerctl and the running broker of one version?",
        ) from error


def error_of(reply: VarlinkReply) -> VitrailError:
    """Return the error that a reply carries, to be raised by a client."""
    if not reply.error.startswith(f"{INTERFACE}."):
        detail = bytes(reply.parameters).decode("utf-8", "backslashreplace")
        return InternalError(
            f"the broker does not understand: {reply.error} {detail}",
            hint="are brokerctl and the running broker of one version? "
            "('brokerctl stop --broker' ends the old one)",
        )
    try:
        told = msgspec.json.decode(reply.parameters, type=ErrorParameters)
    except BAD_JSON:
        told = ErrorParameters(message=reply.error)
    kind: type[VitrailError] = FAULTS.get(told.fault, InternalError)
    if reply.error == NOT_FOUND:
        kind = NotFoundError
    elif reply.error == REFUSED:
        kind = RefusedError
    return kind(told.message, hint=told.hint, where=told.where)
