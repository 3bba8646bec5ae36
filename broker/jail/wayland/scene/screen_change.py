"""Windows after a screen has become smaller, or is gone.

A window that was as large as its screen would cover the new one without its frame.
The compositor's configure of before says nothing against that: to a floating window it
sends the size that the client chose itself, also once more after the change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core import limits
from broker.jail.wayland import screen_states
from broker.jail.wayland.model import FULLSCREEN, Popup, Toplevel, XdgSurface
from broker.jail.wayland.scene import placement, window_state
from broker.jail.wayland.scene.frame import NO_EDGES

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

Size = tuple[int, int]


def take_size(core: ClientState, role: Toplevel, offered: Size) -> None:
    """Record a configure's content size, as the compositor's own or as an echo.

    ``offered`` is the size of the whole window.

    Maximised, tiled or fullscreen it is the compositor's.  Otherwise a size that is no
    larger than the window may have been on the former screens (``role.former``) is
    its size of then, until the compositor has sent a size that fits the new screens.
    """
    real = screen_states.fills_screen(core, role)
    edges = NO_EDGES if real else core.edges_for(role)
    role.offered = offered
    size = shrink(offered[0], edges.wide), shrink(offered[1], edges.high)
    role.configured = size
    wide, high = core.screen()
    if role.bound or FULLSCREEN in role.states:
        role.imposed = size
        return
    if 0 < size[0] <= wide - edges.wide and 0 < size[1] <= high - edges.high:
        role.former = (0, 0)
    # guard: a size of the former screen is not the compositor's
    size = (
        size[0] if size[0] > role.former[0] else 0,
        size[1] if size[1] > role.former[1] else 0,
    )
    role.imposed = size


def shrink(size: int, by: int) -> int:
    """A size without the frame: 0 ("you choose") stays, at least 1 otherwise."""
    return max(1, size - by) if size > 0 else 0


def follow_screens(core: ClientState) -> None:
    """Lay windows out again if a screen is smaller than it was, or gone."""
    former, core.screen_sizes = core.screen_sizes, _sizes(core)
    if not _lost(former, core.screen_sizes):
        return
    largest = max(w for w, _ in former.values()), max(h for _, h in former.values())
    for xdg in list(core.windows):
        if isinstance(xdg.role, Toplevel):
            _shrink(core, xdg, xdg.role, largest)
    for xdg in list(core.windows):
        if isinstance(xdg.role, Popup) and xdg.mapped:
            _close_large(core, xdg, xdg.role)


def _sizes(core: ClientState) -> dict[int, Size]:
    """Return the sizes of the screens; one of unknown size without any."""
    sizes = {
        name: size
        for name, screen in core.screens.items()
        if (size := screen.size()) is not None
    }
    return sizes or {0: limits.WAYLAND_UNKNOWN_SCREEN}


def _lost(former: dict[int, Size], now: dict[int, Size]) -> bool:
    return any(
        (there := now.get(name)) is None or there[0] < w or there[1] < h
        for name, (w, h) in former.items()
    )


def _shrink(core: ClientState, xdg: XdgSurface, role: Toplevel, largest: Size) -> None:
    """Free a window of a size for a larger screen, and lay it out again."""
    frame, surface = xdg.frame, xdg.surface
    outer = (frame.outer if frame is not None else None) or (0, 0)
    role.former = (
        max(role.former[0], largest[0], outer[0]),
        max(role.former[1], largest[1], outer[1]),
    )
    if not (role.bound or FULLSCREEN in role.states):
        # guard: a size for a screen that is gone holds no more
        role.imposed = (0, 0)
    # guard: least sizes follow the screen
    window_state.size_hints(core, role)
    if frame is not None and surface is not None and xdg.mapped:
        # guard: windows are laid out for a smaller screen
        core.show_again(surface)


def _close_large(core: ClientState, xdg: XdgSurface, popup: Popup) -> None:
    """Hide a popup that is larger than the new screen allows."""
    edges = xdg.frame.edges if xdg.frame is not None else core.popup_edges
    most_w, most_h = placement.popup_cap(core, edges)
    w, h = popup.granted.size
    # guard: menus are not larger than the new screen
    if w > most_w or h > most_h:
        window_state.cut_loose(core, xdg, popup)
