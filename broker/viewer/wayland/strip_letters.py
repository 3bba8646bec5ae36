"""The sandbox's name for the strip of its frames, in the user's own font."""

from __future__ import annotations

import base64

import msgspec

from broker.core.errors import SetupError, UpstreamError
from broker.core.stderr_log import log_stderr
from broker.ipc.session.display_orders import DRAW_LETTERS, DrawLetters
from broker.viewer.orders.session_orders import UserSession, answered_file

_PAD = 3
"""Pixels left and right of the name."""

Letters = dict[str, tuple[int, bytes]]
"""Width and coverage (a byte for each pixel, row after row) of each character."""


class StripLetters:
    """The letters of each height, drawn at its first use."""

    def __init__(self, session: UserSession) -> None:
        self._session = session
        self._found: dict[int, Letters] = {}

    def has(self, height: int) -> bool:
        """Return whether the letters of a height are drawn already."""
        return height in self._found

    async def name(self, name: str, height: int) -> bytes:
        """Return the coverage of a name: a byte for each pixel of ``height`` rows.

        Nothing where the desktop has no font for it or no room; frames then have the
        letters of our own.
        """
        if height not in self._found:
            self._found[height] = await self._letters(height)
        letters = self._found[height]
        return compose(name, letters, height) if letters else b""

    async def _letters(self, height: int) -> Letters:
        """Have a session child draw the letters of a font of the desktop."""
        try:
            content = await answered_file(
                self._session, DRAW_LETTERS, DrawLetters(height)
            )
            found = msgspec.json.decode(content, type=dict[str, tuple[int, str]])
        except (SetupError, UpstreamError, ValueError, RecursionError) as error:
            log_stderr(f"name strip: cannot use a font of the desktop: {error}")
            return {}
        return {
            c: (width, base64.b64decode(text)) for c, (width, text) in found.items()
        }


def compose(name: str, letters: Letters, height: int) -> bytes:
    """Return the coverage of a name; characters without a letter are left out."""
    parts = [letters[char] for char in name if char in letters]
    pad = bytes(_PAD)
    return b"".join(
        pad + b"".join(p[y * w : (y + 1) * w] for w, p in parts) + pad
        for y in range(height)
    )
