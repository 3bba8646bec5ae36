"""Orders about the user's display: compositor, fonts, chords.

They need no warrant: each says why it harms nobody.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import TypedMessage


class FindCompositor(TypedMessage, frozen=True, tag="find-compositor"):
    """Find the running compositor.  Answer: the path of its socket, empty without one.

    It is the session's, and the order names none.
    """


class ReadChords(TypedMessage, frozen=True, tag="read-chords"):
    """Read which chords the user wants.  Answer: a file with the choice.

    No warrant: the viewer shows and sends them.
    """


class DrawLetters(TypedMessage, frozen=True, tag="draw-letters"):
    """Draw the letters of names in frames, in the user's font.  Answer: a file of them.

    No warrant: it tells what any picture of a frame does.
    """

    height: Annotated[int, msgspec.Meta(ge=1, le=256)]


DisplayOrder: TypeAlias = FindCompositor | ReadChords | DrawLetters
"""Orders of this family."""
