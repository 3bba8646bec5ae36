"""The X11 window manager: events of windows, and what programs ask of it (ICCCM, EWMH)."""

from __future__ import annotations

import struct
from functools import partial
from typing import Callable, Dict, Optional, Tuple

from shims.x11.core import Core, On
from shims.x11.properties import NAMES, hints
from shims.x11.roles import Roles
from shims.x11.window import XWindow, large_states
from shims.x11.x11 import Property

SUPPORTED = """_NET_WM_STATE _NET_WM_STATE_FULLSCREEN _NET_WM_STATE_MAXIMIZED_VERT
_NET_WM_STATE_MAXIMIZED_HORZ _NET_WM_STATE_FOCUSED _NET_WM_STATE_MODAL _NET_ACTIVE_WINDOW
_NET_WM_MOVERESIZE _NET_WM_NAME _NET_CLIENT_LIST _NET_WM_WINDOW_TYPE _NET_FRAME_EXTENTS
_NET_SUPPORTING_WM_CHECK _NET_WORKAREA _GTK_FRAME_EXTENTS _NET_REQUEST_FRAME_EXTENTS
_NET_CLOSE_WINDOW _NET_WM_PING _NET_WM_SYNC_REQUEST"""
_EDGES = (5, 1, 9, 8, 10, 2, 6, 4)
"""xdg_toplevel.resize_edge by direction of _NET_WM_MOVERESIZE."""
_ICONIC = 3


class WindowManager:
    """Handles the X server's events about windows."""

    def __init__(self, core: Core, roles: Roles) -> None:
        self._core, self._x, self._roles = core, core.x, roles
        self._sync = 0
        self.property_changed: Callable[[int, int, int], None] = lambda *_: None
        """Called with a window that is not managed, the property, and 1 if it went."""
        about, of = self._about, self._of
        events: Dict[int, Callable[[bytes], None]] = {
            On.CREATE: self._created, On.PROPERTY: self._property,
            On.REPARENT: self._reparented, On.MESSAGE: self._message,
            On.DESTROY: about("", self._remove), On.UNMAP: about("", self._unmapped),
            On.MAP_REQUEST: about("", self._map_request), On.MAP: about("B", self._mapped),
            On.CONFIGURE_REQUEST: about("IhhHHHH", self._configure_request),
            On.CONFIGURE: about("IhhHHHB", self._configured),
        }  # fmt: skip
        core.events.update(events)
        core.messages.update(
            _NET_WM_STATE=of(self._state), _NET_WM_MOVERESIZE=of(self._move_resize),
            _NET_ACTIVE_WINDOW=of(roles.activate), _NET_CLOSE_WINDOW=of(roles.close),
            _NET_REQUEST_FRAME_EXTENTS=lambda xid, *_: self._no_frame(xid),
            WM_CHANGE_STATE=of(self._change_state), WM_PROTOCOLS=self._protocols,
        )  # fmt: skip
        core.begin.append(self._begin)

    def _about(self, form: str, then: Callable[..., None]) -> Callable[[bytes], None]:
        """Handle an event of a known window, which is its second word, with the rest."""
        then = self._of(then)
        return lambda event: then(*struct.unpack_from(f"<I{form}", event, 8))

    def _of(self, then: Callable[..., None]) -> Callable[..., None]:
        """Handle what begins with the id of a known window."""

        def handle(xid: int, *values: int) -> None:
            window = self._core.windows.get(xid)
            if window is not None:
                then(window, *values)

        return handle

    def _begin(self) -> None:
        """Become the window manager; programs are let in by the last request."""
        core, x = self._core, self._x
        x.select(x.root, 1 << 19 | 1 << 20 | 1 << 22)
        x.extension("Composite", self._redirect)
        x.extension("SYNC", self._sync_found)
        x.set_property(core.helper, "_NET_WM_NAME", "UTF8_STRING", b"Vitrail")
        for window in (x.root, core.helper):
            x.set_property(window, "_NET_SUPPORTING_WM_CHECK", "WINDOW", [core.helper])
        atoms = [x.atoms[name] for name in SUPPORTED.split()]
        x.set_property(x.root, "_NET_SUPPORTED", "ATOM", atoms)
        x.set_property(x.root, "_NET_NUMBER_OF_DESKTOPS", "CARDINAL", [1])
        x.set_property(x.root, "_NET_CURRENT_DESKTOP", "CARDINAL", [0])
        # An arrow: without it GTK's programs have an X for a pointer.
        font, cursor = x.new_id(), x.new_id()
        x.request(45, font, 6, b"cursor")
        colors = struct.pack("<8H", 68, 69, 0, 0, 0, 65535, 65535, 65535)
        x.request(94, cursor, font, font, colors)
        x.request(2, x.root, 1 << 14, cursor)

    def _redirect(self, opcode: int, _event: int) -> None:
        self._x.request(opcode, 0, 4, then=lambda _: None)
        self._x.request(opcode, self._x.root, 1, minor=2)
        # Xwayland listens for programs once this selection has an owner.
        self._x.own(self._core.helper, "WM_S0")

    def _sync_found(self, opcode: int, event: int) -> None:
        if opcode:
            self._sync = opcode
            self._x.request(opcode, 1 << 8 | 3, then=lambda _: None)
            self._core.events[event + 1] = self._alarm

    # -- reading properties

    def read(self, window: XWindow, then: Callable[[], None]) -> None:
        """Read a window's properties, once at a time, then call back if it is there."""
        window.reading += 1
        found: Dict[str, Optional[Property]] = {}
        x = self._x

        def done() -> None:
            window.reading -= 1
            if self._core.windows.get(window.xid) is window:
                window.hints = hints(found, x.name)
                window.known = True
                then()

        for name in NAMES:
            x.property(window.xid, x.atoms[name], partial(found.__setitem__, name))
        x.sync(done)

    def _property(self, event: bytes) -> None:
        xid, atom, _, gone = struct.unpack_from("<IIIB", event, 4)
        self.property_changed(xid, atom, gone)
        window = self._core.windows.get(xid)
        name = self._x.name(atom)
        if window is None or not window.mapped or name not in NAMES:
            return
        # _NET_WM_STATE is ours while a window is mapped.
        if name != "_NET_WM_STATE" and window.reading < 2:
            self.read(window, lambda: self._reread(window))

    def _reread(self, window: XWindow) -> None:
        self._roles.apply(window)
        if window.surface is not None and not window.xdg:
            self._roles.match()

    # -- windows come and go

    def _created(self, event: bytes) -> None:
        _, xid, x, y, w, h, _, own = struct.unpack_from("<IIhhHHHB", event, 4)
        if xid != self._core.helper and xid & ~self._x.mask != self._x.base:
            self._add(xid, (x, y, w, h), own=bool(own))

    def _add(self, xid: int, place: Tuple[int, int, int, int], *, own: bool) -> None:
        self._core.windows[xid] = XWindow(xid, place, own=own)
        self._x.select(xid, 1 << 22)

    def _remove(self, window: XWindow) -> None:
        del self._core.windows[window.xid]
        self._roles.drop(window)
        if window.surface is not None:
            window.surface.window = None

    def _reparented(self, event: bytes) -> None:
        _, xid, parent, x, y, own = struct.unpack_from("<IIIhhB", event, 4)
        known = self._core.windows.get(xid)
        if parent != self._x.root and known is not None:
            self._remove(known)
        elif parent == self._x.root and known is None:

            def found(reply: Optional[bytes]) -> None:
                if reply is not None and xid not in self._core.windows:
                    size = struct.unpack_from("<HH", reply, 16)
                    self._add(xid, (x, y, *size), own=bool(own))

            self._x.request(14, xid, then=found)

    def _map_request(self, window: XWindow) -> None:
        self.read(window, lambda: self._admit(window))

    def _admit(self, window: XWindow) -> None:
        core, x, xid = self._core, self._x, window.xid
        if window.mapped:
            return
        window.large = large_states(window.hints.states)
        if not window.hints.menu:
            window.managed = True
            window.w = min(window.w, core.size[0])
            window.h = min(window.h, core.size[1])
            window.x, window.y = core.size
            x.configure(xid, place=core.size, size=(window.w, window.h))
        x.set_property(xid, "WM_STATE", "WM_STATE", [1, 0])
        self._no_frame(xid)
        if self._sync and window.hints.counter and not window.alarm:
            self._make_alarm(window)
        x.request(8, xid)

    def _no_frame(self, xid: int) -> None:
        self._x.set_property(xid, "_NET_FRAME_EXTENTS", "CARDINAL", [0, 0, 0, 0])

    def _mapped(self, window: XWindow, own: int) -> None:
        window.mapped, window.override, window.dismissed = True, bool(own), False
        if window.known and not window.override:
            self._roles.match()  # read for its MapRequest
        else:
            self.read(window, self._roles.match)
        self._client_list()

    def _unmapped(self, window: XWindow) -> None:
        window.mapped = window.dismissed = window.managed = window.known = False
        self._roles.drop(window)
        if window.surface is not None:  # Xwayland destroys it
            window.surface.window = None
        window.surface, window.surface_id, window.serial = None, 0, 0
        if not window.override:
            self._x.set_property(window.xid, "WM_STATE", "WM_STATE", [0, 0])
        self._client_list()

    def _client_list(self) -> None:
        shown = [
            w.xid for w in self._core.windows.values() if w.mapped and not w.override
        ]
        self._x.set_property(self._x.root, "_NET_CLIENT_LIST", "WINDOW", shown)

    # -- places and sizes

    def _configure_request(self, window: XWindow, _: int, *values: int) -> None:
        *wished, _, mask = values
        place = (window.x, window.y, window.w, window.h)
        if window.managed:
            mask &= ~3
        if window.mapped and window.in_fixed_size:
            mask &= ~12
        both = enumerate(zip(place, wished))
        x, y, w, h = (new if mask >> bit & 1 else old for bit, (old, new) in both)
        if (x, y, w, h) == place:
            # Refused as ICCCM 4.1.5 has it, by an event that repeats the old place.
            head = struct.pack("<BBHIII", On.CONFIGURE, 0, 0, window.xid, window.xid, 0)
            event = head + struct.pack("<hhHH", *place)
            self._x.send_event(window.xid, 1 << 17, event)
        elif window.mapped:
            window.wanted = (0, 0)
        self._x.configure(window.xid, place=(x, y), size=(w, h))
        if not window.mapped:  # its ConfigureNotify may come after the MapRequest
            window.x, window.y, window.w, window.h = x, y, w, h

    def _configured(self, window: XWindow, _: int, *values: int) -> None:
        x, y, w, h, _, own = values
        moved = (x, y, w, h) != (window.x, window.y, window.w, window.h)
        window.x, window.y, window.w, window.h = x, y, w, h
        window.override = bool(own)
        if moved:
            self._roles.reposition(window)

    def move_all(self) -> None:
        """The screen has another size: windows go to the new origin, menus with them."""
        for window in self._core.order:
            if window.managed:
                dx, dy = self._core.size[0] - window.x, self._core.size[1] - window.y
                for other in self._core.order:
                    if other.root is window:
                        other.x, other.y = other.x + dx, other.y + dy
                        self._x.configure(other.xid, place=(other.x, other.y))

    # -- what programs ask

    def _message(self, event: bytes) -> None:
        xid, kind, *values = struct.unpack_from("<II5I", event, 4)
        name, core = self._x.name(kind), self._core
        window = core.windows.get(xid)
        if name in ("WL_SURFACE_ID", "WL_SURFACE_SERIAL"):
            # Of the server alone: a program could take another one's surface.
            if window is not None and not event[0] & 0x80:
                if name == "WL_SURFACE_ID":
                    window.surface_id = values[0]
                else:
                    window.serial = values[1] << 32 | values[0]
                self._roles.match()
        elif name in core.messages:
            core.messages[name](xid, *values)

    def _state(self, window: XWindow, action: int, *atoms: int) -> None:
        names = [self._x.name(atom)[len("_NET_WM_STATE_") :] for atom in atoms[:2]]
        self._roles.wish_state(window, action, names)

    def _move_resize(self, window: XWindow, *values: int) -> None:
        core, direction = self._core, values[2]
        words = core.seat, core.press[0]
        if direction == 8:
            core.relay.ask(window.toplevel, "move", *words)
        elif direction < 8:
            core.relay.ask(window.toplevel, "resize", *words, _EDGES[direction])

    def _change_state(self, window: XWindow, state: int, *_: int) -> None:
        # WM_STATE stays normal: Wayland tells nobody when a window comes back.
        if state == _ICONIC:
            self._core.relay.ask(window.toplevel, "set_minimized")

    def _protocols(self, _xid: int, protocol: int, serial: int, *_: int) -> None:
        if self._x.name(protocol) == "_NET_WM_PING":
            self._roles.pong(serial)

    # -- _NET_WM_SYNC_REQUEST

    def _make_alarm(self, window: XWindow) -> None:
        """Ask for an event at each change of the program's counter."""
        window.alarm = self._x.new_id()
        # counter, value type relative, value, test positive comparison, delta 1, events
        words = (window.hints.counter, 0, 0, 1, 2, 0, 1, 1)
        mask = 1 | 2 | 4 | 8 | 16 | 32
        self._x.request(self._sync, window.alarm, mask, *words, minor=8)

    def _alarm(self, event: bytes) -> None:
        (alarm,) = struct.unpack_from("<I", event, 4)
        for window in self._core.order:
            if window.alarm == alarm:
                self._roles.drawn(window)
