"""Messages between the supervisor and a worker about the clipboard.

They are part of the unions of ``ipc.worker``.  ``transfer`` is the supervisor's
number of one step of a copy or a paste; a message never names the worker's
sandbox, which is the channel's.

Content is in no message: it comes beside one as a file in memory that is
sealed against every change, so its receiver reads the checked content.

The supervisor is the viewer.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.clipboard.types import DraggedFiles
from broker.core.decoding import TypedMessage
from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as limits

_Text = Annotated[str, msgspec.Meta(max_length=4000)]
_Type = Annotated[str, msgspec.Meta(max_length=limits.WAYLAND_MIME_BYTES)]
_Word = Annotated[str, msgspec.Meta(max_length=40)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=clipboard_limits.CLIPBOARD_BYTES_MOST)]


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of one kind: its place is after the pieces before it.

    ``names`` are the types that it is offered under.
    """

    names: Annotated[list[_Type], msgspec.Meta(min_length=1, max_length=8)]
    size: _Size


_Pieces = Annotated[
    list[Piece], msgspec.Meta(min_length=1, max_length=clipboard_limits.CLIPBOARD_KINDS)
]

# -- supervisor to worker ------------------------------------------------------


class ChordsMessage(TypedMessage, frozen=True, tag="chords"):
    """The chords of the user's choice, as ``clipboard.chords.Chord.parse`` reads them.

    Before the worker has these there are none.
    """

    copy: _Text
    paste: _Text


class AskTypes(TypedMessage, frozen=True, tag="ask-types"):
    """Which types has the sandbox's selection?  Answered by ClipboardTypes.

    ``host``: the user's own one, as the compositor offers it to the
    connection that saw the last paste chord.
    """

    transfer: _Count
    host: bool = False
    primary: bool = False
    """The primary selection, not the copied content."""
    drag: _Type = ""
    """The mark of a drag of its own: the dragged content."""
    drop: _Count = 0
    """With ``host``: the content dropped under this number (DragOver)."""


class ReadType(TypedMessage, frozen=True, tag="read-type"):
    """Read one type of the last requested selection, ``max_bytes`` at most.

    A file of the supervisor's comes with it, to write the content into.
    Answered by ClipboardData, ClipboardLarge or ClipboardFailed.
    """

    transfer: _Count
    name: _Type
    max_bytes: _Size
    host: bool = False


class StopRead(TypedMessage, frozen=True, tag="stop-read"):
    """Nothing more is wanted of this."""

    transfer: _Count


class Rewrite(TypedMessage, frozen=True, tag="rewrite"):
    """Write content again, clean in the ways of ``clean``.

    A sealed file with the content comes with it, and a file of the
    supervisor's to write the result into.
    Answered as ReadType is, with as much as went in or, of a picture, some more.
    """

    transfer: _Count
    kind: _Type
    size: _Size
    clean: Annotated[list[_Word], msgspec.Meta(min_length=1, max_length=4)]


class Offer(TypedMessage, frozen=True, tag="offer"):
    """Make this the sandbox's selection; a sealed file comes with it."""

    transfer: _Count
    pieces: _Pieces
    primary: bool = False
    """As the primary selection, too."""
    drop: _Count = 0
    """Not so: give it to the window where a drag was dropped (DragOver)."""


class DragsMessage(TypedMessage, frozen=True, tag="drags"):
    """Which drags may cross; before the worker has this, none may."""

    cross: bool
    """Drags from and to others are reported, and may be dropped if AcceptDrag comes."""
    outward: Annotated[list[_Type], msgspec.Meta(max_length=limits.WAYLAND_MIMES)]
    """Kinds that a rule lets the user's own programs have of it at once."""


class AcceptDrag(TypedMessage, frozen=True, tag="accept-drag"):
    """The drag may be dropped on the window that it is over (DragOver)."""

    number: _Count


class EndDrag(TypedMessage, frozen=True, tag="end-drag"):
    """Nothing more is wanted of the dropped content (DragOver, DragWanted).

    ``finished``: it was read, and the compositor may be notified.
    """

    number: _Count
    finished: bool = False


class Serve(TypedMessage, frozen=True, tag="serve"):
    """Give it to the requester (DragWanted); a sealed file comes with it."""

    number: _Count
    size: _Size


class Withdraw(TypedMessage, frozen=True, tag="withdraw"):
    """Forget the content offered, or exported, under this number."""

    transfer: _Count


class Export(TypedMessage, frozen=True, tag="export"):
    """Make this the user's own selection, by the right of that press.

    A sealed file comes with it.  ``mark`` is one type more, of a random name,
    by which the compositor's echo is known.  Answered by Exported.
    """

    transfer: _Count
    press: _Count
    pieces: _Pieces
    mark: _Type


ToWorker: TypeAlias = (
    ChordsMessage
    | AskTypes
    | ReadType
    | StopRead
    | Rewrite
    | Offer
    | Withdraw
    | Export
    | DragsMessage
    | AcceptDrag
    | EndDrag
    | Serve
)

# -- worker to supervisor ------------------------------------------------------


class ClipboardFocus(TypedMessage, frozen=True, tag="clipboard-focus"):
    """One of the sandbox's windows has the keyboard, or none has it any more."""

    taken: bool


class ChordPressed(TypedMessage, frozen=True, tag="chord-pressed"):
    """The compositor sent a chord to one of its windows; ``press`` counts them.

    ``window`` is the title of that window.  ``desktop`` stands for the types of the
    user's own selection, as the compositor offers it there; empty: there is none.
    """

    press: _Count
    paste: bool
    window: _Text = ""
    desktop: _Word = ""


class ChordTroubleMessage(TypedMessage, frozen=True, tag="chord-trouble"):
    """Why there are no chords, or less than two; empty when they work again."""

    reason: _Text


class ClipboardTypes(TypedMessage, frozen=True, tag="clipboard-types"):
    """The answer to AskTypes; none if there is no selection."""

    transfer: _Count
    types: Annotated[list[_Type], msgspec.Meta(max_length=limits.WAYLAND_MIMES)]


class ClipboardData(TypedMessage, frozen=True, tag="clipboard-data"):
    """All of one type: ``size`` bytes in the supervisor's file of that transfer."""

    transfer: _Count
    size: _Size


class ClipboardLarge(TypedMessage, frozen=True, tag="clipboard-large"):
    """The content has more than ``max_bytes``; nothing of it is kept."""

    transfer: _Count


class ClipboardFailed(TypedMessage, frozen=True, tag="clipboard-failed"):
    """The source died, stalled, or its selection was replaced."""

    transfer: _Count
    reason: _Text


class OfferEnded(TypedMessage, frozen=True, tag="offer-ended"):
    """The sandbox has another selection than the offered one."""

    transfer: _Count


class OfferRefused(TypedMessage, frozen=True, tag="offer-refused"):
    """The content was not offered."""

    transfer: _Count
    reason: _Text


class Exported(TypedMessage, frozen=True, tag="exported"):
    """The compositor has taken the export; or there is a ``problem``."""

    transfer: _Count
    problem: _Text = ""


class ExportEnded(TypedMessage, frozen=True, tag="export-ended"):
    """Another selection took its place (``replaced``), or its connection ended."""

    transfer: _Count
    replaced: bool = False


class ForeignDrag(TypedMessage, frozen=True, tag="foreign-drag"):
    """A drag of another sandbox came over a window, which received nothing of it."""


class DragStarted(TypedMessage, frozen=True, tag="drag-started"):
    """An application drags; others see nothing of it but the mark."""

    mark: _Type


class DragPerformed(TypedMessage, frozen=True, tag="drag-performed"):
    """The compositor says of its drag that it was dropped where it is accepted."""

    mark: _Type


class DragEnded(TypedMessage, frozen=True, tag="drag-ended"):
    """The drag is over, or its source is gone."""

    mark: _Type


class DragOverMessage(TypedMessage, frozen=True, tag="drag-over"):
    """A drag from elsewhere is over a window, which was shown nothing of it.

    ``mark`` is empty for one of the user's own programs'.
    """

    number: _Count
    mark: _Type
    files: DraggedFiles = ""


class DragDropped(TypedMessage, frozen=True, tag="drag-dropped"):
    """The drag was dropped there."""

    number: _Count


class DragWantedMessage(TypedMessage, frozen=True, tag="drag-wanted"):
    """One of the user's own programs asks for a type of the dragged content."""

    number: _Count
    mark: _Type
    name: _Type


Report: TypeAlias = (
    ClipboardFocus
    | ChordPressed
    | ChordTroubleMessage
    | ClipboardTypes
    | ClipboardLarge
    | ClipboardFailed
    | OfferEnded
    | OfferRefused
    | Exported
    | ExportEnded
    | ForeignDrag
    | DragStarted
    | DragPerformed
    | DragEnded
    | DragOverMessage
    | DragDropped
    | DragWantedMessage
)
"""All but ClipboardData, of which the supervisor reads the file first."""

FromWorker: TypeAlias = Report | ClipboardData
