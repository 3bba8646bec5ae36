"""What all parts of the bridge share: connections, windows, time, globals."""

from __future__ import annotations

import heapq
from enum import IntEnum
from typing import Callable, Dict, List, Optional, Tuple

from shims.x11.objects import Relay, WaylandObject
from shims.x11.window import HeldSurface, XWindow
from shims.x11.wire import BridgeError
from shims.x11.x11 import X11

INPUT_SECONDS = 2.5
"""A window that comes so soon after input answers it; the filter says three."""


class On(IntEnum):
    """X11's events (X11/X.h)."""

    CREATE, DESTROY, UNMAP, MAP, MAP_REQUEST, REPARENT = range(16, 22)
    CONFIGURE, CONFIGURE_REQUEST, PROPERTY, SELECTION_REQUEST = 22, 23, 28, 30
    SELECTION, MESSAGE = 31, 33


SYNTHETIC = (On.MESSAGE, On.SELECTION)
"""Events that programs send themselves; others are the server's alone."""


class Core:
    """State of one connection, and its clock; no part of it reads or writes a socket."""

    def __init__(
        self, clock: Callable[[], float], log: Callable[[str], None], cookie: bytes
    ) -> None:
        self.clock, self.log = clock, log
        self.relay = Relay()
        self.x = X11(cookie, self._managing, self._event)
        self.events: Dict[int, Callable[[bytes], None]] = {}
        self.messages: Dict[str, Callable[[int, Tuple[int, ...]], None]] = {}
        """Handlers of client messages by type: the window and five values."""
        self.begin: List[Callable[[], None]] = []
        """Called once the X server has accepted us, in order."""
        self.managing = self.dragging = False
        self.globals: Dict[str, List[Tuple[int, int]]] = {}
        self.registry = self.relay.make("wl_registry", 1)
        self.seat: Optional[WaylandObject] = None
        self.wm: Optional[WaylandObject] = None
        self.scale, self.size, self.origin = 1.0, (1280, 800), (1280, 800)
        self.helper = 0
        """Our window on the X server: owner of selections, and the WM's."""
        self.windows: Dict[int, XWindow] = {}
        self.order: List[XWindow] = []
        """Windows with a role, oldest first."""
        self.surfaces: Dict[int, HeldSurface] = {}
        self.serial, self.press, self.input_at = 0, (0, 0.0), -100.0
        self.hover: Optional[HeldSurface] = None
        self.pressed_on: Optional[HeldSurface] = None
        """Where a button was pressed that is still down."""
        self.focus: Optional[HeldSurface] = None
        self._timers: List[Tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # -- time

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call back after so many seconds."""
        self._count += 1
        heapq.heappush(self._timers, (self.clock() + seconds, self._count, action))

    def patience(self) -> Optional[float]:
        """Return the seconds to the next timer."""
        return max(0.0, self._timers[0][0] - self.clock()) if self._timers else None

    def tick(self) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= self.clock():
            heapq.heappop(self._timers)[2]()

    def note_input(self, serial: int, *, pressed: bool) -> None:
        """The user pressed or let go of something."""
        self.serial, self.input_at = serial, self.clock()
        self.pressed_on = self.hover if pressed else None
        if pressed:
            self.press = (serial, self.input_at)

    @property
    def asked(self) -> bool:
        """Whether the user did something just now."""
        return self.clock() - self.input_at < INPUT_SECONDS

    # -- the compositor

    def bind(self, interface: str, most: int) -> Optional[WaylandObject]:
        """Bind a global for ourselves; None where there is none."""
        if interface not in self.globals:
            return None
        name, version = self.globals[interface][0]
        made = self.relay.make(interface, min(version, most))
        self.relay.ask(self.registry, "bind", name, interface, made.version, made)
        return made

    def required(self, interface: str, most: int) -> WaylandObject:
        """The same for a global without which nothing can be shown."""
        made = self.bind(interface, most)
        if made is None:
            raise BridgeError(f"the compositor has no {interface}")
        return made

    def logical(self, value: int) -> int:
        """Return X11's pixels in those of the compositor, a size at least 1."""
        if value > 0:
            return max(1, -int(-value // self.scale))
        return round(value / self.scale)

    def window_of(self, surface: Optional[HeldSurface]) -> Optional[XWindow]:
        """Return the X11 window of a surface."""
        return surface.window if surface is not None else None

    # -- X11

    def _managing(self) -> None:
        for action in self.begin:
            action()
        self.managing = True

    def _event(self, event: bytes) -> None:
        kind = event[0] & 0x7F
        if event[0] & 0x80 and kind not in SYNTHETIC:
            return
        handler = self.events.get(kind)
        if handler is not None:
            handler(event)
