"""What an X11 window's properties say (ICCCM 4.1.2, EWMH), within bounds."""

from __future__ import annotations

import struct
from typing import Callable, Dict, FrozenSet, NamedTuple, Optional, Tuple

from shims.x11.x11 import Property

NAMES = (
    "_NET_WM_NAME", "WM_NAME", "WM_CLASS", "WM_TRANSIENT_FOR", "WM_PROTOCOLS", "WM_HINTS",
    "WM_NORMAL_HINTS", "_NET_WM_WINDOW_TYPE", "_NET_WM_STATE", "_MOTIF_WM_HINTS",
    "_GTK_FRAME_EXTENTS", "_NET_WM_SYNC_REQUEST_COUNTER",
)  # fmt: skip
_MOST_TEXT = 400
MOST_SIDE = 16384
_MOST_EXTENT = 256
_MIN_SIZE, _MAX_SIZE, _INPUT, _DECORATIONS = 16, 32, 1, 2
_MENUS = ("MENU", "POPUP_MENU", "DROPDOWN_MENU", "COMBO", "TOOLTIP")


class Hints(NamedTuple):
    """A window's wishes; sizes are in X11's pixels, 0 for none."""

    title: str = ""
    app_id: str = ""
    transient: int = 0
    protocols: FrozenSet[str] = frozenset()
    types: FrozenSet[str] = frozenset()
    states: FrozenSet[str] = frozenset()
    takes_keys: bool = True
    smallest: Tuple[int, int] = (0, 0)
    largest: Tuple[int, int] = (0, 0)
    decorated: bool = True
    extents: Tuple[int, int, int, int] = (0, 0, 0, 0)
    counter: int = 0

    @property
    def menu(self) -> bool:
        """Whether its type is a menu's, which is not always override-redirect."""
        return any(kind in self.types for kind in _MENUS)

    @property
    def stands_alone(self) -> bool:
        """Whether it is never a popup of a window."""
        return bool(self.types & {"SPLASH", "NOTIFICATION"})


def hints(found: Dict[str, Optional[Property]], name: Callable[[int], str]) -> Hints:
    """Read properties; ``name`` has the names of known atoms. Unknown values mean none."""

    def words(key: str) -> Tuple[int, ...]:
        value = found.get(key)
        return value.words() if value is not None else ()

    def names(key: str, prefix: str = "") -> FrozenSet[str]:
        known = {name(atom) for atom in words(key)[:64]}
        return frozenset(n[len(prefix) :] for n in known if n.startswith(prefix) and n)

    counter = words("_NET_WM_SYNC_REQUEST_COUNTER")
    transient = words("WM_TRANSIENT_FOR")
    wm, motif = words("WM_HINTS"), words("_MOTIF_WM_HINTS")
    smallest, largest = _sizes(found.get("WM_NORMAL_HINTS"))
    extents = words("_GTK_FRAME_EXTENTS")[:4]
    return Hints(
        _text(found.get("_NET_WM_NAME"), "utf-8")
        or _text(found.get("WM_NAME"), "latin-1"),
        _class(found.get("WM_CLASS")),
        transient[0] if transient else 0,
        names("WM_PROTOCOLS"),
        names("_NET_WM_WINDOW_TYPE", "_NET_WM_WINDOW_TYPE_"),
        names("_NET_WM_STATE", "_NET_WM_STATE_"),
        not (len(wm) > 1 and wm[0] & _INPUT and not wm[1]),
        smallest,
        largest,
        not (len(motif) > 2 and motif[0] & _DECORATIONS and not motif[2] & 1),
        tuple(min(e, _MOST_EXTENT) for e in extents) if len(extents) == 4 else (0,) * 4,  # type: ignore[arg-type]
        counter[0] if counter else 0,
    )


def _text(value: Optional[Property], encoding: str) -> str:
    if value is None or value.format != 8:
        return ""
    return value.data.split(b"\0")[0].decode(encoding, "replace")[:_MOST_TEXT]


def _class(value: Optional[Property]) -> str:
    """The class of WM_CLASS, by which desktops find a program's icon; else its name."""
    if value is None or value.format != 8:
        return ""
    parts = [*value.data.split(b"\0"), b""]
    return (parts[1] or parts[0]).decode("latin-1")[:_MOST_TEXT]


def _sizes(value: Optional[Property]) -> Tuple[Tuple[int, int], Tuple[int, int]]:
    words = value.words() if value is not None else ()
    if len(words) < 9:
        return (0, 0), (0, 0)
    found = struct.unpack("<9i", struct.pack("<9I", *words[:9]))
    sides = [max(0, min(side, MOST_SIDE)) for side in found[5:9]]
    smallest = (sides[0], sides[1]) if words[0] & _MIN_SIZE else (0, 0)
    largest = (sides[2], sides[3]) if words[0] & _MAX_SIZE else (0, 0)
    # For xdg_toplevel a maximum below the minimum is an error of the client's.
    wide = max(largest[0], smallest[0]) if largest[0] else 0
    high = max(largest[1], smallest[1]) if largest[1] else 0
    return smallest, (wide, high)
