"""Calls that only the link between two machines has, and all rows of the link.

Those about leases, starts and devices are the rows of one machine, too
(``ipc.host_rows``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec

from broker.core.limits import audit as audit_limits
from broker.core.limits import link as limits
from broker.ipc.host_rows import (
    PAIR_ROWS,
    Count,
    LinkMessage,
    Number,
    ShortText,
    Text,
)
from broker.wire.row import AnyRow, Empty, ProcessKind, Row, rows_of

_Note = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=audit_limits.LINK_NOTE_CHARACTERS)]],
    msgspec.Meta(max_length=audit_limits.LINK_NOTE_LINES),
]
_Notes = Annotated[
    list[_Note], msgspec.Meta(max_length=audit_limits.AUDIT_WITNESS_KEYS)
]
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9+/]{43}=\Z")]
_Proof = Annotated[list[_Hash], msgspec.Meta(max_length=audit_limits.LINK_PROOF_HASHES)]
_BOTH: Final = frozenset({ProcessKind.HOST, ProcessKind.VIEWER})


class Cut(LinkMessage, frozen=True):
    """Cut one stream: numbered by its opener, in this epoch."""

    opened_by: Literal["host", "viewer"]
    stream: Number
    reason: Text


class StatusReply(LinkMessage, frozen=True, forbid_unknown_fields=False):
    """Numbers, not lists: the leases were all announced."""

    program: ShortText
    """Name and release of the broker."""
    leases: Count
    streams: Count
    refused: Count
    """Connections and streams refused in this epoch."""
    up_seconds: Count
    warnings: Annotated[
        tuple[Text, ...], msgspec.Meta(max_length=limits.LINK_WARNINGS)
    ] = ()
    clock: Count = 0
    """Seconds since 1970, as it is there; 0: of a release that does not send it."""


class WitnessNote(LinkMessage, frozen=True):
    """Keep this checkpoint of the sender's audit log, a signed note by lines.

    ``proof`` shows that the log then begins with the log as of ``since``, the
    size of the newest checkpoint that is held (RFC 6962, 2.1.2, hashes as base64).
    A ``since`` of 0: the sender does not know which is held.  ``keys`` are the
    certificates of the log's keys from the first one on that the other end has
    not reported to know.
    """

    note: _Note
    since: Count = 0
    proof: _Proof = msgspec.field(default_factory=list)
    keys: _Notes = msgspec.field(default_factory=list)


class Witnessed(LinkMessage, frozen=True):
    """Whether it is kept, and the state of that log as known here.

    ``note`` is the newest checkpoint that was held before, ``known`` counts the
    keys whose certificates are known.
    """

    note: _Note
    kept: bool = True
    known: Count = 0


class Bye(LinkMessage, frozen=True, forbid_unknown_fields=False):
    """The last record of an end that closes on purpose.

    An end of the connection without one is a loss (or a deliberate cut).
    """

    reason: Text


CUT = Row("Cut", Cut, Empty, _BOTH, _BOTH)
STATUS = Row("Status", Empty, StatusReply, _BOTH, _BOTH)
"""The other end's state, which 'brokerctl status' shows."""
WITNESS = Row("Witness", WitnessNote, Witnessed, _BOTH, _BOTH)
BYE: Row[Bye, Empty] = Row("Bye", Bye, None, _BOTH, _BOTH)

LINK_ROWS: Final[Mapping[str, AnyRow]] = MappingProxyType(
    {
        **rows_of(globals()),
        **{row.name: row for row in PAIR_ROWS.values() if not row.absence("link")},
    }
)
"""The rows on the link."""
