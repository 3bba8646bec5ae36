"""X11 windows and Wayland surfaces, as the bridge knows them."""

from __future__ import annotations

from typing import List, Optional, Tuple

from shims.x11.objects import Proxy
from shims.x11.properties import Hints

ACTIVATED, MAXIMIZED, FULLSCREEN = 4, 1, 2
FIXED_STATES = frozenset({MAXIMIZED, FULLSCREEN, 5, 6, 7, 8})
"""Maximised, fullscreen and tiled: the size is the compositor's."""


class Surface:
    """A wl_surface of Xwayland's; until it is ``open`` all of it is kept back here."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.window: Optional[Window] = None
        self.open = self.committed = False
        self.buffer: Optional[Proxy] = None
        self.size = (0, 0)
        self.frames: List[Proxy] = []
        self.damage: List[Tuple[int, int, int, int]] = []
        self.viewport: Optional[Proxy] = None
        self.fitted: object = None


class Window:
    """An X11 window that is a child of the root, with its place there."""

    def __init__(
        self, xid: int, place: Tuple[int, int, int, int], *, own: bool
    ) -> None:
        self.xid, self.override = xid, own
        self.x, self.y, self.w, self.h = place
        self.hints, self.known, self.reading = Hints(), False, 0
        self.mapped = self.managed = self.dismissed = False
        self.surface_id = self.serial = 0
        self.surface: Optional[Surface] = None
        # The role and its objects.
        self.xdg: Optional[Proxy] = None
        self.toplevel: Optional[Proxy] = None
        self.popup: Optional[Proxy] = None
        self.decoration: Optional[Proxy] = None
        self.dialog: Optional[Proxy] = None
        self.parent: Optional[Window] = None
        # What configure events asked for.
        self.configured = False
        self.ack: Optional[int] = None
        self.pending: Tuple[int, int, Tuple[int, ...]] = (0, 0, ())
        self.states: Tuple[int, ...] = ()
        self.wanted = self.told = self.shown = (0, 0)
        self.fullscreen = self.maximized = self.modal = False
        self.tokens = 0
        self.titled = (0.0, "", "")  # when, title, application id
        self.titling = False
        # _NET_WM_SYNC_REQUEST
        self.alarm = self.count = 0
        self.drawing = False

    @property
    def root(self) -> Window:
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
        return min(width, wide) if wide else width, min(
            height, high
        ) if high else height
