"""Reading what a guest asks of a security key: CTAP2's requests and U2F's.

Runs in the security key process (``broker.programs.tools.security_key``), not in the worker.
Sources: CTAP 2.1, 6; FIDO U2F Raw Message Formats 1.2; ISO 7816-4.
"""

from __future__ import annotations

from broker.core.errors import PeerError
from broker.ipc.security_key import LOOK, REGISTER, SIGN_IN
from broker.jail.security_key import cbor

_PIN_HARMLESS = frozenset({1, 2})
"""getPINRetries, getKeyAgreement."""
_PIN_ENTERED = frozenset({5, 9})
"""getPinToken, getPinUvAuthTokenUsingPin: a wrong one takes a try."""
_HOST_CHARACTERS = 253
_PLAIN_AUTHENTICATOR_DATA = 37
"""Hash of the relying party, flags, counter: no extension (CTAP 2.1, 6.2)."""
_OTHER_ERROR = b"\x7f"


class OptionError(PeerError):
    """A request whose options or extensions do not pass."""


def read_request(untrusted_body: bytes, *, register: bool) -> tuple[str, str]:
    """Return what a request does (register, sign in), and its relying party.

    A browser sends ``up: false`` to look which key knows a credential; the key
    signs it without a touch.  Raises OptionError, PeerError.
    """
    found = cbor.decode(untrusted_body)
    if not isinstance(found, dict):
        raise PeerError("the CTAP request is not a map")
    party = _relying_party(found, register=register)
    options = found.get(7 if register else 5, {})
    if not isinstance(options, dict):
        raise PeerError("the options of the CTAP request are not a map")
    if not all(isinstance(k, str) and isinstance(v, bool) for k, v in options.items()):
        raise PeerError("an option of the CTAP request is not a boolean")
    # guard: a signature needs a touch
    if options.get("up", True):
        return (REGISTER if register else SIGN_IN), party
    handles = found.get(3)
    # Without handles it lists the accounts; an extension's output is a secret.
    # guard: a look is at named credentials
    if register or not isinstance(handles, list) or not handles or 4 in found:
        raise OptionError("a request without user presence must name its credentials")
    return LOOK, party


def _relying_party(
    found: dict[int | str | bytes, cbor.Value], *, register: bool
) -> str:
    """Return the relying party of a request.  Raises PeerError."""
    party = found.get(1)
    if register:
        entity = found.get(2)
        party = entity.get("id") if isinstance(entity, dict) else None
    if not isinstance(party, str) or not 0 < len(party) <= _HOST_CHARACTERS:
        raise PeerError("the CTAP request has no valid relying party")
    if not party.isascii() or not party.isprintable() or " " in party:
        raise PeerError("the relying party is not a host name")
    return party


def look_answer(payload: bytes) -> bytes:
    """Return a key's answer to a pre-flight request (LOOK) without the signature."""
    if payload[:1] != b"\0":
        return payload[:1]
    try:
        found = cbor.decode(payload[1:])
    except PeerError:
        return _OTHER_ERROR
    if not isinstance(found, dict):
        return _OTHER_ERROR
    data, signature = found.get(2), found.get(3)
    if not isinstance(data, bytes) or not isinstance(signature, bytes):
        return _OTHER_ERROR
    if len(data) != _PLAIN_AUTHENTICATOR_DATA:
        return _OTHER_ERROR
    shown: dict[int | str | bytes, cbor.Value] = {1: found[1]} if 1 in found else {}
    return b"\0" + cbor.encode(shown | {2: data, 3: bytes(len(signature))})


def credentials_of(payload: bytes) -> int:
    """Return how many credentials an assertion's answer is the first of."""
    if payload[:1] != b"\0":
        return 0
    try:
        found = cbor.decode(payload[1:])
    except PeerError:
        return 1
    number = found.get(5) if isinstance(found, dict) else None
    return number if isinstance(number, int) else 1


def enters_pin(untrusted_body: bytes) -> bool | None:
    """Return whether a PIN command enters a PIN; None if it may not pass.

    Raises PeerError.
    """
    found = cbor.decode(untrusted_body)
    sub = found.get(2) if isinstance(found, dict) else None
    if not isinstance(sub, int) or isinstance(sub, bool):
        return None
    if sub in _PIN_ENTERED:
        return True
    # guard: harmless PIN commands
    return False if sub in _PIN_HARMLESS else None


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
