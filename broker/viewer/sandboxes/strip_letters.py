"""The sandbox's name for the strip of its frames, in the user's own font.

The default is fontconfig's bold sans-serif; an alias for the family ``Vitrail`` in
``fonts.conf`` chooses another.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import msgspec

import broker
from broker.core.errors import SetupError, UpstreamError
from broker.core.stderr_log import log_stderr
from broker.helpers.process.spawn import run_tool

PATTERN = "Vitrail,sans-serif:bold"
_MODULE = "broker.helpers.prompt.name_strip"
_PAD = 3
"""Pixels left and right of the name."""

Letters = dict[str, tuple[int, bytes]]
"""Width and coverage (a byte for each pixel, row after row) of each character."""


class StripLetters:
    """The letters of each height, drawn at its first use."""

    def __init__(self, pattern: str = PATTERN) -> None:
        self._pattern = pattern
        self._found: dict[int, Letters] = {}

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
        try:
            file, index = await self._font()
            flags = ["-s", "-P", "-B"]
            env = {
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": str(Path(broker.__file__).parents[1]),
            }
            words = [sys.executable, *flags, "-m", _MODULE, str(height), file, index]
            out = await run_tool(words, env=env)
            found = msgspec.json.decode(out, type=dict[str, tuple[int, str]])
        except (SetupError, UpstreamError, OSError, ValueError) as error:
            log_stderr(f"name strip: no font of the desktop's: {error}")
            return {}
        return {
            c: (width, base64.b64decode(text)) for c, (width, text) in found.items()
        }

    async def _font(self) -> tuple[str, str]:
        words = ("fc-match", "--format", "%{file}\n%{index}", self._pattern)
        file, _, index = (await run_tool(words)).decode().rpartition("\n")
        # The upper half names an instance of a variable font (FT_New_Face).
        return file, str(int(index or 0) & 0xFFFF)


def compose(name: str, letters: Letters, height: int) -> bytes:
    """Return the coverage of a name; characters without a letter are left out."""
    parts = [letters[char] for char in name if char in letters]
    pad = bytes(_PAD)
    return b"".join(
        pad + b"".join(p[y * w : (y + 1) * w] for w, p in parts) + pad
        for y in range(height)
    )
