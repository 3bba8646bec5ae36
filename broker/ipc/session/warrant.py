"""Warrants: what the authority has permitted, signed for those who carry it out.

The viewer is confined, and what needs the user's rights is done by children of the
starter.  A viewer that has been taken over may order anything, so an order comes with the
authority's word: a permit that it has given (``permit_warrant``), or a call of
``brokerctl`` that it has received (``control.forwarded.CallWarrant``).  The key is known to the
authority and the starter; HMAC with SHA-256 (RFC 2104).

The authority signs, session children check; the viewer and the host only carry a
warrant.
"""

from __future__ import annotations

import hmac

import msgspec

KEY_BYTES = SIGNATURE_BYTES = 32

_encode = msgspec.json.Encoder().encode


def sign(key: bytes, message: msgspec.Struct) -> bytes:
    """Return a message as it is passed on: its signature, and the message as JSON."""
    data = _encode(message)
    return hmac.digest(key, data, "sha256") + data
