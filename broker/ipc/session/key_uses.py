"""Messages about the uses of a security key, by the socket of ``OpenSecurityKey``.

Its process asks, a session child passes that on, and the viewer answers: JSON, one
message in a packet.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from broker.core.decoding import Reader, reader
from broker.core.services import SECURITY_KEY
from broker.wire.row import NeededPermit

USE_BYTES = 1024
"""Of a message of the process."""
ANSWER_BYTES = 8192
"""Of an answer, with its warrant."""
KEY_USE = NeededPermit(frozenset({SECURITY_KEY}))
PIN_ENTRY = NeededPermit(frozenset({SECURITY_KEY}), precedes_uses=True)
"""The permits that answers have to bring."""


class KeyUse(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A message of the process, which its guest may have taken over."""

    ask: Annotated[int, msgspec.Meta(ge=1)] = 0
    what: Annotated[str, msgspec.Meta(max_length=20)] = ""
    host: Annotated[str, msgspec.Meta(max_length=253)] = ""
    digest: Annotated[str, msgspec.Meta(max_length=64)] = ""
    over: Annotated[int, msgspec.Meta(ge=1)] = 0
    right: bool = False


class KeyAnswer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The viewer's answer to the request of this number.

    ``warrant``: of the permit for this use; the process does not get it.
    """

    verdict: int
    allow: bool
    warrant: bytes = b""


decode_use: Reader[KeyUse] = reader(
    msgspec.json.Decoder(KeyUse), "the security key's process sent an invalid message"
)
"""Return a message of the process."""

decode_key_answer: Reader[KeyAnswer] = reader(
    msgspec.json.Decoder(KeyAnswer), "invalid answer about a security key"
)
"""Return the viewer's answer."""

encode_key_answer = msgspec.json.encode
