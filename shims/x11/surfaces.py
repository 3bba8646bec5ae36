"""Xwayland's surfaces: kept back until they have a role, then passed on.

Xwayland draws at once and knows no roles.  So everything up to the first configure is
held: the last buffer, frame callbacks, and whether there was a commit.
"""

from __future__ import annotations

from shims.x11.core import BridgePart, Core
from shims.x11.objects import Maybe, WireObject
from shims.x11.pools import Pools
from shims.x11.window import HeldSurface

MOST_DAMAGE = 16
"""Rectangles of one commit; Xwayland sends one for each line of a shape."""
_EVERYWHERE = (0, 0, 1 << 20, 1 << 20)


def joined(damage: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return few rectangles that cover all of these."""
    if len(damage) <= MOST_DAMAGE:
        return damage
    left, top = min(r[0] for r in damage), min(r[1] for r in damage)
    right, low = max(r[0] + r[2] for r in damage), max(r[1] + r[3] for r in damage)
    return [(left, top, right - left, low - top)]


class Surfaces(BridgePart):
    """Handles wl_surface, and tells of new ones, commits and ends."""

    def __init__(self, core: Core, pools: Pools) -> None:
        super().__init__(core)
        self._pools = pools

    def show(self, surface: HeldSurface) -> None:
        """Send held messages; from now on messages pass."""
        surface.open = True
        self.fit(surface)
        if surface.buffer is not None and not surface.buffer.dead:
            self._wl_surface_attach(surface.proxy, surface.buffer, 0, 0)
            self._relay.ask(surface.proxy, "damage", *_EVERYWHERE)
        for callback in surface.frames:
            self._relay.raise_up(callback)
            self._relay.ask(surface.proxy, "frame", callback)
        surface.frames, surface.damage = [], []
        if surface.committed:
            self._core.tell("commit", surface)
            self._relay.ask(surface.proxy, "commit")
        surface.committed = False

    _on_cursor = show

    def hide(self, surface: HeldSurface) -> None:
        """Unmap a surface and hold it back again."""
        surface.fitted = None
        if surface.open:
            surface.open = False
            self._relay.ask(surface.proxy, "attach", None, 0, 0)
            self._relay.ask(surface.proxy, "commit")

    def fit(self, surface: HeldSurface) -> None:
        """Set a surface's size in logical pixels, and its place in shadows."""
        window, (w, h) = surface.window, surface.size
        if not w or (window is None and self._core.scale == 1):
            return
        extents = window.hints.extents if window is not None else (0, 0, 0, 0)
        wanted = (w, h, extents, self._core.scale, window is not None and window.xdg)
        if surface.fitted == wanted:
            return
        surface.fitted = wanted
        if self._core.scale != 1:
            if surface.viewport is None:
                makes = "wp_viewporter", "get_viewport"
                surface.viewport = self._core.extra(*makes, surface.proxy)
            size = self._core.logical(w), self._core.logical(h)
            self._relay.ask(surface.viewport, "set_destination", *size)
        if window is not None and any(extents):
            left, right, top, bottom = extents
            inside = left, top, max(1, w - left - right), max(1, h - top - bottom)
            sides = map(self._core.logical, inside)
            self._relay.ask(window.xdg, "set_window_geometry", *sides)

    def _wl_compositor_create_surface(self, compositor: WireObject, new: int) -> None:
        made = self._relay.create(compositor, "create_surface", down=new)
        made.data = self._core.surfaces[new] = HeldSurface(made)
        self._core.tell("new_surface")

    def _wl_surface_attach(self, proxy: WireObject, buffer: Maybe, *place: int) -> None:
        """Note a surface's buffer; pass it on if open."""
        surface: HeldSurface = proxy.data
        surface.buffer = buffer
        if buffer is not None:
            surface.size = buffer.data.size
        if surface.open:
            self._pools.show(buffer)
            self._relay.ask(proxy, "attach", buffer, *place)

    def _wl_surface_damage(self, proxy: WireObject, *rectangle: int) -> None:
        """Collect damage of an open surface."""
        # Buffers have no scale and no transform here, so both requests are equal.
        surface: HeldSurface = proxy.data
        if surface.open:
            surface.damage.append(rectangle)
            if len(surface.damage) > 64 * MOST_DAMAGE:
                surface.damage = joined(surface.damage)

    _wl_surface_damage_buffer = _wl_surface_damage

    def _wl_surface_frame(self, proxy: WireObject, new: int) -> None:
        surface: HeldSurface = proxy.data
        if surface.open:
            self._relay.create(proxy, "frame", down=new)
        else:
            surface.frames.append(self._relay.make_local("wl_callback", 1, new))

    def _wl_surface_commit(self, proxy: WireObject) -> None:
        """Commit an open surface with its damage; hold another."""
        surface: HeldSurface = proxy.data
        if not surface.open:
            surface.committed = True
            self._core.tell("held_commit", surface)
            return
        name = "damage_buffer" if proxy.version >= 4 else "damage"
        for rectangle in joined(surface.damage):
            self._relay.ask(proxy, name, *rectangle)
        surface.damage = []
        self.fit(surface)
        self._core.tell("commit", surface)
        self._relay.ask(proxy, "commit")

    def _wl_surface_destroy(self, proxy: WireObject) -> None:
        """Forget a destroyed surface."""
        surface: HeldSurface = proxy.data
        for callback in surface.frames:
            self._relay.forget(callback)
        self._core.tell("surface_end", surface)
        found = self._core.surfaces.items()
        self._core.surfaces = {key: one for key, one in found if one is not surface}
        self._relay.release(surface.viewport)
        self._relay.release(proxy)

    def _wl_region_add(self, region: WireObject, *rectangle: int) -> None:
        self._relay.ask(region, "add", *self._in_region(*rectangle))

    def _wl_region_subtract(self, region: WireObject, *rectangle: int) -> None:
        self._relay.ask(region, "subtract", *self._in_region(*rectangle))

    def _in_region(self, x: int, y: int, w: int, h: int) -> tuple[int, ...]:
        core, most = self._core, 1 << 20
        corner = int(x // core.scale), int(y // core.scale)
        return (*corner, core.logical(min(w, most)), core.logical(min(h, most)))
