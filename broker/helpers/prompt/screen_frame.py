"""The frame around a screen that a sandbox sees, in the sandbox's colour.

``frame RRGGBB WIDTH HEIGHT X Y``: the screen, as the desktop's portal says it.
xdg-desktop-portal-wlr says of each that it is at 0, 0, so all are framed that it can be;
too much of a frame is seen, too little is not.  It is four strips above everything, which
take no input, by layer-shell; a compositor without it marks what is shared itself.

The program writes a byte to standard output when the frame is drawn; the reader closes
its end when it has a picture.  The program ends when a screen with a frame is gone, and
with it the share does.
"""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pywayland.client import Display
from pywayland.protocol.wayland import WlCompositor, WlOutput, WlShm
from pywayland.protocol.xdg_output_unstable_v1 import ZxdgOutputManagerV1

from broker.helpers.compositor_socket import adopt_display
from broker.helpers.helper_confinement import confine_helper
from broker.helpers.process.process_name import set_name
from broker.helpers.prompt.layershell import OVERLAY, LayerShell

WIDTH = 6
"""Of a strip, in the compositor's points."""
OUTPUT = 1
_AGAIN_MILLISECONDS = 250
_EVERYTHING = 0x7FFFFFFF
_XRGB8888 = 1
_TOP, _BOTTOM, _LEFT, _RIGHT = 1, 2, 4, 8
_CURRENT = 1
_GLOBALS = {
    "wl_compositor": (WlCompositor, 4),
    "wl_shm": (WlShm, 1),
    "zwlr_layer_shell_v1": (LayerShell, 4),
    "zxdg_output_manager_v1": (ZxdgOutputManagerV1, 3),
}
Pair = tuple[int, int]


@dataclass(eq=False)
class FramedOutput:
    """An output: each size and position by which it may be known."""

    proxy: Any
    logical: Any = None
    sizes: set[Pair] = field(default_factory=set)
    positions: set[Pair] = field(default_factory=set)


def meant(
    screens: dict[int, FramedOutput], size: Pair, position: Pair
) -> dict[int, FramedOutput]:
    """Return the screens that may be the shared one, by size and position."""
    sized = {n: one for n, one in screens.items() if size in one.sizes}
    placed = {n: one for n, one in sized.items() if position in one.positions}
    # guard: a screen that may be the shared one has a frame
    return (placed if any(position) else sized) or sized or screens


class ScreenFrame:
    """The screen frame program's connection to the compositor, and its frames."""

    zone = -1
    """Exclusive zone of the surfaces: they lie over those of panels."""

    def __init__(self, colour: int) -> None:
        self._colour = colour.to_bytes(4, "little")
        self._display: Any = Display()
        self._display.connect()
        self._globals: dict[str, Any] = {}
        self._screens: dict[int, FramedOutput] = {}
        self._framed: set[int] = set()
        self._kept: list[Any] = []
        self._waiting = 0
        self._over = False
        self._registry = registry = self._display.get_registry()
        registry.dispatcher["global"] = self._global
        registry.dispatcher["global_remove"] = self._gone
        self._display.roundtrip()
        manager = self._globals.get("zxdg_output_manager_v1")
        for screen in self._screens.values():
            if manager is None:
                break
            screen.logical = made = manager.get_xdg_output(screen.proxy)
            made.dispatcher["logical_position"] = _adding(screen.positions)
            made.dispatcher["logical_size"] = _adding(screen.sizes)
        self._display.roundtrip()

    def _global(self, registry: Any, name: int, kind: str, version: int) -> None:
        """Bind a global of the compositor that the frame needs."""
        if kind in _GLOBALS:
            interface, most = _GLOBALS[kind]
            self._globals[kind] = registry.bind(name, interface, min(version, most))
        elif kind == "wl_output" and not self._framed:
            screen = FramedOutput(registry.bind(name, WlOutput, min(version, 2)))
            self._screens[name] = screen

            def mode(_output: Any, flags: int, width: int, height: int, _: int) -> None:
                if flags & _CURRENT:
                    screen.sizes.update({(width, height), (height, width)})

            screen.proxy.dispatcher["mode"] = mode

    def _gone(self, _registry: Any, name: int) -> None:
        # guard: a share ends with its screen
        self._over |= name in self._framed

    def draw(self, size: Pair, position: Pair) -> bool:
        """Draw the frame on the matching screens; return if the compositor shows it."""
        for name, screen in meant(self._screens, size, position).items():
            self._framed.add(name)
            if "zwlr_layer_shell_v1" in self._globals:
                for edge in (_TOP, _BOTTOM):
                    self._strip(screen, edge | _LEFT | _RIGHT, 0, WIDTH)
                for edge in (_LEFT, _RIGHT):
                    self._strip(screen, edge | _TOP | _BOTTOM, WIDTH, 0)
        return self.await_drawn()

    def await_drawn(self) -> bool:
        """Wait for the compositor; return if it shows all surfaces."""
        while self._waiting and not self._over:
            self._display.dispatch(block=True)
        answered = self._display.roundtrip() >= 0
        return answered and bool(self._framed) and not self._over

    def _strip(
        self, screen: FramedOutput, anchor: int, width: int, height: int
    ) -> None:
        """Show a strip at an edge of a screen."""
        surface = self._globals["wl_compositor"].create_surface()
        region = self._globals["wl_compositor"].create_region()
        surface.set_input_region(region)
        shell = self._globals["zwlr_layer_shell_v1"]
        strip = shell.get_layer_surface(
            surface, screen.proxy, OVERLAY, "vitrail-screen-frame"
        )
        strip.set_size(width, height)
        strip.set_anchor(anchor)
        strip.set_exclusive_zone(self.zone)
        shown: list[Any] = []

        def configure(_strip: Any, serial: int, wide: int, high: int) -> None:
            # pywayland prints an exception of this function and continues.
            # guard: a share ends where its frame cannot be drawn
            over, self._over = self._over, True
            strip.ack_configure(serial)
            shown.append(self._buffer(wide, high))
            surface.attach(shown[-1], 0, 0)
            surface.damage_buffer(0, 0, wide, high)
            surface.commit()
            self._waiting -= len(shown) == 1
            self._over = over

        strip.dispatcher["configure"] = configure
        # guard: a share ends with its frame
        strip.dispatcher["closed"] = self._closed
        self._waiting += 1
        self._kept.append((surface, region, strip))
        surface.commit()

    def _closed(self, _strip: Any) -> None:
        self._over = True

    def _buffer(self, width: int, height: int) -> Any:
        """Create a buffer with the picture of a surface."""
        size = width * height * 4
        fd = os.memfd_create("vitrail-frame", os.MFD_CLOEXEC)
        try:
            os.pwrite(fd, b"\0", size - 1)  # it is this large then
            with mmap.mmap(fd, size) as memory:
                memory[:] = self._pixels(width, height)
            pool = self._globals["wl_shm"].create_pool(fd, size)
            made = pool.create_buffer(0, width, height, width * 4, _XRGB8888)
            pool.destroy()
        finally:
            os.close(fd)
        return made

    def _pixels(self, width: int, height: int) -> bytes:
        """Return XRGB8888 pixels of the frame's colour."""
        return self._colour * (width * height)

    def run(self) -> None:
        """Show the frame until its screen, or the compositor, has gone.

        Until there is a picture it is drawn again and again: a portal may pass on only
        what changes, and has been seen to lose the first of a still screen.
        """
        output = select.poll()
        output.register(OUTPUT, 0)
        while not self._over and not output.poll(_AGAIN_MILLISECONDS):
            for surface, _region, _strip in self._kept:
                surface.damage_buffer(0, 0, _EVERYTHING, _EVERYTHING)
                surface.commit()
            self._over |= self._display.roundtrip() < 0
        while not self._over:
            self._display.dispatch(block=True)


def _adding(pairs: set[Pair]) -> Callable[[object, int, int], None]:
    return lambda _proxy, one, other: pairs.add((one, other))


def main(colour: str, width: str, height: str, x: str, y: str) -> NoReturn:
    """Confine the process, draw the frame, and run until the compositor closes it."""
    set_name("vitrail-frame")
    adopt_display()
    confine_helper()
    frame = ScreenFrame(int(colour, 16))
    drawn = frame.draw((int(width), int(height)), (int(x), int(y)))
    # guard: a frame that is not drawn does not say so
    if drawn:
        os.write(OUTPUT, b"1")
        frame.run()
    # pywayland may crash when it frees what a connection has left.
    os._exit(not drawn)
