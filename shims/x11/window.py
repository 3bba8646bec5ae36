"""X11 windows and Wayland surfaces, as the bridge knows them."""

from __future__ import annotations

from typing import Iterable, Optional

from shims.x11.objects import Maybe, WireObject
from shims.x11.properties import Hints

MAXIMIZED, FULLSCREEN = 1, 2
STATES = {
    "FULLSCREEN": FULLSCREEN,
    "MAXIMIZED_VERT": MAXIMIZED,
    "MAXIMIZED_HORZ": MAXIMIZED,
    "FOCUSED": 4,
}
"""States of xdg_toplevel by those of _NET_WM_STATE."""
TILED = frozenset({5, 6, 7, 8})
FIXED_STATES = frozenset({MAXIMIZED, FULLSCREEN}) | TILED
"""Maximised, fullscreen and tiled: the size is the compositor's."""


class HeldSurface:
    """A wl_surface of Xwayland's; until it is ``open`` all of it is kept back here."""

    def __init__(self, proxy: WireObject) -> None:
        self.proxy = proxy
        self.window: Optional[XWindow] = None
        self.open = self.committed = False
        self.buffer: Maybe = None
        self.size = (0, 0)
        self.frames: list[WireObject] = []
        self.damage: list[tuple[int, ...]] = []
        self.viewport: Maybe = None
        self.fitted: object = None


class XWindow:
    """An X11 window that is a child of the root, with its place there."""

    def __init__(
        self, xid: int, place: tuple[int, int, int, int], *, own: bool
    ) -> None:
        self.xid, self.override = xid, own
        self.x, self.y, self.w, self.h = place
        self.hints, self.known, self.reading = Hints(), False, 0
        self.mapped = self.managed = self.dismissed = False
        self.surface_key: object = None
        """The surface's id, or both halves of its serial number."""
        self.surface: Optional[HeldSurface] = None
        self.since = 0.0
        self.large: set[int] = set()
        """Of FULLSCREEN and MAXIMIZED: what it is, or has asked to be."""
        # _NET_WM_SYNC_REQUEST
        self.alarm = self.count = 0
        self.drawing = False
        self.forget_role()

    def forget_role(self) -> None:
        """Forget the role's objects and wishes."""
        self.xdg: Maybe = None
        self.toplevel: Maybe = None
        self.popup: Maybe = None
        self.decoration: Maybe = None
        self.dialog: Maybe = None
        self.parent: Optional[XWindow] = None
        # What configure events asked for.
        self.configured = self.modal = False
        self.ack: Optional[int] = None
        self.pending: tuple[int, int, tuple[int, ...]] = (0, 0, ())
        self.states: tuple[int, ...] = ()
        self.wanted = self.told = self.shown = (0, 0)
        self.tokens = 0
        self.titled = ("", "")  # title, application id

    @property
    def root(self) -> XWindow:
        """The toplevel that a popup belongs to."""
        found = self
        while found.popup is not None and found.parent is not None:
            found = found.parent
        return found

    @property
    def in_fixed_size(self) -> bool:
        """Return whether its size is not its own to choose."""
        return bool(FIXED_STATES & set(self.states))

    def within(self, width: int, height: int) -> tuple[int, int]:
        """Return a size within its limits."""
        (low, short), (wide, high) = self.hints.smallest, self.hints.largest
        width, height = max(width, low), max(height, short)
        return min(width, wide or width), min(height, high or height)


def compositor_states(states: tuple[int, ...]) -> tuple[int, ...]:
    """Return the states of a configure without tiles that the filter has added.

    It adds all four, in descending order, so that toolkits draw no shadows.
    """
    tiles = [state for state in states if state in TILED]
    if tiles == sorted(tiles):
        return states
    return tuple(state for state in states if state not in TILED)


def large_states(words: Iterable[str]) -> set[int]:
    """Return which of FULLSCREEN and MAXIMIZED words of _NET_WM_STATE mean."""
    return {STATES[word] for word in words if word in STATES} & {FULLSCREEN, MAXIMIZED}
