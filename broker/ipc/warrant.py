"""Warrants: what the authority has permitted, signed for those who carry it out.

The viewer is confined, and what needs the user's rights is done by children of the
starter.  A viewer that has been taken over may order anything, so an order comes with the
authority's word: a permit that it has given, or a call of ``brokerctl`` that it has
received.  The key is known to the authority and the starter; HMAC with SHA-256 (RFC 2104).
"""

from __future__ import annotations

import hmac
import time
from typing import TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader

KEY_BYTES = 32
SECONDS = 60.0
"""For so long a warrant is good: it is used at once, and a sandbox's permit may end."""
_DIGEST = 32


class PermitWarrant(TypedMessage, frozen=True, tag="permit"):
    """A permit; the fields are the request's, and ``target`` the permit's."""

    at: float
    """CLOCK_MONOTONIC, when it was signed."""
    sandbox: str
    record: str
    service: str
    argument: str
    target: str
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    key: str | None = None


class CallWarrant(TypedMessage, frozen=True, tag="call"):
    """A call of the control socket that was passed on."""

    at: float
    method: str
    """With the interface."""
    parameters: msgspec.Raw


Warrant: TypeAlias = PermitWarrant | CallWarrant

_encoder = msgspec.json.Encoder()
_decode: Reader[Warrant] = reader(msgspec.json.Decoder(Warrant), "not a warrant")


def signature(key: bytes, warrant: Warrant) -> bytes:
    """Return the first part of a warrant; the second one is its message."""
    return hmac.digest(key, _encoder.encode(warrant), "sha256")


def sign(key: bytes, warrant: Warrant) -> bytes:
    """Return a warrant as it is passed on."""
    return signature(key, warrant) + _encoder.encode(warrant)


def call_warrant(signed: bytes, call: CallWarrant) -> bytes:
    """Return the warrant of a call with this signature: the call is not sent twice."""
    return signed + _encoder.encode(call)


def read_warrant(key: bytes, untrusted_data: bytes) -> Warrant | None:
    """Return what was signed; None unless that was with this key, and a moment ago.

    Without a key nothing was.
    """
    digest, data = untrusted_data[:_DIGEST], untrusted_data[_DIGEST:]
    # guard: an order of a viewer that was taken over has no warrant
    if not key or not hmac.compare_digest(digest, hmac.digest(key, data, "sha256")):
        return None
    warrant = _decode(data)
    # guard: a warrant of a permit that may have ended is not used
    if not 0 <= time.monotonic() - warrant.at <= SECONDS:
        return None
    return warrant
