"""Warrants: what the authority has permitted, signed for those who carry it out.

The viewer is confined, and what needs the user's rights is done by children of the
starter.  A viewer that has been taken over may order anything, so an order comes with the
authority's word: a permit that it has given, or a call of ``brokerctl`` that it has
received.  The key is known to the authority and the starter; HMAC with SHA-256 (RFC 2104).
"""

from __future__ import annotations

import hmac
from typing import TypeAlias

import msgspec

from broker.core.decoding import TypedMessage

KEY_BYTES = 32


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


class CallWarrant(TypedMessage, frozen=True, tag="call"):
    """A call of the control socket that was passed on."""

    at: float
    method: str
    """With the interface."""
    parameters: msgspec.Raw


Warrant: TypeAlias = PermitWarrant | CallWarrant

_encoder = msgspec.json.Encoder()


def signature(key: bytes, warrant: Warrant) -> bytes:
    """Return the first part of a warrant; the second one is its message."""
    return hmac.digest(key, _encoder.encode(warrant), "sha256")


def sign(key: bytes, warrant: Warrant) -> bytes:
    """Return a warrant as it is passed on."""
    return signature(key, warrant) + _encoder.encode(warrant)


def call_warrant(signed: bytes, call: CallWarrant) -> bytes:
    """Return the warrant of a call with this signature: the call is not sent twice."""
    return signed + _encoder.encode(call)
