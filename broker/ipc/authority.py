"""Calls between the authority and the viewer about permits.

The authority decides and records; the viewer holds streams, windows or machines.  It
names a lease by its id: what a lease is, the authority knows from its announcement.  A
permit is a call that lasts as long as what it permits.

The calls that the host makes, too, are in ``audit.log_rows``.  Frames are as ``framing``
has them, over a pair of stream sockets without a name.  The authority ends a channel
whose client sends anything that it may not send.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from broker.core.question import PageImage
from broker.ipc.audit import log_rows
from broker.ipc.audit.log_rows import AuthorityMessage
from broker.wire.row import Empty, ProcessKind, Row, rows_of

_AUTHORITY: Final = frozenset({ProcessKind.AUTHORITY})
_VIEWER: Final = frozenset({ProcessKind.VIEWER})
_Call: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""The number of a call on this connection; 0: of none."""


# -- the authority serves ----------------------------------------------------------


class AskedDevice(AuthorityMessage, frozen=True):
    """The device that a request is about; an interface is ``CC:SS:PP``."""

    id: str
    serial: str
    port: str
    hash: str
    interfaces: list[str]


class AskedRequest(AuthorityMessage, frozen=True):
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


class AskPermit(AuthorityMessage, frozen=True):
    """Decide a request of a sandbox, and hold its permit until ``PermitOver`` or a cut.

    The lease must have been announced, and not ended.  The answer says that the permit
    has ended.
    """

    asked: AskedRequest
    covered: _Call = 0
    """A permit whose question named this request as well."""
    chosen: int = 0
    """The number of the question whose answer chose it; 0: no question."""


class PermitOver(AuthorityMessage, frozen=True):
    """The permitted operation has ended, or is no longer wanted."""

    permit: _Call
    used: bool = False
    """Whether it had begun, so that the client records its end."""


class NamedPermit(AuthorityMessage, frozen=True):
    """A notice about a permit, which may have ended meanwhile."""

    permit: _Call


class ChoiceRequest(AuthorityMessage, frozen=True):
    """Have the user choose which of these requests, all for one device, is granted."""

    asked: list[AskedRequest]


class Acted(AuthorityMessage, frozen=True):
    """The user acted in a window of a sandbox, so many seconds ago."""

    lease: str
    ago: float


class PreviewRequest(AuthorityMessage, frozen=True):
    """What a sandbox of a record would ask; ``@adminvm``: the user would."""

    sandbox: str
    record: str
    asked: AskedRequest


class PreviewRequests(AuthorityMessage, frozen=True):
    """Return what would be the answers, to show or to offer something."""

    asked: list[PreviewRequest]


class RulesRequest(AuthorityMessage, frozen=True):
    """Return the rules about a service and a source, to offer something."""

    service: str
    source: str
    target: str
    """Empty: whatever the target."""


class ShowQuestion(AuthorityMessage, frozen=True):
    """The user wants the dialog in front."""

    token: Annotated[str, msgspec.Meta(max_length=1000, pattern=r"^[ -~]*\Z")]
    """The compositor's, for the user's press; empty: there is none."""


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


class Previews(AuthorityMessage, frozen=True):
    """Answers; None: the record denies, or a rule leads elsewhere."""

    answers: list[Preview | None]


class ShownRules(AuthorityMessage, frozen=True):
    """Rules, in their order."""

    rules: list[ShownRule]


class Permitted(AuthorityMessage, frozen=True):
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


class PermitNow(AuthorityMessage, frozen=True):
    """The permit holds, by these rules from now on."""

    where: str
    max_size: int | None
    returns: bool
    warrant: bytes
    """Signed now, for an operation that has begun (``HoldPermit``)."""


class PermitCut(AuthorityMessage, frozen=True):
    """The permit has ended."""

    reason: str
    where: str


class PermitNews(AuthorityMessage, frozen=True):
    """A step in the life of a permit: at most one of these; none: the user is asked."""

    granted: Permitted | None = None
    changed: PermitNow | None = None
    cut: PermitCut | None = None


class Chosen(AuthorityMessage, frozen=True):
    """The user chose the request at ``place``, by the question ``question``."""

    place: int
    question: int


PERMIT: Final = Row("Permit", AskPermit, Empty, _AUTHORITY, _VIEWER, item=PermitNews)
PERMIT_OVER: Final[Row[PermitOver, Empty]] = Row(
    "PermitOver", PermitOver, None, _AUTHORITY, _VIEWER
)
PERMIT_GONE: Final[Row[NamedPermit, Empty]] = Row(
    "PermitGone", NamedPermit, None, _AUTHORITY, _VIEWER
)
"""The program that asked has given up; a yes counts for its next request."""
RENEW_WARRANT: Final[Row[NamedPermit, Empty]] = Row(
    "RenewWarrant", NamedPermit, None, _AUTHORITY, _VIEWER
)
"""Sign the warrant of a permit again, if it has not ended."""
CHOOSE: Final = Row(
    "Choose", ChoiceRequest, Chosen, _AUTHORITY, _VIEWER, droppable=True
)
ACTED: Final[Row[Acted, Empty]] = Row("Acted", Acted, None, _AUTHORITY, _VIEWER)
PREVIEW: Final = Row("Preview", PreviewRequests, Previews, _AUTHORITY, _VIEWER)
RULES_ABOUT: Final = Row("RulesAbout", RulesRequest, ShownRules, _AUTHORITY, _VIEWER)
SHOW_QUESTION: Final[Row[ShowQuestion, Empty]] = Row(
    "ShowQuestion", ShowQuestion, None, _AUTHORITY, _VIEWER
)


# -- the viewer serves -------------------------------------------------------------


class QuestionWaits(AuthorityMessage, frozen=True):
    """Another question is on the screen, or none."""

    question: int = 0
    """The number of the question; 0: none waits."""
    lease: str = ""
    sandbox: str = ""
    words: str = ""
    """What ``sandbox`` wants."""
    covered: bool = False
    """Whether its dialog is an ordinary window, and another one is active."""


QUESTION_WAITS: Final[Row[QuestionWaits, Empty]] = Row(
    "QuestionWaits", QuestionWaits, None, _VIEWER, _AUTHORITY
)

AUTHORITY_ROWS: Final = rows_of({**vars(log_rows), **globals()})
"""The rows of the authority and its clients."""
