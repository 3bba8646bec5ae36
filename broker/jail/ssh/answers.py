"""Answers that a sandbox's ssh programs get, as an agent writes them."""

from __future__ import annotations

from broker.core import ssh_agent as wire
from broker.core.ssh_agent import (
    AgentAnswer,
    KeyDone,
    KeyList,
    KeyRefused,
    SignatureMade,
    string,
)

FAILED = string(bytes([wire.FAILURE]))


def encode_answer(answer: AgentAnswer) -> bytes:
    """Encode an answer as a frame of the ssh agent's protocol."""
    match answer:
        case KeyList(keys):
            listed = b"".join(
                string(one.key) + string(one.comment.encode()) for one in keys
            )
            head = bytes([wire.LIST_ANSWER]) + len(keys).to_bytes(4, "big")
            return string(head + listed)
        case SignatureMade(signature):
            return string(bytes([wire.SIGN_ANSWER]) + string(signature))
        case KeyDone():
            return string(bytes([wire.SUCCESS]))
        case KeyRefused():
            return FAILED
