"""Xwayland's surfaces: kept back until they have a role, then passed on.

Xwayland draws at once and knows no roles.  So everything up to the first configure is
held: the last buffer, frame callbacks, and whether there was a commit.
"""

from __future__ import annotations

from typing import Callable, List, Tuple

from shims.x11.core import Core
from shims.x11.objects import Maybe, WaylandObject
from shims.x11.pools import Pools
from shims.x11.window import HeldSurface
from shims.x11.wire import BridgeError

MOST_DAMAGE = 16
"""Rectangles of one commit; Xwayland sends one for each line of a shape."""
_EVERYWHERE = (0, 0, 1 << 20, 1 << 20)


def joined(damage: List[Tuple[int, ...]]) -> List[Tuple[int, ...]]:
    """Return few rectangles that cover all of these."""
    if len(damage) <= MOST_DAMAGE:
        return damage
    left, top = min(r[0] for r in damage), min(r[1] for r in damage)
    right, low = max(r[0] + r[2] for r in damage), max(r[1] + r[3] for r in damage)
    return [(left, top, right - left, low - top)]


class Surfaces:
    """Handles wl_surface; its users set what happens at commits and ends."""

    def __init__(self, core: Core, pools: Pools) -> None:
        self._core, self._relay, self._pools = core, core.relay, pools
        self.viewporter: Maybe = None
        self.on_new: Callable[[], None] = lambda: None
        self.on_held_commit: Callable[[HeldSurface], None] = lambda _: None
        self.on_commit: Callable[[HeldSurface], None] = lambda _: None
        self.on_end: Callable[[HeldSurface], None] = lambda _: None
        serve, region = core.relay.serve, self._region
        serve("wl_compositor", create_surface=self._create)
        serve("wl_surface", attach=self._attach, frame=self._frame)
        serve("wl_surface", damage=self._damage, damage_buffer=self._damage)
        serve("wl_surface", commit=self._commit, destroy=self._destroy)
        serve("wl_region", add=region("add"), subtract=region("subtract"))

    def show(self, surface: HeldSurface) -> None:
        """Send what was held; from now on messages pass."""
        surface.open = True
        self.fit(surface)
        if surface.buffer is not None and not surface.buffer.dead:
            self._attach(surface.proxy, surface.buffer, 0, 0)
            self._relay.ask(surface.proxy, "damage", *_EVERYWHERE)
        for callback in surface.frames:
            self._relay.raise_up(callback)
            self._relay.ask(surface.proxy, "frame", callback)
        surface.frames, surface.damage = [], []
        if surface.committed:
            self.on_commit(surface)
            self._relay.ask(surface.proxy, "commit")
        surface.committed = False

    def hide(self, surface: HeldSurface) -> None:
        """Take a surface from the screen, and keep it back again."""
        if surface.open:
            surface.open = False
            self._relay.ask(surface.proxy, "attach", None, 0, 0)
            self._relay.ask(surface.proxy, "commit")

    def fit(self, surface: HeldSurface) -> None:
        """Tell the size in logical pixels, and where the window is inside of shadows."""
        window, (w, h) = surface.window, surface.size
        if not w or (window is None and self._core.scale == 1):
            return
        extents = window.hints.extents if window is not None else (0, 0, 0, 0)
        wanted = (w, h, extents, self._core.scale, window is not None and window.xdg)
        if surface.fitted == wanted:
            return
        surface.fitted = wanted
        if self._core.scale != 1 and self.viewporter is not None:
            if surface.viewport is None:
                both = self.viewporter, "get_viewport", surface.proxy
                surface.viewport = self._relay.create(*both)
            size = self._core.logical(w), self._core.logical(h)
            self._relay.ask(surface.viewport, "set_destination", *size)
        if window is not None and window.xdg is not None and any(extents):
            left, right, top, bottom = extents
            size = max(1, w - left - right), max(1, h - top - bottom)
            place = self._core.logical(left), self._core.logical(top)
            inside = (*place, self._core.logical(size[0]), self._core.logical(size[1]))
            self._relay.ask(window.xdg, "set_window_geometry", *inside)

    def _create(self, compositor: WaylandObject, new: int) -> None:
        made = self._relay.create(compositor, "create_surface", down=new)
        made.data = self._core.surfaces[new] = HeldSurface(made)
        self.on_new()

    def _attach(self, proxy: WaylandObject, buffer: Maybe, *place: int) -> None:
        surface: HeldSurface = proxy.data
        surface.buffer = buffer
        if buffer is not None:
            surface.size = buffer.data.size
        if surface.open:
            self._pools.show(buffer)
            self._relay.ask(proxy, "attach", buffer, *place)

    def _damage(self, proxy: WaylandObject, *rectangle: int) -> None:
        # Buffers have no scale and no transform here, so both requests are equal.
        surface: HeldSurface = proxy.data
        if surface.open:
            surface.damage.append(rectangle)
            if len(surface.damage) > 64 * MOST_DAMAGE:
                surface.damage = joined(surface.damage)

    def _frame(self, proxy: WaylandObject, new: int) -> None:
        surface: HeldSurface = proxy.data
        if surface.open:
            self._relay.create(proxy, "frame", down=new)
        else:
            made = self._relay.make_local("wl_callback", 1, new)
            surface.frames.append(made)

    def _commit(self, proxy: WaylandObject) -> None:
        surface: HeldSurface = proxy.data
        if not surface.open:
            surface.committed = True
            self.on_held_commit(surface)
            return
        name = "damage_buffer" if proxy.version >= 4 else "damage"
        for rectangle in joined(surface.damage):
            self._relay.ask(proxy, name, *rectangle)
        surface.damage = []
        self.fit(surface)
        self.on_commit(surface)
        self._relay.ask(proxy, "commit")

    def _destroy(self, proxy: WaylandObject) -> None:
        surface: HeldSurface = proxy.data
        for callback in surface.frames:
            self._relay.forget(callback)
        self.on_end(surface)
        self._core.surfaces.pop(proxy.down, None)
        self._relay.release(surface.viewport)
        self._relay.release(proxy)

    def _region(self, name: str) -> Callable[..., None]:
        def handle(proxy: WaylandObject, x: int, y: int, w: int, h: int) -> None:
            if proxy.dead:
                raise BridgeError("Xwayland uses a region that it destroyed")
            core = self._core
            scaled = (int(x // core.scale), int(y // core.scale))
            sides = (core.logical(min(w, 1 << 20)), core.logical(min(h, 1 << 20)))
            core.relay.ask(proxy, name, *scaled, *sides)

        return handle
