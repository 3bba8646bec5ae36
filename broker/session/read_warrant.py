"""Reading what the authority has signed (``ipc.warrant``)."""

from __future__ import annotations

import hmac
import time
from typing import TypeAlias

import msgspec

from broker.core.decoding import Reader, reader
from broker.ipc.control.forwarded import Begin
from broker.ipc.warrant import SIGNATURE_BYTES, PermitWarrant

SECONDS = 60.0
"""For so long a warrant is good: it is used at once, and a sandbox's permit may end."""
CallWarrant = Begin
"""A call of the control socket that the authority has passed on."""
Warrant: TypeAlias = PermitWarrant | CallWarrant
_decode: Reader[Warrant] = reader(msgspec.json.Decoder(Warrant), "not a warrant")


def read_warrant(key: bytes, untrusted_data: bytes) -> Warrant | None:
    """Return what the authority signed; None unless that was with this key, and a moment ago.

    Without a key nothing was.
    """
    digest, data = untrusted_data[:SIGNATURE_BYTES], untrusted_data[SIGNATURE_BYTES:]
    # guard: an order of a viewer that was taken over has no warrant
    if not key or not hmac.compare_digest(digest, hmac.digest(key, data, "sha256")):
        return None
    warrant = _decode(data)
    # guard: a warrant of a permit that may have ended is not used
    if not 0 <= time.monotonic() - warrant.at <= SECONDS:
        return None
    return warrant
