"""The events and the actions of ``crossing``.

An event is a report of a worker (``ipc.clipboard``), or one of those below.  The
sandbox whose worker sent it is beside it: the session knows that by the connection,
it is never taken from a message, so no worker speaks for another.  An order has the
message for a worker, and that worker's sandbox beside it.
"""

from __future__ import annotations

import enum

import msgspec
from typing_extensions import override

from broker.core.clipboard.types import DEFAULT_PATTERNS
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc

VIEWER = "@adminvm"
"""The user's own programs, as rules name them."""


class _Message(msgspec.Struct, frozen=True):
    """Base of all: forty dataclasses would take a tenth of the viewer's loading."""


class CopyTerms(_Message, frozen=True):
    """Limits of a copy out of a sandbox, before the target is known.

    Also what may be read of the user's own selection, for a paste.
    """

    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    max_bytes: int = limits.CLIPBOARD_BYTES
    """Size of all types together; bytes."""
    ttl: float = limits.CLIPBOARD_SECONDS
    """How long it may be pasted; seconds."""
    primary: bool = False
    """Where nothing is copied, the primary selection counts."""
    files: bool = False
    """Of the user's own drag nothing is read but the key to its files."""


class PasteTerms(_Message, frozen=True):
    """Terms of one paste: the strictest of its rule and records."""

    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    max_bytes: int = limits.CLIPBOARD_BYTES
    ttl: float = limits.CLIPBOARD_SECONDS
    """How old it may be, and how long the offer is in the target; seconds."""
    primary: bool = False
    """Whether it becomes the target's primary selection as well."""
    clean: frozenset[str] = frozenset()
    """``plain``, ``controls``, ``images``, as in a record."""
    rule: str = ""
    """``file:line``, for the log."""


class Item(_Message, frozen=True):
    """Content of one kind.  It is not in ``repr``, so in no log by mistake."""

    kind: str
    data: bytes

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind!r})"


# -- in -----------------------------------------------------------------------------


class CopyPressed(_Message, frozen=True):
    """A worker saw the copy chord; ``press`` is its number for it.

    ``outward``: a rule may let it into the user's own selection as well.
    ``window`` and ``desktop`` are those of ``ipc.ChordPressed``.
    """

    terms: CopyTerms = CopyTerms()
    press: int = 0
    outward: bool = False
    window: str = ""
    desktop: str = ""


class PastePressed(_Message, frozen=True):
    """A worker saw the paste chord.

    ``host``: what may be read of the user's own selection when nothing was
    copied by chord; None: no rule lets any of it in.  ``desktop``: that of
    ``ipc.ChordPressed``.
    """

    host: CopyTerms | None = None
    desktop: str = ""


class CheckedContent(_Message, frozen=True):
    """ClipboardData whose file was checked and read: the answer to Read or Rewrite."""

    transfer: int
    untrusted_data: bytes

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.transfer!r})"


class Decided(_Message, frozen=True):
    """Policy's answer to AskPolicy; no terms: denied."""

    transfer: int
    terms: PasteTerms | None
    reason: str = ""


class ConsentRevoked(_Message, frozen=True):
    """Policy no longer allows the current offer in that sandbox."""

    transfer: int
    reason: str


class DragOver(_Message, frozen=True):
    """A worker says that a drag from elsewhere is over a window of its sandbox.

    ``number`` is its own for it; ``mark`` is empty for one of the user's own
    programs'.  No terms: no rule lets it in, or for that ``reason``.
    """

    number: int
    mark: str
    terms: CopyTerms | None = None
    reason: str = ""


class DragWanted(_Message, frozen=True):
    """A worker says that the user's own programs want a type of its drag.

    ``number`` is its own for it.  No terms: no rule lets it out.
    """

    number: int
    mark: str
    untrusted_name: str
    terms: CopyTerms | None = None


class SandboxGone(_Message, frozen=True):
    """Its lease or its worker ended."""


class EpochChanged(_Message, frozen=True):
    """The link to the host is another one: identities must be asked for again."""


class Cleared(_Message, frozen=True):
    """The user ran ``brokerctl clipboard clear``."""


class Ticked(_Message, frozen=True):
    """Time has passed (``Crossing.deadline``)."""


DragEvent = (
    ipc.ForeignDrag
    | ipc.DragStarted
    | ipc.DragPerformed
    | ipc.DragEnded
    | DragOver
    | ipc.DragDropped
    | DragWanted
)

GivenEvent = (
    ipc.OfferEnded | ipc.OfferRefused | ConsentRevoked | ipc.Exported | ipc.ExportEnded
)
"""The fate of given content."""

Answer = ipc.ClipboardTypes | CheckedContent | ipc.ClipboardLarge | ipc.ClipboardFailed
"""A worker's answers to a request to read or to rewrite."""

Event = (
    ipc.ClipboardFocus
    | CopyPressed
    | PastePressed
    | Answer
    | Decided
    | GivenEvent
    | DragEvent
    | SandboxGone
    | EpochChanged
    | Cleared
    | Ticked
)

# -- out -----------------------------------------------------------------------------


class WorkerOrder(_Message, frozen=True):
    """An order to the worker of ``sandbox``; its content is beside it, as in ipc."""

    sandbox: str
    message: ipc.ToWorker
    items: tuple[Item, ...] = ()


class AskPolicy(_Message, frozen=True):
    """May this go from ``source`` to ``target``?  Answered by Decided.

    ``origin``: the user's selection was itself copied out of that sandbox,
    so what holds from there holds as well.
    """

    transfer: int
    source: str
    target: str
    kinds: tuple[tuple[str, int | None], ...]
    """Each kind and its size in bytes; None: not known before it is read."""
    origin: str = ""
    drag: bool = False
    """Whether it was dragged there, not copied."""


class CarryFiles(_Message, frozen=True):
    """Have the files' bytes go to the target by ``vitrail.FileCopy``.

    ``files`` are addresses that only the source may use: they are its own.
    """

    transfer: int
    source: str
    target: str
    files: tuple[str, ...]


class CarryDropped(_Message, frozen=True):
    """Have the user's files that were dropped go to the target by ``vitrail.FileCopy``.

    ``key``: by which the document portal knows them; a worker has read it.
    """

    target: str
    untrusted_key: str


class Blame(_Message, frozen=True):
    """A worker sent an impossible message: its sandbox's streams end."""

    sandbox: str
    reason: str


class Outcome(enum.Enum):
    """Outcome of a chord."""

    COPIED = "copied"
    PASTED = "pasted"
    EXPORTED = "exported"
    """The content is to become the user's own selection."""
    REFUSED = "refused"
    DROPPED = "dropped"
    """The transfer had begun and was given up."""
    EXPIRED = "expired"
    CLEARED = "cleared"


class RecordCrossing(_Message, frozen=True):
    """For the log and the user: never content."""

    outcome: Outcome
    source: str = ""
    target: str = ""
    kinds: tuple[str, ...] = ()
    size: int = 0
    """Bytes, of all kinds together."""
    reason: str = ""
    rule: str = ""
    digest: str = ""
    """Keyed hash; only where the setting asks for it."""
    selection: str = "clipboard"
    """Or ``primary``, ``drag``."""
    by_policy: bool = False
    """Refused by the policy, which has recorded that already."""
    window: str = ""
    """The title of the window in which it was copied."""
    outward: bool = True
    """Whether a rule may let what was copied into the user's own programs."""


Action = WorkerOrder | AskPolicy | CarryFiles | CarryDropped | Blame | RecordCrossing
