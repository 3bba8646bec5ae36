"""What all parts of the bridge share: connections, windows, time, globals."""

from __future__ import annotations

import heapq
from enum import IntEnum
from typing import Callable, Dict, List, Optional, Set, Tuple

from shims.x11.objects import Maybe, Relay, WaylandObject
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
        self.messages: Dict[str, Callable[..., None]] = {}
        """Handlers of client messages by type: the window and five values."""
        self.begin: List[Callable[[], None]] = []
        """Called once the X server has accepted us, in order."""
        self.managing = self.dragging = False
        self.globals: Dict[str, Tuple[int, int]] = {}
        """Name and version of the first global of each interface."""
        self.registry = self.relay.make("wl_registry", 1)
        self.seat = self.wm = self.registry  # until they are bound
        self.scale, self.size = 1.0, (1280, 800)
        """X11's pixels for one of the compositor; the screen, which is also the origin."""
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
        self._timers: List[Tuple[float, int, object, Callable[[], None]]] = []
        self._keys: Set[object] = set()
        self._count = 0

    # -- time

    def later(
        self, seconds: float, action: Callable[[], None], key: object = None
    ) -> None:
        """Call back after so many seconds; of one key only one call waits at a time."""
        self._count += 1
        key = key or self._count
        if key not in self._keys:
            self._keys.add(key)
            due = self.clock() + seconds
            heapq.heappush(self._timers, (due, self._count, key, action))

    def patience(self) -> Optional[float]:
        """Return the seconds to the next timer."""
        return max(0.0, self._timers[0][0] - self.clock()) if self._timers else None

    def tick(self) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= self.clock():
            _, _, key, action = heapq.heappop(self._timers)
            self._keys.remove(key)
            action()

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

    def bind(self, interface: str, most: int) -> Maybe:
        """Bind a global for ourselves; None where there is none."""
        if interface not in self.globals:
            return None
        name, version = self.globals[interface]
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

    def enlarged(self, x: float, y: float) -> Tuple[float, float]:
        """Return a place of the compositor's in X11's pixels."""
        return x * self.scale, y * self.scale

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
