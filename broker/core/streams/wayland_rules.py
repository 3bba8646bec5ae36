"""How one sandbox's windows are treated: the compiled part of its record.

The viewer compiles it from a record, the worker applies it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from broker.core.errors import RefusedError
from broker.core.streams.wayland_verdicts import GLOBALS, OPTIONS

_COLOR = re.compile(r"#([0-9a-fA-F]{6})")
DEFAULT_BORDER = 4
MAX_BORDER = 64
_WORD = re.compile("[a-z][a-z-]{0,15}")
MAX_MARKS = 8
MAX_STRIP = 120 << 10
"""Pixels of a strip's words: a worker's order has room for them."""


class Fullscreen(enum.Enum):
    """Treatment of a window's request for fullscreen."""

    FAKE = "fake"
    """Maximised, while the application is configured as fullscreen."""
    FRAMED = "framed"
    """Fullscreen with its frame."""
    REAL = "real"
    """Fullscreen without a frame: the sandbox is trusted not to imitate."""


FULLSCREEN_WISH = "fullscreen"
"""The limit that a sandbox with ``Fullscreen.FAKE`` reaches, as others of its windows."""


@dataclass(frozen=True)
class WindowRules:
    """``color`` is 0xRRGGBB; ``border`` and ``top`` are logical pixels (1..64).

    ``allow`` names globals with the verdict OPTION that this sandbox may use;
    ``name`` is in every application id and in the upper strip; ``prefix`` is
    shown before every title, the name where it is empty.  ``deny`` names
    globals that this sandbox does not get although others do; deny wins.
    ``promote``: subsurfaces that reach outside their window become framed
    popups; otherwise they are cropped.
    ``label`` says whether the upper strip has the name; None leaves it to who draws the
    window's title bar: the strip is ``named_top`` high where it is not the compositor.
    ``marks`` follow the name in title and strip, in letters that the strip has: that the
    user is being asked about this sandbox, that it does not answer, and what it uses.
    ``in_use``: it uses a microphone, camera, screen or key, which a red spot in the upper
    edge shows, also of a frame without a name.
    ``strip`` is the coverage of the name's pixels in the upper strip, a byte each in
    ``named_top`` rows; where it is empty, the name is drawn with our letters.
    ``ceilings`` are lower ends than ``sandbox.CEILINGS`` for some counters.
    """

    name: str
    color: int = 0xD01010
    border: int = DEFAULT_BORDER
    top: int = DEFAULT_BORDER
    named_top: int = 0
    """Height of the upper edge with a name; 0: ``top``."""
    label: bool | None = False
    marks: tuple[str, ...] = ()
    in_use: bool = False
    translucent: bool = False
    fullscreen: Fullscreen = Fullscreen.FRAMED
    allow: frozenset[str] = field(default_factory=frozenset)
    prefix: str = ""
    deny: frozenset[str] = field(default_factory=frozenset)
    ceilings: Mapping[str, int] = field(default_factory=dict)
    promote: bool = False
    strip: bytes = b""

    @property
    def shown(self) -> str:
        """The prefix of every title; by default the sandbox's name."""
        return " ".join((self.prefix or self.name, *self.marks))

    @property
    def strip_words(self) -> str:
        """The words of the upper strip."""
        return " ".join((self.name, *self.marks))

    def with_name(self) -> WindowRules:
        """Return the rules for a window for which the compositor draws no title bar."""
        # guard: a window has a name where the compositor shows none
        named = self.label is not False
        top = self.named_top if named else self.top
        # guard: a picture of the name is of its strip's height
        strip = self.strip if top == self.named_top else b""
        return replace(self, label=named, top=top, named_top=top, strip=strip)

    def __post_init__(self) -> None:
        """Check the border's sizes.  Raises RefusedError."""
        if not self.named_top:
            object.__setattr__(self, "named_top", self.top)
        sizes = ("border", self.border), ("top", self.top), ("top", self.named_top)
        for what, value in sizes:
            if not 1 <= value <= MAX_BORDER:
                raise RefusedError(
                    f"invalid window {what}: {value} pixels",
                    hint=f"use 1 to {MAX_BORDER}; windows cannot be shown without a border",
                )
        for text in self.marks:
            if not _WORD.fullmatch(text):
                raise RefusedError(f"invalid word of a frame: {text!r}")
        if len(self.marks) > MAX_MARKS:
            raise RefusedError(f"too many words of a frame: {len(self.marks)}")
        if len(self.strip) % self.named_top or len(self.strip) > MAX_STRIP:
            raise RefusedError(
                f"invalid picture of the name: {len(self.strip)} pixels, {self.named_top} rows"
            )
        for name in self.deny - GLOBALS.keys():
            raise RefusedError(f"the Wayland global {name} is not known")
        for name in self.allow - OPTIONS:
            known = "can never be allowed" if name in GLOBALS else "is not known"
            raise RefusedError(
                f"the Wayland global {name} {known}",
                hint=f"allow only these: {', '.join(sorted(OPTIONS))}",
            )


def takes_away(before: WindowRules, after: WindowRules) -> frozenset[str] | None:
    """Return globals that new rules take away; None when they take more than those.

    Pictures shown without a frame, or translucent, cannot be undone later.
    """
    if before.fullscreen is Fullscreen.REAL is not after.fullscreen:
        return None
    if before.translucent and not after.translucent:
        return None
    return (before.allow - after.allow) | (after.deny - before.deny)


def take_color(text: str) -> int:
    """Return ``#rrggbb`` as a number, or raise RefusedError."""
    match = _COLOR.fullmatch(text)
    if match is None:
        raise RefusedError(
            f"{text!r} is not a colour", hint="write #rrggbb, for example #d01010"
        )
    return int(match[1], 16)
