"""The icon of a sandbox's program, as replies and signals for a panel.

Its picture is the sandbox's pixels in a frame of the sandbox's colour, its title begins
with the sandbox's name, and it has no menu.  No input or output.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from broker.core.escape import printable
from broker.core.limits.tray import ICON_PIXELS, ICON_TITLE_CHARS
from broker.ipc.guest.daemons import ShowIcon
from broker.net.session_bus import PROPERTIES, Reply, UnknownCallError
from broker.viewer.tray.panel_bus import (
    ITEM,
    ITEM_PATH,
    NOTHING_MORE,
    PanelSignal,
    Variant,
)

_FRAME = 5
"""Pixels of the frame: two of an icon with 24."""
SECOND: Final = "SecondaryActivate"
"""A click with the middle button."""
_PRESSES: Final = frozenset({"Activate", SECOND})
_OTHERS = frozenset({"ContextMenu", "Scroll"})
_PLAIN = str.maketrans("<>&", "＜＞＆")
"""Panels read markup in a title (waybar 0.9.17), or show it as it is (KDE): these mean
the same in both."""


class SandboxItem:
    """One program's icon in the panel."""

    def __init__(self, sandbox: str, number: int, colour: int) -> None:
        self._sandbox = sandbox
        self._id = f"vitrail-{sandbox}-{number}"
        self._colour = colour
        self._title = f"[{sandbox}]"
        self._picture = b""
        self._pixels = framed(b"", colour)

    def update(self, ask: ShowIcon) -> list[PanelSignal]:
        """Set another picture or title; return the signals for the panel."""
        # guard: a sandbox's title is plain, and after its name
        words = printable(ask.title, ICON_TITLE_CHARS).translate(_PLAIN)
        title = f"[{self._sandbox}] {words}"
        self._picture = ask.pixels
        told = self.recolour(self._colour)
        if title != self._title:
            told += [
                PanelSignal(ITEM_PATH, ITEM, n) for n in ("NewTitle", "NewToolTip")
            ]
        self._title = title
        return told

    def recolour(self, colour: int) -> list[PanelSignal]:
        """Draw the frame in a colour; return the signals for the panel."""
        self._colour = colour
        before, self._pixels = self._pixels, framed(self._picture, colour)
        same = self._pixels == before
        return [] if same else [PanelSignal(ITEM_PATH, ITEM, "NewIcon")]

    def call(
        self, path: str, interface: str, member: str, body: tuple[Any, ...]
    ) -> tuple[Reply, str | None]:
        """Answer a call of a panel; return the reply, and which click it was.

        Raises UnknownCallError.
        """
        if path == ITEM_PATH and interface == PROPERTIES and body[:1] == (ITEM,):
            values = self._properties()
            if member == "GetAll":
                return ("a{sv}", (values,)), None
            if member == "Get" and len(body) == 2 and body[1] in values:
                return ("v", (values[body[1]],)), None
        if path == ITEM_PATH and interface == ITEM and member in _PRESSES:
            return ("", ()), member
        if path == ITEM_PATH and interface == ITEM and member in _OTHERS:
            return ("", ()), None
        raise UnknownCallError(f"no method {member} of {interface} at {path}")

    def _properties(self) -> dict[str, Variant]:
        pictures = [(ICON_PIXELS, ICON_PIXELS, self._pixels)]
        return {
            **NOTHING_MORE,
            "Category": ("s", "ApplicationStatus"),
            "Id": ("s", self._id),
            "Title": ("s", self._title),
            "Status": ("s", "Active"),
            "IconPixmap": ("a(iiay)", pictures),
            "ToolTip": ("(sa(iiay)ss)", ("", [], self._title, "")),
            "ItemIsMenu": ("b", False),
            "Menu": ("o", "/NO_DBUSMENU"),
        }


def framed(pixels: bytes, colour: int) -> bytes:
    """Return the picture in its frame; a square of the colour for one without pixels."""
    edge = struct.pack(">I", 0xFF000000 | colour)
    # guard: an icon is in the frame of its sandbox
    whole = edge * ICON_PIXELS
    rows = [whole] * _FRAME
    for place in range(_FRAME, ICON_PIXELS - _FRAME):
        start = 4 * (place * ICON_PIXELS + _FRAME)
        end = 4 * (place * ICON_PIXELS + ICON_PIXELS - _FRAME)
        rows.append(
            edge * _FRAME + pixels[start:end] + edge * _FRAME if pixels else whole
        )
    return b"".join([*rows, *[whole] * _FRAME])
