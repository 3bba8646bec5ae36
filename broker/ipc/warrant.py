"""Warrants: what the authority has permitted, signed for those who carry it out.

The viewer is confined, and what needs the user's rights is done by children of the
starter.  A viewer that has been taken over may order anything, so an order comes with the
authority's word: a permit that it has given, or a call of ``brokerctl`` that it has
received.  What may be done later than that comes with a ticket, which a child has signed
when the word was new.  The key is known to the authority and the starter; HMAC with
SHA-256 (RFC 2104).
"""

from __future__ import annotations

import hmac
import time
from typing import Literal, TypeAlias

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
    schemes: tuple[str, ...] = ()
    """Those that the rule names."""
    printer: str = ""
    """The one that the rule names."""


class CallWarrant(TypedMessage, frozen=True, tag="call"):
    """A call of the control socket that was passed on."""

    at: float
    method: str
    """With the interface."""
    parameters: msgspec.Raw


class FileTicket(TypedMessage, frozen=True, tag="ticket"):
    """Files that the user has named or chosen; good while the broker runs.

    A child signs it, because the files may be copied long after they were named.
    """

    verb: Literal["send", "edit", "save"]
    """The only thing that is done with them."""
    paths: tuple[bytes, ...]
    """Absolute, without links."""
    sandbox: str = ""
    """That has asked for it; empty: the user has."""
    states: tuple[str, ...] = ()
    """For ``save``: what was at each path then, see ``session.chosen_files``."""


Warrant: TypeAlias = PermitWarrant | CallWarrant
_Signed: TypeAlias = Warrant | FileTicket

_encoder = msgspec.json.Encoder()
_decode: Reader[_Signed] = reader(msgspec.json.Decoder(_Signed), "not a warrant")


def signature(key: bytes, warrant: _Signed) -> bytes:
    """Return the first part of a warrant; the second one is its message."""
    return hmac.digest(key, _encoder.encode(warrant), "sha256")


def sign(key: bytes, warrant: _Signed) -> bytes:
    """Return a warrant or ticket as it is passed on."""
    return signature(key, warrant) + _encoder.encode(warrant)


def call_warrant(signed: bytes, call: CallWarrant) -> bytes:
    """Return the warrant of a call with this signature: the call is not sent twice."""
    return signed + _encoder.encode(call)


def read_warrant(key: bytes, untrusted_data: bytes) -> Warrant | None:
    """Return what was signed; None unless that was with this key, and a moment ago.

    Without a key nothing was.
    """
    warrant = _read_signed(key, untrusted_data)
    if warrant is None or isinstance(warrant, FileTicket):
        return None
    # guard: a warrant of a permit that may have ended is not used
    if not 0 <= time.monotonic() - warrant.at <= SECONDS:
        return None
    return warrant


def read_ticket(key: bytes, untrusted_data: bytes) -> FileTicket | None:
    """Return the ticket that was signed with this key; None: it is not one."""
    ticket = _read_signed(key, untrusted_data)
    return ticket if isinstance(ticket, FileTicket) else None


def _read_signed(key: bytes, untrusted_data: bytes) -> _Signed | None:
    digest, data = untrusted_data[:_DIGEST], untrusted_data[_DIGEST:]
    # guard: an order of a viewer that was taken over has no warrant
    if not key or not hmac.compare_digest(digest, hmac.digest(key, data, "sha256")):
        return None
    return _decode(data)
