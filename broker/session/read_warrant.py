"""Reading what the authority has signed (``ipc.session.warrant``).

A session child checks them, with the key that the starter has from the authority.
"""

from __future__ import annotations

import hmac
import time
from typing import Literal, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.ipc.control.forwarded import CallWarrant
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.ipc.session.warrant import SIGNATURE_BYTES

SECONDS = 60.0
"""A warrant expires after this time: it is used at once, and permits may end."""
TICKET_SECONDS = 1800.0
"""A ticket to send or to edit expires after this time."""


class FileTicket(TypedMessage, frozen=True, tag="ticket"):
    """Files that the user has named or chosen.

    A child signs it, because the files may be copied long after they were named: a
    sandbox may have to be started before.  One to save is good while the broker runs.
    """

    at: float
    """CLOCK_MONOTONIC, when it was signed."""
    verb: Literal["send", "edit", "save", "drop"]
    """The only thing that is done with them; ``drop``: to send them, with a permit."""
    paths: tuple[bytes, ...]
    """Absolute, without links."""
    sandbox: str = ""
    """That has asked for it, or that it was dropped on; empty: the user has."""
    states: tuple[str, ...] = ()
    """Unless to send: what was at each path then, see ``session.transfer.chosen_files``."""


Warrant: TypeAlias = PermitWarrant | CallWarrant
_Signed: TypeAlias = Warrant | FileTicket
_decode: Reader[_Signed] = reader(msgspec.json.Decoder(_Signed), "not a warrant")


def read_warrant(key: bytes, untrusted_data: bytes) -> Warrant | None:
    """Return what the authority signed; None unless that was with this key, and now.

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
    """Return the ticket that was signed with this key; None: it is not one, or has expired."""
    ticket = _read_signed(key, untrusted_data)
    if not isinstance(ticket, FileTicket):
        return None
    # guard: files that were named long ago are not sent
    if ticket.verb != "save" and time.monotonic() - ticket.at > TICKET_SECONDS:
        return None
    return ticket


def _read_signed(key: bytes, untrusted_data: bytes) -> _Signed | None:
    digest, data = untrusted_data[:SIGNATURE_BYTES], untrusted_data[SIGNATURE_BYTES:]
    # guard: an order of a viewer that was taken over has no warrant
    if not key or not hmac.compare_digest(digest, hmac.digest(key, data, "sha256")):
        return None
    return _decode(data)
