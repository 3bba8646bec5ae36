"""Bytes of messages on a wire, as a far end sends them that keeps no rule."""

from __future__ import annotations

import msgspec

from broker.wire.call_messages import (
    AnswerMessage,
    CallMessage,
    NoticeMessage,
    encode_message,
)
from broker.wire.row import Empty

DONE = Empty()
"""The answer of a call without a result."""


def body(value):
    return msgspec.Raw(msgspec.msgpack.encode(value))


def call_bytes(number, row, request=DONE):
    """A call of a row, or of any name."""
    name = row if isinstance(row, str) else row.name
    return encode_message(CallMessage(number, name, body(request)))


def notice_bytes(row, request):
    return encode_message(NoticeMessage(row.name, body(request)))


def answer_bytes(number, answer=DONE):

    return encode_message(AnswerMessage(number, body(answer)))
