"""The X11 window manager: events of windows, and what programs ask of it (ICCCM, EWMH)."""

from __future__ import annotations

import struct
from functools import partial
from typing import Callable, Optional

from shims.x11.core import CONFIGURE, BridgePart, Core, managed
from shims.x11.properties import NAMES, hints
from shims.x11.roles import Roles
from shims.x11.window import XWindow, large_states
from shims.x11.x11 import ATOMS, Property

_EDGES = (5, 1, 9, 8, 10, 2, 6, 4)
"""xdg_toplevel.resize_edge by direction of _NET_WM_MOVERESIZE."""
_ICONIC = 3


class WindowManager(BridgePart):
    """Handles the X server's events about windows."""

    def __init__(self, core: Core, roles: Roles) -> None:
        super().__init__(core)
        self._roles = roles
        self._sync = 0

    def _on_managing(self) -> None:
        """Become the window manager, then let programs in."""
        core, x = self._core, self._x
        x.select(x.root, 1 << 19 | 1 << 20 | 1 << 22)
        x.extension("Composite", self._redirect, 0, 4)
        x.extension("SYNC", self._sync_found, 1 << 8 | 3)
        x.set_property(core.helper, "_NET_WM_NAME", "UTF8_STRING", b"Vitrail")
        for window in (x.root, core.helper):
            x.set_property(window, "_NET_SUPPORTING_WM_CHECK", "WINDOW", [core.helper])
        atoms = [x.atoms[name] for name in ATOMS if name.startswith(("_NET", "_GTK"))]
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
        self._x.request(opcode, self._x.root, 1, minor=2)
        self._core.tell("redirected")

    def _sync_found(self, opcode: int, event: int) -> None:
        self._sync = opcode
        self._core.events[event + 1] = ("alarm", "4xI")

    # -- reading properties

    def read(self, window: XWindow, then: Callable[[], None]) -> None:
        """Read a window's properties, once at a time, then call back if it is there."""
        window.reading += 1
        found: dict[str, Property] = {}
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

    @managed
    def _on_x_property(self, window: XWindow, atom: int, *_: int) -> None:
        # _NET_WM_STATE is ours while a window is mapped.
        theirs = self._x.name(atom) in {*NAMES} - {"_NET_WM_STATE"}
        if theirs and window.mapped and window.reading < 2:
            self.read(window, lambda: self._reread(window))

    def _reread(self, window: XWindow) -> None:
        self._roles.apply(window)
        self._roles.match()

    # -- windows come and go

    def _on_x_create(self, _parent: int, xid: int, *values: int) -> None:
        x, y, w, h, _, own = values
        if xid & ~self._x.mask != self._x.base:
            self._add(xid, (x, y, w, h), own=bool(own))

    def _add(self, xid: int, place: tuple[int, int, int, int], *, own: bool) -> None:
        self._core.windows[xid] = XWindow(xid, place, own=own)
        self._x.select(xid, 1 << 22)

    @managed
    def _on_x_destroy(self, window: XWindow) -> None:
        del self._core.windows[window.xid]
        self._roles.part(window)

    def _on_x_reparent(self, xid: int, parent: int, x: int, y: int, own: int) -> None:
        """Read a window that became a top one; forget a window that left."""
        if parent != self._x.root:
            self._on_x_destroy(xid)
        elif xid not in self._core.windows:
            # Known at once: a mapped window asks to be mapped again right after this
            # event (ReparentWindow in the X protocol), before its size is answered.
            # What it asks is carried out after later answers, when the size is here.
            self._add(xid, (x, y, 0, 0), own=bool(own))
            window = self._core.windows[xid]

            def found(reply: Optional[bytes]) -> None:
                if reply is not None and not window.w:
                    window.w, window.h = struct.unpack_from("<HH", reply, 16)

            self._x.request(14, xid, then=found)

    @managed
    def _on_x_map_request(self, window: XWindow) -> None:
        self.read(window, lambda: self._admit(window))

    def _admit(self, window: XWindow) -> None:
        """Place and map a window that asks for it."""
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

    def _no_frame(self, xid: int, *_: int) -> None:
        self._x.set_property(xid, "_NET_FRAME_EXTENTS", "CARDINAL", [0, 0, 0, 0])

    _on_client_net_request_frame_extents = _no_frame

    @managed
    def _on_x_map(self, window: XWindow, own: int) -> None:
        """Give a mapped window its role."""
        window.mapped, window.override, window.dismissed = True, bool(own), False
        if window.known and not window.override:
            self._roles.match()  # read for its MapRequest
        else:
            self.read(window, self._roles.match)
        self._client_list()

    @managed
    def _on_x_unmap(self, window: XWindow) -> None:
        window.mapped = window.dismissed = window.managed = window.known = False
        self._roles.part(window)
        if not window.override:
            self._x.set_property(window.xid, "WM_STATE", "WM_STATE", [0, 0])
        self._client_list()

    def _client_list(self) -> None:
        every = self._core.windows.values()
        shown = [w.xid for w in every if w.mapped and not w.override]
        self._x.set_property(self._x.root, "_NET_CLIENT_LIST", "WINDOW", shown)

    # -- places and sizes

    @managed
    def _on_x_configure_request(self, window: XWindow, _: int, *values: int) -> None:
        """Grant what a window may ask of its place and size."""
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
            head = struct.pack("<BBHIII", CONFIGURE, 0, 0, window.xid, window.xid, 0)
            event = head + struct.pack("<hhHH", *place)
            self._x.send_event(window.xid, 1 << 17, event)
        elif window.mapped:
            window.wanted = (0, 0)
        self._x.configure(window.xid, place=(x, y), size=(w, h))
        if not window.mapped:  # its ConfigureNotify may come after the MapRequest
            window.x, window.y, window.w, window.h = x, y, w, h

    @managed
    def _on_x_configure(self, window: XWindow, _: int, *values: int) -> None:
        """Note a window's new place and size."""
        x, y, w, h, _, own = values
        moved = (x, y, w, h) != (window.x, window.y, window.w, window.h)
        window.x, window.y, window.w, window.h = x, y, w, h
        window.override = bool(own)
        if moved:
            self._roles.reposition(window)

    def _on_moved(self) -> None:
        """Move windows to the new origin of a resized screen (see the module screens)."""
        for window in self._core.order:
            if window.managed:
                dx, dy = self._core.size[0] - window.x, self._core.size[1] - window.y
                for other in self._core.order:
                    if other.root is window:
                        other.x, other.y = other.x + dx, other.y + dy
                        self._x.configure(other.xid, place=(other.x, other.y))

    # -- what programs ask

    def _on_x_message(self, code: int, xid: int, kind: int, *values: int) -> None:
        """Pass a client message on to the part that handles it."""
        name = self._x.name(kind).lower().lstrip("_")
        # Of the server alone: a program could take another one's surface.
        if code < 0x80 or not name.startswith("wl_"):
            if xid == self._core.helper:
                self._core.tell(f"helper_{name}", *values)
            else:
                self._core.tell(f"client_{name}", xid, *values)

    @managed
    def _on_client_wl_surface_id(self, window: XWindow, oid: int, *_: int) -> None:
        window.surface_key = oid
        self._roles.match()

    @managed
    def _on_client_wl_surface_serial(self, window: XWindow, *values: int) -> None:
        window.surface_key = values[:2]
        self._roles.match()

    @managed
    def _on_client_net_wm_state(
        self, window: XWindow, action: int, *atoms: int
    ) -> None:
        names = [self._x.name(atom)[len("_NET_WM_STATE_") :] for atom in atoms[:2]]
        self._roles.wish_large(window, action, large_states(names))

    @managed
    def _on_client_net_wm_moveresize(self, window: XWindow, *values: int) -> None:
        """Start a move or resize by the compositor."""
        core, direction = self._core, values[2]
        words = core.seat, core.press[0]
        if direction == 8:
            core.relay.ask(window.toplevel, "move", *words)
        elif direction < 8:
            core.relay.ask(window.toplevel, "resize", *words, _EDGES[direction])

    @managed
    def _on_client_wm_change_state(self, window: XWindow, state: int, *_: int) -> None:
        # WM_STATE stays normal: Wayland tells nobody when a window comes back.
        if state == _ICONIC:
            self._core.relay.ask(window.toplevel, "set_minimized")

    # -- _NET_WM_SYNC_REQUEST

    def _make_alarm(self, window: XWindow) -> None:
        """Ask for an event at each change of the program's counter."""
        window.alarm = self._x.new_id()
        # counter, value type relative, value, test positive comparison, delta 1, events
        words = (window.hints.counter, 0, 0, 1, 2, 0, 1, 1)
        mask = 1 | 2 | 4 | 8 | 16 | 32
        self._x.request(self._sync, window.alarm, mask, *words, minor=8)

    def _on_x_alarm(self, alarm: int) -> None:
        for window in self._core.order:
            if window.alarm == alarm:
                self._roles.allow_commits(window)
