"""What all parts of the bridge share: connections, windows, time, globals."""

from __future__ import annotations

import struct
from typing import Callable, Optional

from shims.x11.objects import Maybe, Relay, WireObject
from shims.x11.window import HeldSurface, XWindow
from shims.x11.x11 import X11

INPUT_SECONDS = 2.5
"""A window that comes so soon after input answers it; the filter says three."""


CONFIGURE, SELECTION, MESSAGE = 22, 31, 33
EVENTS = {
    16: ("create", "4xIIhhHHHB"), 17: ("destroy", "8xI"), 18: ("unmap", "8xI"),
    19: ("map", "8xIB"), 20: ("map_request", "8xI"), 21: ("reparent", "8xIIhhB"),
    CONFIGURE: ("configure", "8xIIhhHHHB"), 23: ("configure_request", "8xIIhhHHHH"),
    28: ("property", "4xIIIB"), 30: ("selection_request", "4x6I"),
    SELECTION: ("selection", "4x5I"), MESSAGE: ("message", "B3xII5I"),
}  # fmt: skip
"""X11's events (X11/X.h): what handlers are called after, and their values."""
SYNTHETIC = (MESSAGE, SELECTION)
"""Events that programs send themselves; others are the server's alone."""
Action = Callable[[], None]


class Core:
    """State of one connection, and its clock; no part of it reads or writes a socket."""

    def __init__(
        self, clock: Callable[[], float], log: Callable[[str], None], cookie: bytes
    ) -> None:
        self.clock, self.log = clock, log
        self.relay = Relay()
        self.x = X11(cookie, self._managing, self._event)
        self.events = dict(EVENTS)
        self._told: dict[str, list[Callable[..., None]]] = {}
        self.managing = self.dragging = False
        self.globals: dict[str, tuple[int, int]] = {}
        """Name and version of the first global of each interface."""
        self.bound: dict[str, WireObject] = {}
        """Those that we have bound ourselves."""
        self.registry = self.relay.make("wl_registry", 1)
        self.seat = self.wm = self.registry  # until they are bound
        self.scale, self.size = 1.0, (1280, 800)
        """X11's pixels for one of the compositor; the screen, which is also the origin."""
        self.helper = 0
        """Our window on the X server: owner of selections, and the WM's."""
        self.windows: dict[int, XWindow] = {}
        self.order: list[XWindow] = []
        """Windows with a role, oldest first."""
        self.surfaces: dict[object, HeldSurface] = {}
        """By Xwayland's id, and by both halves of the serial number that it gave."""
        self.serial, self.press, self.input_at = 0, (0, 0.0), -100.0
        self.hover: Optional[HeldSurface] = None
        self.pressed_on: Optional[HeldSurface] = None
        """Where a button was pressed that is still down."""
        self.focus: Optional[HeldSurface] = None
        self._timers: dict[object, tuple[float, Action]] = {}

    def attach(self, part: object) -> None:
        """Add a part, whose methods handle the messages that they are named after.

        ``_on_x_map`` is for MapNotify, ``_on_client_net_wm_state`` for that client
        message, ``_on_helper_xdndenter`` for one to the helper, and other ``_on_`` for
        what parts tell.  Wayland's messages: see ``Relay.attach``.
        """
        for name in dir(part):
            if name.startswith("_on_"):
                self._told.setdefault(name[4:], []).append(getattr(part, name))
        self.relay.attach(part)

    def tell(self, what: str, *values: object) -> None:
        """Tell the parts that have a handler for it what happened."""
        for handler in self._told.get(what, ()):
            handler(*values)

    # -- time

    def later(self, seconds: float, action: Action, key: object = None) -> None:
        """Call back after so many seconds; of one key only one call waits at a time."""
        self._timers.setdefault(key or object(), (self.clock() + seconds, action))

    def patience(self) -> Optional[float]:
        """Return the seconds to the next timer."""
        due = [when for when, _ in self._timers.values()]
        return max(0.0, min(due) - self.clock()) if due else None

    def tick(self) -> None:
        """Do the work that is due."""
        now = self.clock()
        for key in [key for key, (when, _) in self._timers.items() if when <= now]:
            self._timers.pop(key)[1]()

    def note_input(self, serial: int, *, pressed: bool) -> None:
        """The user pressed or let go of something."""
        self.serial, self.input_at = serial, self.clock()
        self.pressed_on = self.hover if pressed else None
        if pressed:
            self.press = (serial, self.input_at)

    @property
    def asked(self) -> bool:
        """Return whether the user gave input less than INPUT_SECONDS ago."""
        return self.clock() - self.input_at < INPUT_SECONDS

    # -- the compositor

    def bind(self, interface: str, most: int) -> None:
        """Bind a global of the compositor for the bridge, if it has it."""
        if interface in self.globals:
            name, version = self.globals[interface]
            made = self.relay.make(interface, min(version, most))
            self.relay.ask(self.registry, "bind", name, interface, made.version, made)
            self.bound[interface] = made

    def extra(
        self, interface: str, request: str, *values: object, **more: object
    ) -> Maybe:
        """Make an object by a request of a global; None without that global."""
        maker = self.bound.get(interface)
        return self.relay.create(maker, request, *values, **more) if maker else None

    def logical(self, value: int) -> int:
        """Return X11's pixels in those of the compositor, rounded up."""
        return -int(-value // self.scale)

    def enlarged(self, x: float, y: float) -> tuple[float, float]:
        """Return a place of the compositor's in X11's pixels."""
        return x * self.scale, y * self.scale

    def window_of(self, surface: Optional[HeldSurface]) -> Optional[XWindow]:
        """Return the X11 window of a surface."""
        return surface.window if surface is not None else None

    # -- X11

    def _managing(self) -> None:
        self.managing = True
        self.tell("managing")

    def _event(self, event: bytes) -> None:
        kind = event[0] & 0x7F
        if kind in self.events and (event[0] < 0x80 or kind in SYNTHETIC):
            name, form = self.events[kind]
            self.tell(f"x_{name}", *struct.unpack_from(f"<{form}", event))


class BridgePart:
    """A part of the bridge, which handles what its methods are named after."""

    def __init__(self, core: Core) -> None:
        self._core, self._x, self._relay = core, core.x, core.relay
        core.attach(self)


def managed(then: Callable[..., None]) -> Callable[..., None]:
    """Call a handler with the known window of an id; else ignore."""

    def handle(self: BridgePart, xid: int, *values: int) -> None:
        window = self._core.windows.get(xid)
        if window is not None:
            then(self, window, *values)

    return handle
