"""Warrants: what the authority has permitted, signed for those who carry it out.

The viewer is confined, and what needs the user's rights is done by children of the
starter.  A viewer that has been taken over may order anything, so an order comes with the
authority's word: a permit that it has given, or a call of ``brokerctl`` that it has
received (``control.forwarded.Begin``).  The key is known to the authority and the
starter; HMAC with SHA-256 (RFC 2104).
"""

from __future__ import annotations

import hmac

import msgspec

from broker.core.decoding import TypedMessage

KEY_BYTES = SIGNATURE_BYTES = 32


class PermitWarrant(TypedMessage, frozen=True, tag="permit"):
    """A permit, with its target, and fields of its request (``authority.permit``)."""

    at: float
    """CLOCK_MONOTONIC, when it was signed."""
    sandbox: str
    record: str
    target: str
    schemes: tuple[str, ...]
    """Those that the rule names."""
    printer: str
    """The one that the rule names, or none."""
    service: str
    argument: str
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    key: str | None = None
    write: bool = False


OF_REQUEST = PermitWarrant.__struct_fields__[6:]
"""The fields that are the request's."""
_encode = msgspec.json.Encoder().encode


def sign(key: bytes, message: msgspec.Struct) -> bytes:
    """Return a message as it is passed on: its signature, and the message as JSON."""
    data = _encode(message)
    return hmac.digest(key, data, "sha256") + data
