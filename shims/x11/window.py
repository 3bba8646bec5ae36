"""X11 windows and Wayland surfaces, as the bridge knows them."""

from __future__ import annotations

from typing import List, Optional, Tuple

from shims.x11.objects import WaylandObject
from shims.x11.properties import Hints

ACTIVATED, MAXIMIZED, FULLSCREEN = 4, 1, 2
FIXED_STATES = frozenset({MAXIMIZED, FULLSCREEN, 5, 6, 7, 8})
"""Maximised, fullscreen and tiled: the size is the compositor's."""


class HeldSurface:
    """A wl_surface of Xwayland's; until it is ``open`` all of it is kept back here."""

    def __init__(self, proxy: WaylandObject) -> None:
        self.proxy = proxy
        self.window: Optional[XWindow] = None
        self.open = self.committed = False
        self.buffer: Optional[WaylandObject] = None
        self.size = (0, 0)
        self.frames: List[WaylandObject] = []
        self.damage: List[Tuple[int, int, int, int]] = []
        self.viewport: Optional[WaylandObject] = None
        self.fitted: object = None


class XWindow:
    """An X11 window that is a child of the root, with its place there."""

    def __init__(
        self, xid: int, place: Tuple[int, int, int, int], *, own: bool
    ) -> None:
        self.xid, self.override = xid, own
        self.x, self.y, self.w, self.h = place
        self.hints, self.known, self.reading = Hints(), False, 0
        self.mapped = self.managed = self.dismissed = False
        self.surface_id = self.serial = 0
        self.surface: Optional[HeldSurface] = None
        # The role and its objects.
        self.xdg: Optional[WaylandObject] = None
        self.toplevel: Optional[WaylandObject] = None
        self.popup: Optional[WaylandObject] = None
        self.decoration: Optional[WaylandObject] = None
        self.dialog: Optional[WaylandObject] = None
        self.parent: Optional[XWindow] = None
        # What configure events asked for.
        self.configured, self.since = False, 0.0
        self.ack: Optional[int] = None
        self.pending: Tuple[int, int, Tuple[int, ...]] = (0, 0, ())
        self.states: Tuple[int, ...] = ()
        self.wanted = self.told = self.shown = (0, 0)
        self.fullscreen = self.maximized = self.modal = False
        self.tokens = 0
        self.titled = (0.0, "", "")  # when, title, application id
        self.titling = self.remaking = False
        # _NET_WM_SYNC_REQUEST
        self.alarm = self.count = 0
        self.drawing = False

    @property
    def root(self) -> XWindow:
        """The toplevel that a popup belongs to."""
        found = self
        while found.popup is not None and found.parent is not None:
            found = found.parent
        return found

    @property
    def in_fixed_size(self) -> bool:
        """Whether its size is not its own to choose."""
        return bool(FIXED_STATES & set(self.states))

    def within(self, width: int, height: int) -> Tuple[int, int]:
        """Return a size within its limits."""
        (low, short), (wide, high) = self.hints.smallest, self.hints.largest
        width, height = max(width, low), max(height, short)
        return min(width, wide or width), min(height, high or height)
