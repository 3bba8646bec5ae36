"""Messages between the authority and a process that acts on its permits.

The authority decides and records; the other process, which is called the *client*
here, holds streams, windows or machines.  A client names leases by their id: what a
lease is, the authority knows from its announcement.  Requests have a number that the
client chooses, counting up, and each is answered by a message with that number; a
permit is a request whose answer holds until ``PermitOver`` or ``PermitCut``.

Frames are as ``framing`` has them, over a pair of stream sockets without a name.
The authority ends a channel whose client sends anything that it may not send.

The client that asks for permits is the viewer; the host only records
(``audit.log_messages``).
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import Reader, reader
from broker.core.question import PageImage
from broker.ipc.audit.log_messages import *

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
    way: str
    about: str
    claims: tuple[tuple[str, str], ...]
    preview: PageImage
    settled: bool
    raw: bool
    write: bool
    ahead: bool
    asks: bool
    opens: bool
    counts_bytes: bool


class AskPermit(ClientMessage, frozen=True, tag=1):
    """May this be?  Answered by Permitted or Failed; Asking may precede that.

    AuthorityDone says that it has ended, and does not count any more.

    ``covered``: the number of a permit whose question named this request as well.
    ``chosen``: the number of the question by which the user chose it; 0: none.
    """

    request: int
    asked: AskedRequest
    covered: int = 0
    chosen: int = 0


class PermitOver(ClientMessage, frozen=True, tag=2):
    """The permitted operation has ended, or is no longer wanted; not answered.

    ``used``: it had begun, so that the client records its end.
    """

    request: int
    used: bool = False


class PermitGone(ClientMessage, frozen=True, tag=3):
    """The program that asked has given up; a yes counts for its next request."""

    request: int


class RenewWarrant(ClientMessage, frozen=True, tag=21):
    """Answered by ``PermitNow`` for a permit that it has; else not."""

    request: int


class AskChoice(ClientMessage, frozen=True, tag=4):
    """Have the user choose who gets a device.  Answered by Chosen or Failed.

    All of these are for the same device.
    """

    request: int
    asked: list[AskedRequest]


class Acted(ClientMessage, frozen=True, tag=6):
    """The user acted in a window of a sandbox, so many seconds ago; not answered."""

    lease: str
    ago: float


class PreviewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a sandbox of a record would ask; ``@adminvm``: the user would."""

    sandbox: str
    record: str
    asked: AskedRequest


class AskPreview(ClientMessage, frozen=True, tag=19):
    """What would be the answers?  To show or to offer something; answered by Previewed."""

    request: int
    asked: list[PreviewRequest]


class AskRules(ClientMessage, frozen=True, tag=20):
    """Which rules are about this?  To offer something; answered by RulesShown.

    ``target`` empty: whatever the target.
    """

    request: int
    service: str
    source: str
    target: str


class ShowQuestion(ClientMessage, frozen=True, tag=22):
    """The user wants the dialog in front; not answered.

    ``token``: the compositor's, for the user's press; empty: there is none.
    """

    token: Annotated[str, msgspec.Meta(max_length=1000, pattern=r"^[ -~]*\Z")]


# -- from the authority -----------------------------------------------------------


class QuestionWaits(AuthorityMessage, frozen=True, tag=52):
    """This question is on the screen; 0: none is.

    ``words`` is what ``sandbox`` wants.  ``covered``: its dialog is an ordinary window,
    and another one is active.
    """

    question: int = 0
    lease: str = ""
    sandbox: str = ""
    words: str = ""
    covered: bool = False


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
    scheme: tuple[str, ...]
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


class Previewed(AuthorityAnswer, frozen=True, tag=50):
    """The answer to AskPreview; None: the record denies, or a rule leads elsewhere."""

    answers: list[Preview | None]


class RulesShown(AuthorityAnswer, frozen=True, tag=51):
    """The answer to AskRules, in the rules' order."""

    rules: list[ShownRule]


class Permitted(AuthorityAnswer, frozen=True, tag=34):
    """It is permitted, and on record."""

    target: str
    where: str
    user: str | None
    autostart: bool
    max_size: int | None
    answered: bool
    returns: bool
    schemes: tuple[str, ...]
    warrant: bytes
    """See ``ipc.session.warrant``."""


class PermitNow(AuthorityAnswer, frozen=True, tag=35):
    """The permit holds, by these rules from now on."""

    where: str
    max_size: int | None
    returns: bool
    warrant: bytes
    """Signed now, for an operation that has begun (``HoldPermit``)."""


class PermitCut(AuthorityAnswer, frozen=True, tag=36):
    """The permit has ended."""

    reason: str
    where: str


class Asking(AuthorityAnswer, frozen=True, tag=37):
    """The user is being asked about it."""


class Chosen(AuthorityAnswer, frozen=True, tag=38):
    """The user chose the request at ``place``, by the question ``question``."""

    place: int
    question: int


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
    | RenewWarrant
    | ShowQuestion
)
FromAuthority: TypeAlias = (
    ToRecorder
    | Permitted
    | PermitNow
    | PermitCut
    | Asking
    | Chosen
    | Previewed
    | RulesShown
    | QuestionWaits
)


decode_from_client: Reader[FromClient] = reader(
    msgspec.msgpack.Decoder(FromClient), "cannot decode the message"
)
"""Return a client's message."""

decode_from_authority: Reader[FromAuthority] = reader(
    msgspec.msgpack.Decoder(FromAuthority), "cannot decode the message"
)
"""Return the authority's message."""
