"""Orders about the user's display: compositor, fonts, chords."""

from __future__ import annotations

from typing import Annotated

import msgspec

from broker.ipc.session.order import ENDS, OrderMessage
from broker.wire.row import Empty, Row


class FindCompositor(OrderMessage, frozen=True):
    """Find the running compositor.

    No permit: it is the session's, and the order names none.
    """


class FoundCompositor(OrderMessage, frozen=True):
    """The path of the compositor's socket; empty without one."""

    path: bytes


class ReadChords(OrderMessage, frozen=True):
    """Read which chords the user wants.  Descriptor of the answer: a file with the choice.

    No permit: the viewer shows and sends them.
    """


class DrawLetters(OrderMessage, frozen=True):
    """Draw the letters of names in frames, in the user's font.

    Descriptor of the answer: a file of them.

    No permit: it tells what any picture of a frame does.
    """

    height: Annotated[int, msgspec.Meta(ge=1, le=256)]


FIND_COMPOSITOR = Row("FindCompositor", FindCompositor, FoundCompositor, *ENDS)
READ_CHORDS = Row("ReadChords", ReadChords, Empty, *ENDS, gives=1)
DRAW_LETTERS = Row("DrawLetters", DrawLetters, Empty, *ENDS, gives=1)
