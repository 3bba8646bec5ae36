"""Calls between the authority and each process that records by it.

Log, records, leases, checkpoints and the control socket; the rows about permits, which
only a viewer's process calls, are in ``ipc.authority``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.authority_report import AuthorityReport
from broker.core.limits import authority as limits
from broker.wire.call_messages import ErrorReport
from broker.wire.row import Empty, ProcessKind, Row, rows_of

_AUTHORITY: Final = frozenset({ProcessKind.AUTHORITY})
_VIEWER: Final = frozenset({ProcessKind.VIEWER})
_CLIENTS: Final = frozenset({ProcessKind.HOST, ProcessKind.VIEWER})


class AuthorityMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of requests, answers and items between the authority and its clients."""


# -- the authority serves ----------------------------------------------------------


class RecordEvent(AuthorityMessage, frozen=True):
    """Record an event (``audit.schema``, as JSON), of a kind and lease of the caller."""

    body: bytes
    how: str
    """The urgency: ``require`` precedes an effect, ``refused`` is counted with its equals."""


class NotifyUser(AuthorityMessage, frozen=True):
    """Show a notification on the user's desktop."""

    title: str
    text: str
    sandbox: str


class AnnounceLease(AuthorityMessage, frozen=True):
    """A sandbox runs: requests of its lease are decided from now on."""

    lease: str
    sandbox: str
    record: str
    generation: int


class EndLease(AuthorityMessage, frozen=True):
    """A sandbox has stopped; answered when its grants have ended."""

    lease: str


class Stop(AuthorityMessage, frozen=True):
    """The broker ends: close the log, then send ``Stopped``."""

    reason: str


class EvidenceRequest(AuthorityMessage, frozen=True):
    """Prove that the log at ``size`` continues that at ``since``; return later keys."""

    since: int
    size: int
    known: int
    """The number of the first key to return."""


class CheckpointWitnessed(AuthorityMessage, frozen=True):
    """A peer keeps this checkpoint of the log."""

    peer: str
    note: str


class CompareCheckpoint(AuthorityMessage, frozen=True):
    """Compare a checkpoint that a peer keeps with the log."""

    note: str


class HoldCheckpoint(AuthorityMessage, frozen=True):
    """Keep a checkpoint of a peer's log, if it is signed and proved."""

    peer: str
    note: str
    since: int
    proof: list[bytes]
    keys: list[str]


class Report(AuthorityMessage, frozen=True):
    """The authority's rows of a status."""

    report: AuthorityReport


class NewestCheckpoint(AuthorityMessage, frozen=True):
    """The newest checkpoint of the log, a signed note."""

    note: str


class Evidence(AuthorityMessage, frozen=True):
    """Hashes that prove, and notes that certify keys."""

    proof: list[bytes]
    keys: list[str]


class Compared(AuthorityMessage, frozen=True):
    """Why a checkpoint does not fit the log; empty where it does."""

    problem: str


class StoredCheckpoint(AuthorityMessage, frozen=True):
    """The fate of a peer's checkpoint (``WitnessFate``), and the one held before."""

    fate: str
    before: str
    key: int
    restarted: str


RECORD: Final = Row("Record", RecordEvent, Empty, _AUTHORITY, _CLIENTS)
NOTIFY_USER: Final[Row[NotifyUser, Empty]] = Row(
    "NotifyUser", NotifyUser, None, _AUTHORITY, _CLIENTS
)
ANNOUNCE_LEASE: Final = Row("AnnounceLease", AnnounceLease, Empty, _AUTHORITY, _VIEWER)
# guard: the end of a lease is never refused for want of a place
END_LEASE: Final = Row(
    "EndLease", EndLease, Empty, _AUTHORITY, _VIEWER, at_once=limits.AUTHORITY_LEASES
)
RELOAD: Final = Row("Reload", Empty, Empty, _AUTHORITY, _CLIENTS)
"""Read records and rules again; answered after ``PolicyChanged``."""
REPORT: Final = Row("Report", Empty, Report, _AUTHORITY, _CLIENTS)
"""Return the authority's rows of a status."""
SERVE_CONTROL: Final = Row("ServeControl", Empty, Empty, _AUTHORITY, _CLIENTS)
"""The broker is ready: serve the control socket."""
STOP: Final[Row[Stop, Empty]] = Row("Stop", Stop, None, _AUTHORITY, _CLIENTS)
NEWEST_CHECKPOINT: Final = Row(
    "NewestCheckpoint", Empty, NewestCheckpoint, _AUTHORITY, _CLIENTS
)
"""Return the newest checkpoint of the log, for a witness."""
EVIDENCE: Final = Row("Evidence", EvidenceRequest, Evidence, _AUTHORITY, _CLIENTS)
CHECKPOINT_WITNESSED: Final = Row(
    "CheckpointWitnessed", CheckpointWitnessed, Empty, _AUTHORITY, _CLIENTS
)
COMPARE_CHECKPOINT: Final = Row(
    "CompareCheckpoint", CompareCheckpoint, Compared, _AUTHORITY, _CLIENTS
)
HOLD_CHECKPOINT: Final = Row(
    "HoldCheckpoint", HoldCheckpoint, StoredCheckpoint, _AUTHORITY, _CLIENTS
)


# -- its clients serve -------------------------------------------------------------


class Welcome(AuthorityMessage, frozen=True):
    """The log is open."""

    pid: int
    names_key: bytes
    """The key of the keyed hashes in the log (``audit.names``)."""
    clipboard_digest: bool


class PolicyChanged(AuthorityMessage, frozen=True):
    """Other rules or records are in force: earlier answers about them are void."""

    records: str
    """The digest of the records, whose changes precede this message."""


class RecordChanged(AuthorityMessage, frozen=True):
    """A record, or the problem with its file, has changed, or the record is removed."""

    name: str
    content: bytes | None
    """See ``record_messages``; None: there is no longer a record of this name."""


class ShareUsedUp(AuthorityMessage, frozen=True):
    """A record's share of the log is used up: look again in so many seconds."""

    record: str
    seconds: float
    message: str
    hint: str


class StartFailed(AuthorityMessage, frozen=True):
    """The authority cannot start."""

    error: ErrorReport


WELCOME: Final[Row[Welcome, Empty]] = Row(
    "Welcome", Welcome, None, _CLIENTS, _AUTHORITY
)
POLICY_CHANGED: Final[Row[PolicyChanged, Empty]] = Row(
    "PolicyChanged", PolicyChanged, None, _CLIENTS, _AUTHORITY
)
RECORD_CHANGED: Final[Row[RecordChanged, Empty]] = Row(
    "RecordChanged", RecordChanged, None, _CLIENTS, _AUTHORITY
)
SHARE_USED_UP: Final[Row[ShareUsedUp, Empty]] = Row(
    "ShareUsedUp", ShareUsedUp, None, _CLIENTS, _AUTHORITY
)
CHECKPOINT_MADE: Final[Row[Empty, Empty]] = Row(
    "CheckpointMade", Empty, None, _CLIENTS, _AUTHORITY
)
"""Announce another checkpoint of the log."""
START_FAILED: Final[Row[StartFailed, Empty]] = Row(
    "StartFailed", StartFailed, None, _CLIENTS, _AUTHORITY
)
STOPPED: Final[Row[Empty, Empty]] = Row("Stopped", Empty, None, _CLIENTS, _AUTHORITY)
"""The log is closed: the last message."""

LOG_ROWS: Final = rows_of(globals())
"""The rows of a client that asks for no permit."""
