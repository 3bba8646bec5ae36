"""Messages between the authority and a process that carries out what it permits.

The authority decides and records; the other process, which is called the *client*
here, holds streams, windows or machines.  A client names leases by their id: what a
lease is, the authority knows from its announcement.  Requests have a number that the
client chooses, counting up, and each is answered by a message with that number; a
permit is a request whose answer holds until ``PermitOver`` or ``PermitCut``.

Frames are as ``framing`` has them, over a pair of stream sockets without a name.
The authority ends a channel whose client sends anything that it may not send.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TypeAlias

import msgspec

from broker.core.authority_report import AuthorityReport
from broker.core.decoding import UNREADABLE
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.framing import encode_frame
from broker.core.limits import authority as authority_limits
from broker.ipc.control.types.base import NotFoundError


class _Message(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag_field="type",
    forbid_unknown_fields=True,
):
    pass


# -- from the client -------------------------------------------------------------


class AskedDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The device that a request is about; an interface is ``CC:SS:PP``."""

    id: str
    serial: str
    port: str
    hash: str
    interfaces: list[str]


class AskedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of ``authz.permit.Request``; the lease by its id."""

    lease: str
    service: str
    argument: str
    target: str
    mime: str | None
    scheme: str | None
    host: str | None
    size: int | None
    gesture: float | None
    device: AskedDevice | None
    protocol: str | None
    port: int | None
    key: str | None
    stream: int
    peer: str
    source: str
    words: str
    details: tuple[tuple[str, str], ...]
    settled: bool
    tells: bool
    raw: bool
    write: bool
    ahead: bool
    asks: bool
    counts_bytes: bool


class AskPermit(_Message, frozen=True, tag=1):
    """May this be?  Answered by Permitted or Failed; Asking may precede that.

    ``covered``: the number of a permit whose question named this request as well.
    ``chosen``: the number of the question by which the user chose it; 0: none.
    """

    request: int
    asked: AskedRequest
    covered: int = 0
    chosen: int = 0


class PermitOver(_Message, frozen=True, tag=2):
    """The permitted operation has ended, or is no longer wanted; not answered."""

    request: int


class PermitGone(_Message, frozen=True, tag=3):
    """The program that asked has given up; a yes counts for its next request."""

    request: int


class AskChoice(_Message, frozen=True, tag=4):
    """Have the user choose one of these.  Answered by Chosen or Failed."""

    request: int
    asked: list[AskedRequest]
    words: str
    details: tuple[tuple[str, str], ...]


class RecordEvent(_Message, frozen=True, tag=5):
    """Record an event (``audit.schema``, as JSON).  Answered by AuthorityDone or Failed.

    ``how``: ``require`` precedes an effect; ``note``; ``refused`` is counted.
    """

    request: int
    body: bytes
    how: str


class Acted(_Message, frozen=True, tag=6):
    """The user acted in a window of a sandbox, so many seconds ago; not answered."""

    lease: str
    ago: float


class NotifyUser(_Message, frozen=True, tag=7):
    """Show a notification; not answered."""

    title: str
    text: str
    sandbox: str


class AnnounceLease(_Message, frozen=True, tag=8):
    """A sandbox runs.  Answered by AuthorityDone."""

    request: int
    lease: str
    sandbox: str
    record: str
    generation: int


class EndLease(_Message, frozen=True, tag=9):
    """A sandbox has stopped.  Answered by AuthorityDone, when its grants have ended."""

    request: int
    lease: str


class Reload(_Message, frozen=True, tag=10):
    """Read the files again.  Answered by AuthorityDone or Failed, behind Policy."""

    request: int


class AskReport(_Message, frozen=True, tag=11):
    """What is there for a status?  Answered by Report."""

    request: int


class ServeControl(_Message, frozen=True, tag=12):
    """The broker is ready: serve the control socket.  Answered by AuthorityDone or Failed."""

    request: int


class Stop(_Message, frozen=True, tag=13):
    """The broker ends: close the log.  Answered by AuthorityDone, the last message."""

    request: int
    reason: str


class AskCheckpoint(_Message, frozen=True, tag=14):
    """The newest checkpoint of the log.  Answered by NewestCheckpoint or Failed."""

    request: int


class AskEvidence(_Message, frozen=True, tag=15):
    """Proof that the log at ``size`` continues that at ``since``, and later keys.

    ``known``: the number of the first of these.  Answered by Evidence or Failed.
    """

    request: int
    since: int
    size: int
    known: int


class CheckpointWitnessed(_Message, frozen=True, tag=16):
    """A peer keeps this checkpoint of the log.  Answered by AuthorityDone or Failed."""

    request: int
    peer: str
    note: str


class CompareCheckpoint(_Message, frozen=True, tag=17):
    """A peer keeps this checkpoint.  Answered by Compared or Failed."""

    request: int
    note: str


class HoldCheckpoint(_Message, frozen=True, tag=18):
    """Keep a checkpoint of a peer's log.  Answered by CheckpointHeld or Failed."""

    request: int
    peer: str
    note: str
    since: int
    proof: list[bytes]
    keys: list[str]


class PreviewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a sandbox of a record would ask; ``@adminvm``: the user would."""

    sandbox: str
    record: str
    asked: AskedRequest


class AskPreview(_Message, frozen=True, tag=19):
    """What would be the answers?  To show or to offer something; answered by Previewed."""

    request: int
    asked: list[PreviewRequest]


class AskRules(_Message, frozen=True, tag=20):
    """Which rules are about this?  To offer something; answered by RulesShown.

    ``target`` empty: whatever the target.
    """

    request: int
    service: str
    source: str
    target: str


# -- from the authority -----------------------------------------------------------


class Welcome(_Message, frozen=True, tag=32):
    """The log is open.  ``names_key``: of the keyed hashes in it (``audit.names``)."""

    pid: int
    names_key: bytes
    clipboard_digest: bool


class Policy(_Message, frozen=True, tag=33):
    """Other rules or records are in force: earlier answers to questions are void.

    ``records``: the digest of the records, whose changes precede this message.
    """

    records: str


class ShownRule(msgspec.Struct, frozen=True, array_like=True):
    """A rule.  ``service`` and ``argument`` are None for any."""

    where: str
    service: str | None
    argument: str | None
    target: str
    action: str
    attach: str | None
    mime: tuple[str, ...]
    host: tuple[str, ...]
    max_size: int | None
    ttl: int | None


class Preview(msgspec.Struct, frozen=True, array_like=True):
    """An answer of the rules, see ``policy.rules.engine``."""

    verdict: str
    reason: str
    where: str
    rule: ShownRule | None
    target: str | None
    targets: tuple[str, ...]
    default_target: str | None
    max_size: int | None
    ttl: int | None
    returns: bool
    printer: str


class Previewed(_Message, frozen=True, tag=50):
    """The answer to AskPreview; None: the record denies, or a rule leads elsewhere."""

    request: int
    answers: list[Preview | None]


class RulesShown(_Message, frozen=True, tag=51):
    """The answer to AskRules, in the rules' order."""

    request: int
    rules: list[ShownRule]


class RecordChanged(_Message, frozen=True, tag=48):
    """A record, or a problem with its file; ``content``: of ``record_messages``."""

    name: str
    content: bytes


class RecordGone(_Message, frozen=True, tag=49):
    """There is no longer a record of this name."""

    name: str


class Permitted(_Message, frozen=True, tag=34):
    """It is permitted, and on record."""

    request: int
    target: str
    where: str
    user: str | None
    autostart: bool
    max_size: int | None
    answered: bool
    returns: bool
    schemes: tuple[str, ...]


class PermitNow(_Message, frozen=True, tag=35):
    """The permit holds by other rules from now on."""

    request: int
    where: str
    max_size: int | None
    returns: bool


class PermitCut(_Message, frozen=True, tag=36):
    """The permit has ended."""

    request: int
    reason: str
    where: str


class Asking(_Message, frozen=True, tag=37):
    """The user is being asked about it."""

    request: int


class Chosen(_Message, frozen=True, tag=38):
    """The user chose the request at ``place``, by the question ``question``."""

    request: int
    place: int
    question: int


class AuthorityDone(_Message, frozen=True, tag=39):
    """It is done."""

    request: int


class Failed(_Message, frozen=True, tag=40):
    """It is not done.  ``kind``: the error's class; request 0: the start failed."""

    request: int
    kind: str
    message: str
    hint: str = ""
    where: str = ""


class ShareUsedUp(_Message, frozen=True, tag=41):
    """A record's share of the log is used up, look again in so many seconds."""

    record: str
    seconds: float
    message: str
    hint: str


class Report(_Message, frozen=True, tag=42):
    """The answer to AskReport."""

    request: int
    report: AuthorityReport


class CheckpointMade(_Message, frozen=True, tag=43):
    """There is another checkpoint of the log."""


class NewestCheckpoint(_Message, frozen=True, tag=44):
    """The answer to AskCheckpoint, a signed note."""

    request: int
    note: str


class Evidence(_Message, frozen=True, tag=45):
    """The answer to AskEvidence: hashes, and notes."""

    request: int
    proof: list[bytes]
    keys: list[str]


class Compared(_Message, frozen=True, tag=46):
    """Why a checkpoint does not fit the log; empty where it does."""

    request: int
    problem: str


class CheckpointHeld(_Message, frozen=True, tag=47):
    """The fate of a peer's checkpoint (``WitnessFate``), and what was held before."""

    request: int
    fate: str
    before: str
    key: int
    restarted: str


FromClient: TypeAlias = (
    AskPermit
    | PermitOver
    | PermitGone
    | AskChoice
    | RecordEvent
    | Acted
    | NotifyUser
    | AnnounceLease
    | EndLease
    | Reload
    | AskReport
    | ServeControl
    | Stop
    | AskCheckpoint
    | AskEvidence
    | CheckpointWitnessed
    | CompareCheckpoint
    | HoldCheckpoint
    | AskPreview
    | AskRules
)
FromAuthority: TypeAlias = (
    Welcome
    | Policy
    | RecordChanged
    | RecordGone
    | Permitted
    | PermitNow
    | PermitCut
    | Asking
    | Chosen
    | AuthorityDone
    | Failed
    | ShareUsedUp
    | Report
    | CheckpointMade
    | NewestCheckpoint
    | Evidence
    | Compared
    | CheckpointHeld
    | Previewed
    | RulesShown
)

_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_from_authority: msgspec.msgpack.Decoder[FromAuthority] = msgspec.msgpack.Decoder(
    FromAuthority
)
_encoder = msgspec.msgpack.Encoder()


def encode_from_client(message: FromClient) -> bytes:
    """Return a frame.  Raises InternalError beyond its limit."""
    return _encode(message, authority_limits.AUTHORITY_REQUEST_BYTES)


def encode_from_authority(message: FromAuthority) -> bytes:
    """Return a frame.  Raises InternalError beyond its limit."""
    return _encode(message, authority_limits.AUTHORITY_ANSWER_BYTES)


def _encode(message: FromClient | FromAuthority, most: int) -> bytes:
    try:
        return encode_frame(_encoder.encode(message), most)
    except (ValueError, UnicodeEncodeError) as error:
        raise InternalError(f"a message {type(message).__name__}: {error}") from error


def decode_from_client(untrusted_body: bytes) -> FromClient:
    """Return a client's message.  Raises PeerError."""
    try:
        return _from_client.decode(untrusted_body)
    except UNREADABLE as error:
        raise PeerError(f"a message that cannot be read: {error}") from error


def decode_from_authority(body: bytes) -> FromAuthority:
    """Return the authority's message.  Raises PeerError."""
    try:
        return _from_authority.decode(body)
    except UNREADABLE as error:
        raise PeerError(f"a message that cannot be read: {error}") from error


# -- errors ---------------------------------------------------------------------

_KINDS = MappingProxyType(
    {
        "not found": NotFoundError,
        "refused": RefusedError,
        "upstream": UpstreamError,
        "setup": SetupError,
        "peer": PeerError,
        "internal": InternalError,
    }
)


def failed(request: int, error: VitrailError) -> Failed:
    """Return an error as a message."""
    kind = "internal"
    for name, made in _KINDS.items():
        if isinstance(error, made):
            kind = name
            break
    return Failed(request, kind, error.message, error.hint, error.where)


def error_of(message: Failed) -> VitrailError:
    """Return the error that a message is."""
    made = _KINDS.get(message.kind, InternalError)
    return made(message.message, hint=message.hint, where=message.where)
