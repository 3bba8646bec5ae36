"""What an X11 window's properties say (ICCCM 4.1.2, EWMH), within bounds."""

from __future__ import annotations

from typing import Callable, NamedTuple

from shims.x11.compound_text import decode_compound_text
from shims.x11.x11 import NOTHING, Property

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
    protocols: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    takes_keys: bool = True
    smallest: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)
    decorated: bool = True
    extents: tuple[int, int, int, int] = (0, 0, 0, 0)
    counter: int = 0

    @property
    def menu(self) -> bool:
        """Return whether the window's type is a menu's, override-redirect or not."""
        return any(kind in self.types for kind in _MENUS)


def hints(found: dict[str, Property], name: Callable[[int], str]) -> Hints:
    """Return the hints in a window's properties; what is malformed gives the default.

    ``name`` returns the name of a known atom, or an empty string.
    """

    def words(key: str) -> tuple[int, ...]:
        return found.get(key, NOTHING).words()

    def text(key: str, encoding: str = "") -> list[str]:
        """Return the strings of a property, by its type unless an encoding is given."""
        value = found.get(key, NOTHING)
        kind = encoding or name(value.kind)
        parts = (value.data if value.format == 8 else b"").split(b"\0")
        return [_decoded(part, kind)[:_MOST_TEXT] for part in parts]

    def names(key: str, prefix: str = "") -> frozenset[str]:
        known = {name(atom) for atom in words(key)[:64]}
        return frozenset(n[len(prefix) :] for n in known if n.startswith(prefix) and n)

    wm, motif = words("WM_HINTS"), words("_MOTIF_WM_HINTS")
    extents = words("_GTK_FRAME_EXTENTS")[:4]
    return Hints(
        text("_NET_WM_NAME", "UTF8_STRING")[0] or text("WM_NAME")[0],
        # The class, by which desktops find a program's icon; else its name.
        next(filter(None, text("WM_CLASS")[1::-1]), ""),
        (*words("WM_TRANSIENT_FOR"), 0)[0],
        names("WM_PROTOCOLS"),
        names("_NET_WM_WINDOW_TYPE", "_NET_WM_WINDOW_TYPE_"),
        names("_NET_WM_STATE", "_NET_WM_STATE_"),
        not (len(wm) > 1 and wm[0] & _INPUT and not wm[1]),
        *_sizes(words("WM_NORMAL_HINTS")),
        not (len(motif) > 2 and motif[0] & _DECORATIONS and not motif[2] & 1),
        tuple(min(e, _MOST_EXTENT) for e in extents) if len(extents) == 4 else (0,) * 4,  # type: ignore[arg-type]
        (*words("_NET_WM_SYNC_REQUEST_COUNTER"), 0)[0],
    )


def _decoded(data: bytes, kind: str) -> str:
    """Return a string of a property of this type (ICCCM 2.7.1)."""
    if kind == "COMPOUND_TEXT":
        return decode_compound_text(data)
    return data.decode("utf-8" if kind == "UTF8_STRING" else "latin-1", "replace")


def _sizes(words: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return smallest and largest size of WM_NORMAL_HINTS; 0: none."""
    if len(words) < 9:
        return (0, 0), (0, 0)
    # Negative ones are invalid.
    sides = [min(side, MOST_SIDE) if side < 1 << 31 else 0 for side in words[5:9]]
    smallest = (sides[0], sides[1]) if words[0] & _MIN_SIZE else (0, 0)
    largest = (sides[2], sides[3]) if words[0] & _MAX_SIZE else (0, 0)
    # For xdg_toplevel a maximum below the minimum is an error of the client's.
    wide = max(largest[0], smallest[0]) if largest[0] else 0
    high = max(largest[1], smallest[1]) if largest[1] else 0
    return smallest, (wide, high)
