"""The globals that Xwayland is shown, and the screen on its plane.

Wayland tells no client where its windows are, so each managed window is at one fixed
place of X11's plane, the origin; only distances from it matter.  A menu may lie left of
its window or above it, so the screen is the lower right quarter of the plane.

X11's pointer cannot leave the screens, except if these lie apart.  The server looks for
that when a client sets a screen, and not when one goes (RRCrtcSet of the X server): so
for this moment a second, small screen is in the upper left corner.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Optional

from shims.x11.core import BridgePart, Core
from shims.x11.objects import Maybe, WireObject

PASSED_ON = (
    ("wl_compositor", 4), ("wl_shm", 1), ("wl_seat", 7),
    ("zwp_relative_pointer_manager_v1", 1), ("zwp_pointer_constraints_v1", 1),
)  # fmt: skip
CORNER, CORNER_SIDE = 2, 64
"""The number of the global that goes, and its width and height in pixels."""
MOST_SCREEN = 8192
_GET_CRTC, _SET_CRTC, _GET_RESOURCES = 20, 21, 25  # of RandR 1.3
_ROUND_TRIPS = 4  # these three, and the one about the extension


class Screens(BridgePart):
    """Handles registry and outputs.  ``fixed`` is the scale where the user chose one."""

    def __init__(self, core: Core, fixed: float) -> None:
        super().__init__(core)
        self._fixed = fixed
        self._mode, self._scale = (1280, 800), 1
        self._logical: Optional[tuple[int, int]] = None
        self._offered: list[tuple[str, int, int]] = []
        self._shown: list[WireObject] = []
        self._registries: list[WireObject] = []
        self._serial = 0

    def _on_bound(self) -> None:
        """Ask for the real output's logical size."""
        output = self._core.bound.get("wl_output")
        if output is not None:
            self._core.extra("zxdg_output_manager_v1", "get_xdg_output", output)

    def offer(self) -> None:
        """Announce Xwayland's globals, once the output is known."""
        self._measure()
        self._offered = [("wl_output", 2, 0)] * CORNER
        for interface, most in PASSED_ON:
            if interface in self._core.globals:
                name, version = self._core.globals[interface]
                self._offered.append((interface, min(version, most), name))
        self._offered.append(("xwayland_shell_v1", 1, 0))

    def _on_managing(self) -> None:
        """Set work area, resolution and scale for programs."""
        core, x = self._core, self._x
        x.set_property(x.root, "_NET_WORKAREA", "CARDINAL", [*core.size, *core.size])
        dpi = round(96 * core.scale)
        text = f"Xft.dpi:\t{dpi}\n".encode() if core.scale != 1 else b""
        x.set_property(x.root, "RESOURCE_MANAGER", "STRING", text)
        whole = max(1, int(core.scale))
        self._serial += 1
        settings = [
            ("Gdk/WindowScalingFactor", whole), ("Gdk/UnscaledDPI", dpi * 1024 // whole),
            ("Gtk/CursorThemeSize", round(24 * core.scale)), ("Xft/DPI", dpi * 1024),
        ]  # fmt: skip
        data = xsettings(self._serial, settings)
        x.set_property(core.helper, "_XSETTINGS_SETTINGS", "_XSETTINGS_SETTINGS", data)

    # -- the pointer outside of the screen

    def _on_redirected(self) -> None:
        """Set the screen to what it is while there are two; then let programs in."""
        self._x.extension("RANDR", self._get_crtcs, 1, 3)
        self._let_programs_in(_ROUND_TRIPS)

    def _let_programs_in(self, round_trips: int) -> None:
        """Own what makes Xwayland serve programs, after so many replies."""
        if round_trips:
            self._x.sync(lambda: self._let_programs_in(round_trips - 1))
        else:
            self._x.own(self._core.helper, "WM_S0")

    def _get_crtcs(self, opcode: int, _event: int) -> None:
        x = self._x

        def answered(reply: Optional[bytes]) -> None:
            if reply is not None and len(reply) >= 36:
                (config_time,), crtc = struct.unpack_from("<I", reply, 12), reply[32:36]
                get = partial(self._set_crtc, opcode, crtc, config_time)
                x.request(opcode, crtc, config_time, minor=_GET_CRTC, then=get)

        x.request(opcode, x.root, minor=_GET_RESOURCES, then=answered)

    def _set_crtc(
        self, opcode: int, crtc: bytes, config_time: int, reply: Optional[bytes]
    ) -> None:
        """Set the real screen, at another place: its own would change nothing."""
        if reply is not None and len(reply) >= 36:
            (mode,) = struct.unpack_from("<I", reply, 20)
            outputs = reply[32 : 32 + 4 * struct.unpack_from("<H", reply, 28)[0]]
            position = struct.pack("<hhIHxx", 0, 0, mode, 1)
            values = (crtc, 0, config_time, position, outputs)
            self._x.request(opcode, *values, minor=_SET_CRTC, then=self._end_corner)

    def _end_corner(self, _reply: Optional[bytes]) -> None:
        self._shown = [output for output in self._shown if output.data + 1 != CORNER]
        for registry in self._registries:
            self._relay.tell(registry, "global_remove", CORNER)

    # -- the real output

    def _wl_registry_global(
        self, _registry: WireObject, name: int, interface: str, version: int
    ) -> None:
        self._core.globals.setdefault(interface, (name, version))

    def _wl_output_mode(self, _: Maybe, flags: int, w: int, h: int, _rate: int) -> None:
        if flags & 1:
            self._mode = (w, h)

    def _wl_output_scale(self, _output: WireObject, scale: int) -> None:
        self._scale = scale

    def _zxdg_output_v1_logical_size(self, _output: WireObject, w: int, h: int) -> None:
        self._logical = (w, h)

    def _wl_output_done(self, _: WireObject) -> None:
        """Tell Xwayland of an output's new size."""
        before = self._core.size, self._core.scale
        self._measure()
        if self._offered and (self._core.size, self._core.scale) != before:
            for output in self._shown:
                self._describe(output)
            if self._core.managing:
                self._core.tell("moved")
                self._on_managing()

    _zxdg_output_v1_done = _wl_output_done

    def _measure(self) -> None:
        """Compute pixels of programs for one of the compositor."""
        core = self._core
        logical = self._logical or tuple(side // self._scale for side in self._mode)
        ratio = self._mode[0] / logical[0] if logical[0] > 0 else 0.0
        if not 1 <= ratio <= 4:
            ratio = float(min(max(1, self._scale), 4))
        core.scale = self._fixed or round(ratio * 120) / 120
        wide, high = (min(max(1, round(s * core.scale)), MOST_SCREEN) for s in logical)
        core.size = (wide, high)

    # -- what Xwayland sees

    def _wl_display_get_registry(self, _display: WireObject, new: int) -> None:
        registry = self._relay.make_local("wl_registry", 1, new)
        self._registries.append(registry)
        for number, (interface, version, _) in enumerate(self._offered):
            self._relay.tell(registry, "global", number + 1, interface, version)

    def _wl_registry_bind(
        self, _: WireObject, number: int, interface: str, version: int, new: int
    ) -> None:
        """Bind a global for Xwayland: the compositor's or ours."""
        name = self._offered[min(max(0, number - 1), len(self._offered) - 1)][2]
        made = self._relay.make_local(interface, version, new)
        if name:
            self._relay.raise_up(made)
            self._relay.ask(self._core.registry, "bind", name, interface, version, made)
        elif interface == "wl_output":
            made.data = number - 1
            self._shown.append(made)
            self._describe(made)

    def _describe(self, output: WireObject) -> None:
        """Send an output's properties."""
        w, h = self._core.size
        x, y = w, h
        if output.data + 1 == CORNER:
            x, y, w, h = 0, 0, CORNER_SIDE, CORNER_SIDE
        tell = self._relay.tell
        millimetres = round(w / 96 * 25.4), round(h / 96 * 25.4)
        tell(output, "geometry", x, y, *millimetres, 0, "Vitrail", "X11", 0)
        tell(output, "mode", 3, w, h, 60000)
        tell(output, "scale", 1)
        tell(output, "done")


def xsettings(serial: int, settings: list[tuple[str, int]]) -> bytes:
    """Return integer settings in the form of the XSETTINGS specification 0.5."""
    data = struct.pack("<B3xII", 0, serial, len(settings))
    for name, value in settings:
        text = name.encode()
        data += struct.pack("<BxH", 0, len(text)) + text + b"\0" * (-len(text) % 4)
        data += struct.pack("<Ii", serial, value)
    return data
