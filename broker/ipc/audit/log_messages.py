"""Messages between the authority and each process that records by it.

Log, records, leases, checkpoints and the control socket; those about permits, which only
a viewer's process asks for, are in ``ipc.authority``, with the form of all of them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from broker.core.authority_report import AuthorityReport
from broker.core.decoding import PackedMessage, Reader, reader
from broker.core.errors import InternalError, VitrailError
from broker.wire.faults import fault_of, from_fault


class ClientMessage(PackedMessage, frozen=True):
    """A message to the authority."""


class AuthorityMessage(PackedMessage, frozen=True):
    """A message of the authority."""


class AuthorityAnswer(AuthorityMessage, frozen=True):
    """An answer, or another message about a request."""

    request: int


# -- from the client -------------------------------------------------------------


class RecordEvent(ClientMessage, frozen=True, tag=5):
    """Record an event (``audit.schema``, as JSON).  Answered by AuthorityDone or Failed.

    ``how``: ``require`` precedes an effect; ``note``; ``refused`` is counted.
    """

    request: int
    body: bytes
    how: str


class NotifyUser(ClientMessage, frozen=True, tag=7):
    """Show a notification; not answered."""

    title: str
    text: str
    sandbox: str


class AnnounceLease(ClientMessage, frozen=True, tag=8):
    """A sandbox runs.  Answered by AuthorityDone."""

    request: int
    lease: str
    sandbox: str
    record: str
    generation: int


class EndLease(ClientMessage, frozen=True, tag=9):
    """A sandbox has stopped.  Answered by AuthorityDone, when its grants have ended."""

    request: int
    lease: str


class Reload(ClientMessage, frozen=True, tag=10):
    """Read the files again.  Answered by AuthorityDone or Failed, after Policy."""

    request: int


class AskReport(ClientMessage, frozen=True, tag=11):
    """Request the rows of a status.  Answered by Report."""

    request: int


class ServeControl(ClientMessage, frozen=True, tag=12):
    """The broker is ready: serve the control socket.  Answered by AuthorityDone or Failed."""

    request: int


class Stop(ClientMessage, frozen=True, tag=13):
    """The broker ends: close the log.  Answered by AuthorityDone, the last message."""

    request: int
    reason: str


class AskCheckpoint(ClientMessage, frozen=True, tag=14):
    """The newest checkpoint of the log.  Answered by NewestCheckpoint or Failed."""

    request: int


class AskEvidence(ClientMessage, frozen=True, tag=15):
    """Proof that the log at ``size`` continues that at ``since``, and later keys.

    ``known``: the number of the first of these.  Answered by Evidence or Failed.
    """

    request: int
    since: int
    size: int
    known: int


class CheckpointWitnessed(ClientMessage, frozen=True, tag=16):
    """A peer keeps this checkpoint of the log.  Answered by AuthorityDone or Failed."""

    request: int
    peer: str
    note: str


class CompareCheckpoint(ClientMessage, frozen=True, tag=17):
    """A peer keeps this checkpoint.  Answered by Compared or Failed."""

    request: int
    note: str


class HoldCheckpoint(ClientMessage, frozen=True, tag=18):
    """Keep a checkpoint of a peer's log.  Answered by CheckpointHeld or Failed."""

    request: int
    peer: str
    note: str
    since: int
    proof: list[bytes]
    keys: list[str]


# -- from the authority -----------------------------------------------------------


class Welcome(AuthorityMessage, frozen=True, tag=32):
    """The log is open.  ``names_key``: of the keyed hashes in it (``audit.names``)."""

    pid: int
    names_key: bytes
    clipboard_digest: bool


class Policy(AuthorityMessage, frozen=True, tag=33):
    """Other rules or records are in force: earlier answers to questions are void.

    ``records``: the digest of the records, whose changes precede this message.
    """

    records: str


class RecordChanged(AuthorityMessage, frozen=True, tag=48):
    """A record, or a problem with its file; ``content``: of ``record_messages``."""

    name: str
    content: bytes


class RecordGone(AuthorityMessage, frozen=True, tag=49):
    """There is no longer a record of this name."""

    name: str


class AuthorityDone(AuthorityAnswer, frozen=True, tag=39):
    """The request succeeded."""


class Failed(AuthorityAnswer, frozen=True, tag=40):
    """The request failed.  ``kind``: the error's class; request 0: the start failed."""

    kind: str
    message: str
    hint: str = ""
    where: str = ""


class ShareUsedUp(AuthorityMessage, frozen=True, tag=41):
    """A record's share of the log is used up, look again in so many seconds."""

    record: str
    seconds: float
    message: str
    hint: str


class Report(AuthorityAnswer, frozen=True, tag=42):
    """The answer to AskReport."""

    report: AuthorityReport


class CheckpointMade(AuthorityMessage, frozen=True, tag=43):
    """There is another checkpoint of the log."""


class NewestCheckpoint(AuthorityAnswer, frozen=True, tag=44):
    """The answer to AskCheckpoint, a signed note."""

    note: str


class Evidence(AuthorityAnswer, frozen=True, tag=45):
    """The answer to AskEvidence: hashes, and notes."""

    proof: list[bytes]
    keys: list[str]


class Compared(AuthorityAnswer, frozen=True, tag=46):
    """Why a checkpoint does not fit the log; empty where it does."""

    problem: str


class CheckpointHeld(AuthorityAnswer, frozen=True, tag=47):
    """The fate of a peer's checkpoint (``WitnessFate``), and the checkpoint that was held before."""

    fate: str
    before: str
    key: int
    restarted: str


ToRecorder: TypeAlias = (
    Welcome
    | Policy
    | RecordChanged
    | RecordGone
    | AuthorityDone
    | Failed
    | ShareUsedUp
    | Report
    | CheckpointMade
    | NewestCheckpoint
    | Evidence
    | Compared
    | CheckpointHeld
)
"""What a process receives that asks for no permits."""

_encoder = msgspec.msgpack.Encoder()


def encode_from_client(message: ClientMessage) -> bytes:
    """Return the body of a frame.  Raises InternalError."""
    return _encode(message)


def encode_from_authority(message: AuthorityMessage) -> bytes:
    """Return the body of a frame.  Raises InternalError."""
    return _encode(message)


def _encode(message: PackedMessage) -> bytes:
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InternalError(f"invalid {type(message).__name__}: {error}") from error


decode_to_recorder: Reader[AuthorityMessage] = reader(
    msgspec.msgpack.Decoder(ToRecorder), "cannot decode the message"
)
"""Return the authority's message."""


def failed(request: int, error: VitrailError) -> Failed:
    """Return an error as a message."""
    return Failed(request, fault_of(error), error.message, error.hint, error.where)


def error_of(message: Failed) -> VitrailError:
    """Return the error that a message is."""
    return from_fault(message.kind, message.message, message.hint, message.where)
