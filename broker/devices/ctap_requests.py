"""Reading what a guest asks of a security key: CTAP2's requests and U2F's.

Sources: CTAP 2.1, 6; FIDO U2F Raw Message Formats 1.2; ISO 7816-4.
"""

from __future__ import annotations

from broker.core.errors import PeerError
from broker.devices import cbor

_PIN_HARMLESS = frozenset({1, 2, 5, 9})
"""getPINRetries, getKeyAgreement, getPinToken, getPinUvAuthTokenUsingPin."""
_HOST_CHARACTERS = 253


def relying_party(untrusted_body: bytes, *, register: bool) -> str:
    """Return the relying party of a request.  Raises PeerError."""
    found = cbor.decode(untrusted_body)
    if not isinstance(found, dict):
        raise PeerError("a request that is not a map")
    party = found.get(1)
    if register:
        entity = found.get(2)
        party = entity.get("id") if isinstance(entity, dict) else None
    if not isinstance(party, str) or not 0 < len(party) <= _HOST_CHARACTERS:
        raise PeerError("a request without a relying party")
    if not party.isascii() or not party.isprintable() or " " in party:
        raise PeerError("a relying party that is not a host")
    return party


def pin_is_harmless(untrusted_body: bytes) -> bool:
    """Whether a PIN command changes nothing but the tries.  Raises PeerError."""
    found = cbor.decode(untrusted_body)
    sub = found.get(2) if isinstance(found, dict) else None
    # guard: harmless PIN commands
    return isinstance(sub, int) and not isinstance(sub, bool) and sub in _PIN_HARMLESS


def apdu_body(untrusted_apdu: bytes) -> bytes | None:
    """Return the data of an APDU, with short or extended length (ISO 7816-4)."""
    if len(untrusted_apdu) < 5:
        return None
    if untrusted_apdu[4]:
        size, at = untrusted_apdu[4], 5
    elif len(untrusted_apdu) >= 7:
        size, at = int.from_bytes(untrusted_apdu[5:7], "big"), 7
    else:
        return None
    body = untrusted_apdu[at : at + size]
    return body if len(body) == size and len(untrusted_apdu) - at - size <= 3 else None
